"""The fuzzer's workflows and a few hundred mutations of them.

`python -m tests.fuzz.workflows SECONDS` runs longer; `WATERFLOW_ROUNDS` multiplies the number of mutations.
"""

from __future__ import annotations

import itertools
import os
import random

import pytest

from tests.fuzz import workflows

MUTATIONS = 300 * int(os.environ.get("WATERFLOW_ROUNDS", "1"))


@pytest.mark.parametrize("name", sorted(file.name for file in workflows.CORPUS.iterdir()))
def test_every_kept_workflow_ends_with_a_plan_or_explained_errors(name: str) -> None:
    """The corpus contains earlier findings and inputs that reach most of the code."""
    workflows.examine((workflows.CORPUS / name).read_bytes())


@pytest.mark.timeout(600 + MUTATIONS // 10)
def test_mutations_of_workflows_end_with_a_plan_or_explained_errors() -> None:
    """The mutations are the same every time; only longer runs of the fuzzer are random."""
    for content in itertools.islice(workflows.mutations(workflows.corpus(), random.Random(1)), MUTATIONS):
        try:
            workflows.examine(content)
        except workflows.Finding as finding:
            finding.add_note(f"input: {content!r}")
            raise
