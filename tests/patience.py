"""How long tests wait for what normally takes milliseconds.

The whole suite runs in parallel on machines with two processors that others use too, so a limit says only that something will
never come; no test may depend on how soon it does. A failing wait names what it waited for, before pytest's own time-out
(`timeout` in pyproject.toml), which only has a stack to show.
"""

from __future__ import annotations

#: For one thing to happen, with the processes that have to start for it.
PATIENCE_S = 120.0
