"""The node `file/transfer`: copies files from a source to a target, one after the other.

    Address ─▶ Source ─ list ─▶ SourceFile ... ─ read ─▶ Content ─▶ Target ─ write

An address names a source or target; there are four kinds, one module each: `local`, `s3`, `sftp`, `web`. A source lists its
files, whose names `names` checks, and reads them. `Content` counts and hashes the bytes, and releases the last ones only if
size and checksum are right. A target shows a file under its final name when it is complete, and leaves nothing behind
otherwise.
"""
