"""The fuzzer's corpus and a few hundred mutations of it; `python -m tests.fuzz.expressions SECONDS` runs longer.

`WATERFLOW_ROUNDS` multiplies the number of mutations.
"""

from __future__ import annotations

import itertools
import os
import random

import pytest

from tests.fuzz import expressions

MUTATIONS = 400 * int(os.environ.get("WATERFLOW_ROUNDS", "1"))


@pytest.mark.parametrize("name", sorted(file.name for file in expressions.CORPUS.iterdir()))
def test_every_kept_input_ends_with_a_value_or_an_explained_error(name: str) -> None:
    """The corpus contains earlier findings and inputs that reach most of the code."""
    expressions.examine((expressions.CORPUS / name).read_bytes().decode("utf-8", "surrogatepass"))


@pytest.mark.timeout(600 + MUTATIONS // 10)
def test_mutations_of_kept_inputs_end_with_a_value_or_an_explained_error() -> None:
    """The mutations are the same every time; only longer runs of the fuzzer are random."""
    for text in itertools.islice(expressions.mutations(expressions.corpus(), random.Random(1)), MUTATIONS):
        try:
            expressions.examine(text)
        except expressions.Finding as finding:
            finding.add_note(f"input: {text!r}")
            raise
