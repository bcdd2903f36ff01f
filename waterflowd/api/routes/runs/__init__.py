"""Routes of runs: start, list, read, follow, explain, compare, approve, cancel and re-run."""
