"""The rules of the workflow language, each in one module."""
