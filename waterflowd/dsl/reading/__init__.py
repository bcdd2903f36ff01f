"""Reads a file's bytes into a tree in which every value has its line and column."""
