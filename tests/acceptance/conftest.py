"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.temporal_cluster import TemporalCluster


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what concerns another engine."""
    if config.getoption("--engine") == "temporal":
        for item in items:
            if (marker := item.get_closest_marker("log_engine")) is not None:
                item.add_marker(pytest.mark.skip(reason=marker.args[0]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few tests run on both engines, also without `--engine temporal`."""
    is_of_both = metafunc.definition.get_closest_marker("both_engines") is not None
    if is_of_both and metafunc.config.getoption("--engine") == "log":
        metafunc.parametrize("engine_name", ["log", "temporal"], indirect=True)


#: Makes a cluster in a folder, of an engine; by default of that which `--engine` names.
MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def make_cluster(request: pytest.FixtureRequest) -> MakeCluster:
    """Makes clusters with nothing started. Their user closes them."""

    def make(folder: Path, engine: str | None = None) -> Cluster:
        if (engine or request.config.getoption("--engine")) == "temporal":
            return TemporalCluster(folder, request.getfixturevalue("temporal_server"))
        return Cluster(folder)

    return make


@pytest.fixture
def engine_name(request: pytest.FixtureRequest) -> str | None:
    """The engine of a test that runs on both; None for the one that `--engine` names."""
    return getattr(request, "param", None)


@pytest.fixture
def empty_cluster(tmp_path: Path, engine_name: str | None, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """A cluster with nothing started."""
    made = make_cluster(tmp_path, engine_name)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(empty_cluster: Cluster) -> Cluster:
    """A cluster with a daemon and two agents of the group `web`."""
    empty_cluster.start_with_two_agents()
    return empty_cluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """Such a cluster for tests that leave its processes running."""
    made = make_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start_with_two_agents()
        yield made
    finally:
        made.close()
