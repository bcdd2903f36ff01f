"""The agent's session with the daemon: socket, connection, and messages."""
