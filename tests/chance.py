"""Random choices of tests: fixed during the day, so that a failure points at the change; new ones in the nightly run.

`WATERFLOW_SWEEP=full` (`make nightly`) selects the nightly run. `WATERFLOW_SEED` repeats a seed that a test has printed.
"""

from __future__ import annotations

import os
import random

#: Whether this is the nightly run, with more cases and random choices.
IS_FULL = os.environ.get("WATERFLOW_SWEEP") == "full"
#: The seed for moments and faults.
SEED = int(os.environ.get("WATERFLOW_SEED") or (random.SystemRandom().randrange(1 << 32) if IS_FULL else 2026))
