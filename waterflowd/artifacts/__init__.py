"""Artifacts on the daemon: files that the jobs of a run pass on, and that people download.

- `blocks.py`: blocks on disk, by digest.
- `records.py`: what is kept of each artifact, and where.
- `limits.py`: the limits, and how much of them is used.
- `store.py`: what agents may store. Blocking, for its own threads.
- `storage.py`: where the content is: in the data directory, or in a bucket (`bucket/`).
- `server.py`: answers the agents.
- `caches/`: cache entries, on the same blocks.
- `reruns.py`: the artifacts that a re-run keeps.
- `reading.py`: artifacts for the API, as files and as tar archives.
- `deletion.py`: removes an artifact on request, with the blocks that nothing else has.
- `metrics.py`: running totals.
- `cleaning.py`: removes what has expired, what belongs to removed runs, and unused blocks.
- `files.py`: the files of the whole store for backups and checks.
- `sealed_files.py`: small files that are whole or not there.
"""
