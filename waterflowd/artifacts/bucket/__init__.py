"""Artifacts in a bucket of S3 or a compatible service, for `artifacts.storage`.

- `settings.py`: which bucket, and the keys.
- `signing.py`: addresses that are valid for a few minutes. Pure.
- `blocks.py`: the blocks in the bucket, and the addresses that agents get.
- `storage.py`: carries out what agents ask for.
- `checking.py`: whether the bucket can be used, at the start and for `check-config --connect`.
- `cleaning.py`: removes blocks that no artifact has.

Content is in the bucket alone. Records, tables and lists of files are in the data directory, so backups have them.
"""
