"""What readers are shown of runs on Temporal.

stream_reader     the facts of a stream, read from its event history and followed
history           rows and events of runs: the port of readers
run_reader        the state of a run
terminated_runs   the end of runs whose workflow an operator has ended
run_watch         how many runs are open, and which are stalled: those of all daemons
open_runs         whether a namespace has open runs, for a daemon that is to change its engine
"""
