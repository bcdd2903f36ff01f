"""From a file's bytes to a tree in which every value knows its line and column."""
