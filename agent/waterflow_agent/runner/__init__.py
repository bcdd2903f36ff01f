"""The step runner: one small, long-lived process per agent directory that owns the steps' processes.

It starts, signals and reaps steps, reads their pipes, spools what they print and writes their exit results to disk. It
knows nothing of runs, leases or the daemon. It outlives the agent: an agent that is killed, restarted or upgraded
connects again and finds its steps.

Rules of this package
- Standard library alone, and little of it (no asyncio, subprocess, typing, dataclasses): the process stays small, and
  an upgrade of anything else cannot break a step that runs. Types are imported for the type checker only.
- One thread, one `epoll`, nothing polled: ends of processes arrive by SIGCHLD and pidfds, output by readable pipes.
- Written before told: a result is on disk before the agent hears of it.
- A name is started at most once: its `record`, begun before the process, is the gate.
- An outcome nobody can know is `lost`, never a success.

Modules, in reading order: `protocol` (frames and requests), `spool` (output on disk), `directory` (an attempt's files),
`processes` and `cgroup` (finding and signalling what a step left), `spawn`, `step` (the life of one step), `loop`, `link`
(the agent's connection), `service`, `recovery` (after the runner itself was killed), `__main__`. For the agent's process
only: `reports` (typed messages) and `attempts` (directories made and used again).
"""
