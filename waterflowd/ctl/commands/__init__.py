"""The commands of `waterflowctl`; main.py maps each command to its module."""
