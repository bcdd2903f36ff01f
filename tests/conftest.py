"""What holds for every test: nothing of the developer's own settings reaches in, and examples are not timed."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests.chance import IS_FULL

# A busy machine makes examples and their making slow; that is no finding. A failing one prints the line that repeats it. In CI
# the examples are the same every time, so that a red run says something about the change; in the night (`make nightly`) and
# on a developer's machine chance goes on looking.
hypothesis.settings.register_profile(
    "waterflow",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")) and not IS_FULL,
)
hypothesis.settings.load_profile("waterflow")

#: Settings of Waterflow and of Git that a developer may have exported.
_PREFIXES = ("WATERFLOW_", "WATERFLOWD_", "GIT_")
#: What tests are steered by.
_STEERING = frozenset({"WATERFLOW_FAULT", "WATERFLOW_GOLDEN", "WATERFLOW_ROUNDS", "WATERFLOW_SEED", "WATERFLOW_SWEEP"})


@pytest.fixture(autouse=True)
def _own_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if (name.startswith(_PREFIXES) or name == "SERVER_GROUP") and name not in _STEERING:
            monkeypatch.delenv(name)
