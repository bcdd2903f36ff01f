"""Containers of a job (`container` and `services`): starting them, running scripts in one, and removing them.

Each part is a process of its own under the step runner, as the user of steps: no call of the Docker engine can block the agent,
which needs no access to it.
"""
