"""What a mutant is; see mutants.py."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """What is broken: the function, the piece of its source, what stands there instead, and what that means."""

    where: str
    old: str
    new: str
    meaning: str
    #: The test that must fail, `module:function`, where worlds rarely come to it; empty: worlds must.
    test: str = ""
