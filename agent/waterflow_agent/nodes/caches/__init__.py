"""Nodes for caches."""
