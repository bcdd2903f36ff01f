"""Reconcile: keeps the logged state of a repository equal to the repository.

Read in this order: `source` (the port to Git), `events` and `state` (what is logged), `diff` and `triggers` (what the update
of a ref means), `ref_updates` (the facts and runs of one transaction), `schedules`, `workflow_run` and `webhooks` (the other
triggers), `loop` (the only part with I/O).
"""
