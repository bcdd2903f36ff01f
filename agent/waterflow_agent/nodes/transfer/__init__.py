"""The node `file/transfer`: from a place to a place, one file after the other.

    Address ─▶ a Source ─ find ─▶ SourceFile ... ─ read ─▶ Content ─▶ a Target ─ write

An address says which place; there are four kinds, a module each: `local`, `s3`, `sftp`, `web`. A source lists what it has
under names that `names` has checked, and reads one of them. `Content` counts and hashes what passes by, and gives the last
bytes only when all of it is as it should be. A target shows a file under its final name when it has all of it, and leaves
nothing behind when it has not.
"""
