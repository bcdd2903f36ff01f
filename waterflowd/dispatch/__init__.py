"""The daemon's side of the link to agents: two CURVE-encrypted ports, who may use them, and the sessions behind them.

`link.Dispatch` is what the composition root builds. `router` is a socket, `zap` decides who may connect, `handshake` whether a
session opens, `sessions` what a connected agent may send, `clone_detection` tells a clone from a restart, `enrollment` turns a
stranger into an agent, `keys` holds the daemon's key pair, `rejections` counts and logs what was refused, and `lowering` turns
an attempt into a task.
"""
