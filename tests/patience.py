"""How long tests wait for events that normally take milliseconds.

The suite runs in parallel on shared machines with two processors, so reaching the limit only means that something will never
happen; no test may depend on how fast it does. A failing wait names what it waited for, before pytest's own timeout
(`timeout` in pyproject.toml), which only shows a stack.
"""

from __future__ import annotations

#: For a single event, including the start of its processes.
PATIENCE_S = 120.0
