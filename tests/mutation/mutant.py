"""The data of a mutant; see mutants.py."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """What is broken: the function, the piece of its source, the replacement, and what the change means."""

    where: str
    old: str
    new: str
    meaning: str
    #: The test that must fail, `module:function`, where simulations rarely reach the code; empty if simulations must notice it.
    test: str = ""
