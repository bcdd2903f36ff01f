"""Waterflow: Git-driven workflows on your own servers that survive any crash."""

__version__ = "0.1.0"
