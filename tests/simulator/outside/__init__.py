"""The simulated surroundings: daemon, network, servers, repositories, disks and secret sources."""
