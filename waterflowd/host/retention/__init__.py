"""Retention: which runs and which output are removed (`policy`), and the background work that removes them (`pruner`)."""
