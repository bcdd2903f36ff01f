"""The host's side of its agents: who may become one, what it still has to do, and what it reports and prints.

handler.py handles the agents' reports and settles with them, by what attempts.py knows; outputs.py stores what steps print, as
far as output_admission.py admits it; file_server.py sends repository files; enrollment.py approves agents; identities.py binds
each key to its machine.
"""
