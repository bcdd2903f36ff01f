"""The engine: what a run does next, as pure functions over events. No socket, file, clock, thread or dice in here.

    inputs ─▶ decide ─▶ events ─▶ evolve ─▶ state ─▶ moves ─▶ more events ... ─▶ outstanding ─▶ commands
              what happened       the fold           what follows by itself      what the host owes

- `step(run, input, now)` is the one chokepoint of the live path; `fold` over the log is the recovery path; both end in the
  same `evolve`, and `outstanding` derives from state alone what must be done. A property test holds them equal.
- The host makes events durable before it carries out commands. Commands may be carried out twice.
- `RequestSlot` is the one question that is answered inside the same batch: the fleet's answer comes back as an input.
- Time is the log's clock in ms and always an argument. Ids, and what only the outside knows, are in the inputs.
- A change of behaviour gets a number in flags.py, so that old logs replay under the rules they were written by.

Read state.py for what a run is, then one scenario under tests/golden, then step.py.
"""

from waterflowd.engine.fold.evolve import evolve, fold
from waterflowd.engine.outstanding import outstanding
from waterflowd.engine.state.runs import Run
from waterflowd.engine.step import Progress, step

__all__ = ["Progress", "Run", "evolve", "fold", "outstanding", "step"]
