"""The daemon with a short grace of retention: what ended seconds ago counts as ended yesterday. Arguments: those of waterflowd.

Nothing else differs: the same process, store and rounds of removal.
"""

from __future__ import annotations

import waterflowd.app.cli
from waterflowd.host.retention import policy, pruner

#: Longer than a retry of any client of the tests.
GRACE_MS = 5_000
PERIOD_S = 5.0

if __name__ == "__main__":
    policy.GRACE_MS = GRACE_MS
    pruner.FIRST_S = pruner.PERIOD_S = PERIOD_S
    waterflowd.app.cli.main(prog_name="waterflowd")
