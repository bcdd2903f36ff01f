"""The daemon as a program: configuration, command line, composition, and life cycle."""
