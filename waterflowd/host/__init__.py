"""The host: drives the engine. Takes inputs, makes their events durable, and only then lets anybody see them.

driver.py owns the open runs and is the single writer; batch.py is what one transaction is made of; agents.py settles and
hears agents, outputs.py keeps what steps print; enrollment.py lets agents in; timers.py and clock.py are time; feed.py and
queries.py show what is durable. The host knows neither LMDB nor ZeroMQ nor HTTP: they come in through ports.
"""
