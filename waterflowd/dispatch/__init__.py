"""The daemon's side of the link to agents: two CURVE-encrypted ports, and the sessions behind them.

The composition root builds `link.Dispatch`. `router` wraps a socket; `zap` decides who may connect, `handshake` whether a
session opens, `sessions` what a connected agent may send. `clone_detection` distinguishes a clone from a restart,
`enrollment` answers new agents, `keys` has the daemon's key pair, `rejections` counts and logs rejected messages and
connections, and `lowering` builds the task of an attempt.
"""
