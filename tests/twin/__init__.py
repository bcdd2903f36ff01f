"""The twin: an in-memory Temporal that runs the real shell, for tests.

The workflow code runs in the workflow instance of Temporal's own library, which gets activations and returns commands, exactly
as in a worker. What surrounds it is played here:

    core.py        what Temporal's library does around an instance: tasks, replay, local activities, eviction
    cluster.py     what Temporal's server does: event histories, tasks, activities, timers, signals, updates, resets
    daemon.py      a worker for streams, which may be killed between any two steps
    simulation.py  daemons, agents, senders and operators that act in a random order, which a seed determines
    runs.py        runs of workflows: the engine takes the turns, and agents answer the activities
    checks.py      what must hold whatever happens

It differs from the real server where a test gains by it: time is virtual, tasks can be lost between any two steps, and every
replay is compared with what was recorded. Payloads are not sealed. `tests/integration/temporal` compares with the real server.
"""
