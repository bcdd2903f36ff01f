"""The simulator notices when the product is broken; `make mutants` tries all mutants."""

from __future__ import annotations

import pytest

from tests.mutation import mutants
from tests.mutation.mutant import Mutant

#: One mutant of each component, chosen because it is noticed early, so that the test costs little.
QUICK = (
    "a report under another epoch counts",
    "a step is retried without limit",
    "messages are sent before the commit",
    "held slots are free after a restart",
    "results are sent once",
    "an attempt is never released",
)
QUICK_SEEDS_MAX = 100


@pytest.mark.parametrize("meaning", QUICK)
def test_broken_product_is_noticed(meaning: str) -> None:
    """The simulator notices the mutant within a limited number of simulations."""
    mutant = next(mutant for mutant in mutants.MUTANTS if mutant.meaning == meaning)

    assert mutants.hunt(mutant, QUICK_SEEDS_MAX) is not None


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=[f"{one.where}: {one.meaning}" for one in mutants.MUTANTS])
def test_every_mutant_applies_to_the_source(mutant: Mutant) -> None:
    """The source contains the replaced piece exactly once, and afterwards the function is restored."""
    function = mutants._function(mutant.where)
    before = function.__code__

    with mutants.alive(mutant):
        assert function.__code__ is not before

    assert function.__code__ is before


def test_meanings_differ() -> None:
    """Each meaning is unique, because it serves as the mutant's name."""
    assert len({mutant.meaning for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 50
