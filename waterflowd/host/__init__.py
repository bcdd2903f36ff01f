"""The host: drives the engine. It takes inputs, makes their events durable, and only then acts on them and shows them.

driver.py owns the open runs (live_state.py) and is the single writer; batch.py builds one transaction; turn.py calls the engine
for one run; answers.py and fleet_requests.py answer for slots, servers and locks; recovery.py resumes runs after a restart;
child_runs.py and child_run_starter.py start child runs. agents/ handles agents. feed.py, history.py and queries.py read
durable data; run_logging.py and metrics.py report it.

The host knows neither LMDB nor ZeroMQ nor HTTP: they are behind ports.
"""
