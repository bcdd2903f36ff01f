"""What `waterflowctl validate` reads and writes."""
