"""Artifacts on the daemon: files that the jobs of a run pass on, and that people download.

- `blocks.py`: blocks on disk, by digest.
- `records.py`: what is kept of each artifact, and where.
- `store.py`: what agents may store, with the limits. Blocking, for its own threads.
- `server.py`: answers the agents.
- `reruns.py`: the artifacts that a re-run keeps.
- `reading.py`: artifacts for the API, as files and as tar archives.
- `deletion.py`: removes an artifact on request, with the blocks that nothing else has.
- `metrics.py`: running totals.
- `cleaning.py`: removes what has expired, what belongs to removed runs, and unused blocks.
- `files.py`: the files of the whole store for backups and checks.
"""
