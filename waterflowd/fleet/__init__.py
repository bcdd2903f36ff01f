"""The fleet: which agents may work (registry.py, the fold of events.py), and which are connected and run which attempts
(placement.py).

Pure: connections, time and keys come from outside as arguments.
"""
