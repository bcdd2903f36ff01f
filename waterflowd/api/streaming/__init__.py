"""Streams of events and output, as server-sent events or newline-delimited JSON."""
