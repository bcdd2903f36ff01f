"""What tests leave to chance: the same every day, so that a red run says something about the change; new draws in the night.

`WATERFLOW_SWEEP=full` (`make nightly`) is the night. `WATERFLOW_SEED` repeats what one of its tests has printed.
"""

from __future__ import annotations

import os
import random

#: Whether this is the night: more of everything, and by chance.
IS_FULL = os.environ.get("WATERFLOW_SWEEP") == "full"
#: Of moments and of faults.
SEED = int(os.environ.get("WATERFLOW_SEED") or (random.SystemRandom().randrange(1 << 32) if IS_FULL else 2026))
