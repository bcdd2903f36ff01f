"""The services behind the API: agents, repositories, webhooks, the state of runs, and metrics.

`ports` declares what the API sees, and is all that it imports of this package. The other modules implement it over the host's
and the reconciler's objects; the composition root makes them.
"""
