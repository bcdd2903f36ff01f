"""Caches: files that runs leave for later runs of the same repository.

- `entries.py`: what an entry consists of. Pure.
- `matching.py`: which entry a step gets. Pure; the daemon uses it as well.
- `selection.py`: the files that a step saves, and where they belong when they are restored.
- `server_entries.py`: the entries that a server keeps itself.
- `service.py`: answers the steps that use them.
"""
