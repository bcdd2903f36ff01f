"""GitHub's evaluator for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import npm
from tests.oracle import github


@pytest.fixture(scope="module")
def evaluator(pytestconfig: pytest.Config) -> Iterator[github.GitHub]:
    """GitHub's evaluator, running."""
    if program := npm.missing_program():
        pytest.skip(f"{program} is not installed; it runs GitHub's evaluator")
    assert pytestconfig.cache is not None
    try:
        folder = npm.installed(github.FILES, pytestconfig.cache.mkdir("github-expressions"))
    except npm.Unavailable as error:
        pytest.skip(str(error))
    with github.GitHub(folder) as running:
        yield running
