"""Settings for every test: the developer's own settings are removed, and Hypothesis has no deadlines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.chance import IS_FULL
from tests.distribution import pytest_collection_modifyitems as pytest_collection_modifyitems
from tests.hanging_tasks import pytest_timeout_set_timer as pytest_timeout_set_timer

if TYPE_CHECKING:
    from tests.integration.temporal.server import Server

# On a busy machine examples may be slow, which is not a finding. A failing example prints a line that repeats it. In CI the
# examples are the same every time, so that a failure points at the change; in the nightly run (`make nightly`) and on a
# developer's machine they are random.
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
#: Variables that control the tests.
_STEERING = frozenset(
    {
        *("WATERFLOW_FAULT", "WATERFLOW_GOLDEN", "WATERFLOW_ROUNDS", "WATERFLOW_SCREENSHOTS", "WATERFLOW_SEED"),
        *("WATERFLOW_SWEEP", "WATERFLOW_REAL_WORKFLOWS"),
    }
)


@pytest.fixture(autouse=True)
def _own_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if (name.startswith(_PREFIXES) or name == "SERVER_GROUP") and name not in _STEERING:
            monkeypatch.delenv(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--engine temporal`: the acceptance tests, except those in `temporal`, run on the engine on Temporal."""
    parser.addoption("--engine", choices=["log", "temporal"], default="log", help="the engine of the acceptance tests")


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Temporal's real server, one for each test process. It is running at the beginning of each test."""
    # Here, because most test processes need no client of Temporal.
    from tests.integration.temporal.server import Server

    server = Server(tmp_path_factory.mktemp("temporal"))
    yield server
    server.close()
