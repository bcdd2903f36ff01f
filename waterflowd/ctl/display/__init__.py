"""How runs, events and tables are shown on a terminal."""
