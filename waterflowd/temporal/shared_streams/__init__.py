"""Streams that several daemons write and follow: each daemon appends what it decides, and folds what all have appended.

append_turns   the turns of such a stream: appends facts at an expected position
subscriber       reads the facts as they are recorded, and knows whether it is up to date
writer         appends, and decides again when another daemon was faster
"""
