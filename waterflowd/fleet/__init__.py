"""The fleet: which agents may work (registry.py, the fold of events.py), who is connected, and who gets what (placement.py).

Pure: connections, time and keys come from outside as arguments.
"""
