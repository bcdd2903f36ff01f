"""Randomness in tests: reproducible in CI, fresh in the nightly run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

_SHOW = (
    "import hypothesis, tests.conftest, tests.chance as chance; print(hypothesis.settings().derandomize, chance.SEED)"
)


def _drawn(**steering: str) -> tuple[str, str]:
    """Returns whether examples are derandomized, and the seed, in tests started with this environment."""
    named = ("CI", "WATERFLOW_SWEEP", "WATERFLOW_SEED")
    environment = {name: value for name, value in os.environ.items() if name not in named} | steering
    done = subprocess.run(
        [sys.executable, "-c", _SHOW],
        cwd=Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    derandomized, seed = done.stdout.split()
    return derandomized, seed


@pytest.mark.parametrize(
    ("steering", "is_same", "seed"),
    [
        ({}, "False", "2026"),
        ({"CI": "true"}, "True", "2026"),
        ({"CI": "true", "WATERFLOW_SEED": "7"}, "True", "7"),
        ({"CI": "true", "WATERFLOW_SWEEP": "full", "WATERFLOW_SEED": "7"}, "False", "7"),
    ],
    ids=["at home", "in CI", "in CI, again", "in the night, again"],
)
def test_draws_are_the_same_in_ci_and_seeds_every_day(steering: dict[str, str], is_same: str, seed: str) -> None:
    """CI always uses the same examples; an explicit seed from a failed test takes precedence."""
    assert _drawn(**steering) == (is_same, seed)


def test_nightly_runs_use_different_seeds() -> None:
    """Nightly runs use different seeds."""
    assert len({_drawn(CI="true", WATERFLOW_SWEEP="full")[1] for _ in range(3)}) > 1
