"""Reconcile: makes what the log says about a repository equal to what the repository holds.

Read in this order: `source` (what is asked of Git), `events` and `state` (what the log remembers), `diff` and `triggers`
(what a movement of a ref means), `movement` (facts and starts of one transaction), `loop` (the only part with I/O).
"""
