"""What follows from the state of a run by itself, one event at a time."""
