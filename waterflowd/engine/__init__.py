"""The engine: what a run does next, as pure functions over events. No sockets, files, clocks, threads or randomness.

    inputs ─▶ decide ─▶ events ─▶ evolve ─▶ state ─▶ moves ─▶ more events ... ─▶ outstanding ─▶ commands
              what happened       the fold           what follows from it        what the host must do

- `step(run, input, now)` is the only entry point of the live path; `fold` over the log is the recovery path; both end in the
  same `evolve`, and `outstanding` derives the required commands from state alone. A property test checks that both agree.
- The host makes events durable before it executes commands. Commands may be executed twice.
- Some commands, such as `RequestSlot`, are answered inside the same turn: the answer comes back as an input.
- Time is the log's time in ms and always an argument. Ids, and everything known only outside the run, are in the inputs.
- A change of behaviour gets a number in flags.py, so that an old log is replayed under the rules of its time.

Read state/runs.py first, then one scenario under tests/golden, then step.py.
"""

from waterflowd.engine.fold.evolve import evolve, fold
from waterflowd.engine.outstanding import outstanding
from waterflowd.engine.state.runs import Run
from waterflowd.engine.step import Progress, step

__all__ = ["Progress", "Run", "evolve", "fold", "outstanding", "step"]
