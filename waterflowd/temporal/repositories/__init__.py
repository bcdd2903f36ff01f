"""Repositories on Temporal: one stream each, which every daemon follows, and one daemon that leads the repository.

ledger             what the stream says: the repository's state, its leader, its runs and their keys
repository_turns   the turns of the stream
streams            follows and changes the streams
leadership         carries out the activity `keep`: leads repositories, or follows them
"""
