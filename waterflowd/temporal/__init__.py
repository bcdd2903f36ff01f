"""The engine on a Temporal cluster: the same workflows, without the daemon's own log. An extra (`waterflow[temporal]`).

Only this package imports Temporal's client. It holds

- `workflow`: the code of every stream, which decides nothing, and what it exchanges with a daemon;
- `run_turns`, `run_commands`, `own_slots`, `facts`: the turns of runs, what they have the shell do, and what they record;
- `streams`, `runs`, `updates`: the daemon's worker for streams; starting runs, and requests to them;
- `reading`: what readers are shown of runs;
- `coordination`: what runs have to do with one another, such as locks;
- `repositories`, `shared_streams`: the streams that all daemons follow;
- `orders`, `received_orders`: what the activities of a run tell its gateway, and the names of queues and activities;
- `gateway`: the daemon as its agents see it, which carries out those activities;
- `cluster`, `check`: the connection to a cluster, and what the cluster lacks;
- `sealing`: how values are stored in Temporal.
"""
