"""Input and output formats of `waterflowctl validate`."""
