"""Checkers of the promises: what must hold after each event, and at the end."""
