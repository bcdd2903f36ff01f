"""The commands of `waterflowctl`, one module per command."""
