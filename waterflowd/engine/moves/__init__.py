"""The events that follow from the state of a run alone, one at a time."""
