"""Backup, restore and salvage of a data directory."""
