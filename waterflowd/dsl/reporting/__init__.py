"""Errors and warnings about a file: their codes, their locations, and how they are printed."""
