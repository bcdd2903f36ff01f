"""What the agent remembers over a restart."""
