"""Secrets: the sources of the values that workflows refer to by name.

Rules of this package: the daemon has no secret store. A value is looked up when a task leaves for its agent; the log holds
only references. Sources on the daemon's host (`local_sources`) are read at once and not cached. Encrypted files in
repositories (`age`) and Vault (`vault`) take time: `secret_reader` reads them in the background and caches them for about a
minute, and a step that needs one waits without a slot. `sources` combines all of them.
"""
