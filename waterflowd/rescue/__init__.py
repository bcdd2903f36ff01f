"""Backup, restore and salvage of a data directory, and the rotation of its keys."""
