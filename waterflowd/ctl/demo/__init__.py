"""The processes, the daemons and the repository of `waterflowctl demo`."""
