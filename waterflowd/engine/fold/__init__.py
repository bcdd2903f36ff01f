"""How an event changes the state of a run: the only code that writes it."""
