"""Artifacts: files of a run that its jobs pass on, through the daemon.

- `content.py`: what an artifact consists of, and the limits of names and paths. Pure; the daemon reads it as well.
- `patterns.py`: the files that the patterns of a step select.
- `relay.py`: the agent's part, which passes the requests of running steps to the daemon.
- `channel.py`: the step's part, a connection to the relay that survives a restart of the agent.
"""
