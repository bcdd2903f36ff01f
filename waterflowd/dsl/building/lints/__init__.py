"""Lints: warnings about mistakes that are not errors."""
