"""How the daemon composes what artifacts and caches need.

- `parts.py`: the parts for agents, for the API, and for removal.
- `bucket.py`: the bucket of `artifacts.storage`.
"""
