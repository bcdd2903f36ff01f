"""The simulated outside: daemon, network, servers, repositories, disks and secret sources."""
