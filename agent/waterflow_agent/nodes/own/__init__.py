"""Own nodes of a server: found, loaded, and checked."""
