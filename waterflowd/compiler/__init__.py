"""Compiles workflow files in a child process."""
