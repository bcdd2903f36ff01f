"""The state of one run, as the fold of its events."""
