"""The processes and the repository of `waterflowctl demo`."""
