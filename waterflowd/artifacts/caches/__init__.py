"""Caches on the daemon: files that later runs of a repository can restore, by key. Their content is in artifacts' blocks.

- `records.py`: what is kept of each entry.
- `store.py`: finds, stores and removes entries, with the limits. Blocking, for the threads of the artifacts.
- `origins.py`: which entries a run may read and write.
- `requests.py`: answers the agents.
- `admin.py`: lists and deletes entries, for the API.
"""
