"""The engine on a Temporal cluster: the same workflows, without the daemon's own log. An extra (`waterflow[temporal]`).

Only this package imports Temporal's client. It holds

- `shell`: the workflow code, which decides nothing;
- `run_turns`, `run_commands`, `facts`: the turns of runs, what they have the shell do, and what they record;
- `streams`, `runs`: the daemon's worker for streams; starting runs, and requests to them;
- `history`, `run_reader`, `stream_reader`: what Temporal has recorded of runs;
- `coordination`: what runs have to do with one another, such as locks;
- `orders`: what the activities of a run tell its gateway, and the names of queues and activities;
- `gateway`: the daemon as its agents see it, which carries out those activities;
- `messages`, `turns`: what the shell and the daemon tell each other, and the activities that the daemon offers to it;
- `cluster`, `check`: the connection to a cluster, and what the cluster lacks;
- `codec`, `payload_keys`, `converter`: how values are stored in Temporal, sealed.
"""
