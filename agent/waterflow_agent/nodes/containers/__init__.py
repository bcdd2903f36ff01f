"""Containers of a job (`container` and `services`): starting them, running scripts in one, and removing them.

Each part is a process of its own under the step runner or the agent, so no call of the Docker engine can block the agent.
"""
