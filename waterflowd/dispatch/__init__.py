"""The daemon's side of the link to agents: two ports with CURVE, who may use them, and the sessions behind them.

`link.Dispatch` is what the composition root builds. `router` knows sockets, `zap` who may connect, `sessions` and `greeting`
what a connected agent may say, `rivals` how a clone is told from a restart, `enrol` how a stranger becomes an agent, `keys` the
daemon's own key, `refusals` what is told about those who were turned away, `lowering` how an attempt becomes a task.
"""
