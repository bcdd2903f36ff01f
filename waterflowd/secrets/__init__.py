"""Secrets: where the values come from that workflows name and never hold.

Rules of this package: there is no store of our own. A value is looked up when a task leaves for its agent; the log holds
references alone. What is on the daemon's host (`own`) is read at once and kept nowhere. Encrypted files in repositories
(`age`) and Vault (`vault`) take time: they are read beside the loop (`readings`), kept in memory for a minute or so, and what
needs them waits without a slot. `sources` is the one door.
"""
