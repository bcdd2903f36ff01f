"""The Waterflow agent. It never sees workflow files or Git: the daemon sends it tasks."""

__version__ = "0.1.0"
