"""One resource of the API per module."""
