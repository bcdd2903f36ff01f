"""The workflow code of every stream, and what it exchanges with a daemon. It imports nothing of the engine.

messages           inputs, commands, a turn's request and result
shell              inputs, turns, stalls, new executions; decides nothing
command_executor   the timers, activities and signals in flight
turns              the local activities that a daemon offers to the shell
"""
