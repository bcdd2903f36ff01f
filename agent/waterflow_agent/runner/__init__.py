"""The step runner: one small, long-lived process per agent directory that owns the steps' processes.

It starts, signals and reaps steps, reads their pipes, spools what they print and writes their exit results to disk. It
knows nothing of runs, leases or the daemon. It outlives the agent: an agent that is killed, restarted or upgraded
connects again and finds its steps.

Rules of this package
- Standard library only, and little of it (no asyncio, subprocess, typing, dataclasses), besides the version, the errors and the
  clock: the process stays small, and no upgrade can break a running step. Types are imported for the type checker only.
- One thread, one `epoll`, no polling: SIGCHLD and pidfds report exits, readable pipes report output.
- Write first: a result is on disk before it is sent to the agent.
- A name is started at most once: its `record`, which is written before the process starts, makes sure of that.
- A process of a step is a descendant of the runner (its reaper), and cannot connect to it as its agent.
- An unknown outcome is `lost`, never a success.

Modules, in reading order: `protocol` (frames and requests), `spool` (output on disk), `attempt_directory` (the files of one
attempt), `processes` and `cgroup` (finding and signalling the processes of a step), `spawn`, `step` (the life of one step),
`event_loop`, `agent_connection`, `service`, `recovery` (after the runner itself was killed), `__main__`. Used only by the
agent's process: `reports` (typed messages) and `directory_pool` (directories that are reused).
"""
