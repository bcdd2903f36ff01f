"""Scripts have the same effect on a real daemon with a real agent as on GitHub, or a diagnostic says what differs.

GitHub's side is `reference.py`: GitHub's own evaluator, values pasted into the script as text, GitHub's command line of the
shell, and the files that carry state to later steps. Compared are the arguments of programs, the files of the job's
directory with their modes, and the environment, outputs and exit codes that the last step sees.

`WATERFLOW_ROUNDS` multiplies the number of generated workflows, 40 per round. `WATERFLOW_SEED` chooses others.
`WATERFLOW_REAL_WORKFLOWS=FOLDER` also compares the scripts of all workflow files below a folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.chance import SEED
from tests.oracle import ci_files, workflows
from tests.oracle.comparison import DATA, PIPEFAIL, SAME, Comparison, Differs, Subject
from tests.oracle.github import GitHub
from tests.oracle.observing import write_programs

ROUNDS = int(os.environ.get("WATERFLOW_ROUNDS", "1"))
CASES = 40 * ROUNDS
#: Runs that are in progress at the same time.
BATCH = 10
FILES = Path(__file__).parent / "projects"
#: Seeds that once found a difference; see the tests of the scanner and of the step files for what it was.
FAILED_SEEDS: list[int] = []
#: What generated workflows may get: an expression without a safe reference, a directory for `PATH` that is none.
EXPECTED_CODES = {"WF128", "WF704"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 20 * CASES)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A daemon and one server of the group `web`."""
    made = Cluster(tmp_path_factory.mktemp("compared"))
    try:
        made.start_daemon()
        made.add_agent("web-1", "web")
        yield made
    finally:
        made.close()


def compared(comparison: Comparison, subjects: dict[str, Subject]) -> Counter[str]:
    """Returns how often there was each verdict; fails with all subjects that differ."""
    counts: Counter[str] = Counter()
    failed: list[str] = []
    names = list(subjects)
    for at in range(0, len(names), BATCH):
        batch = names[at : at + BATCH]
        for name, verdict in zip(batch, comparison.verdicts([subjects[name] for name in batch]), strict=True):
            if isinstance(verdict, Differs):
                failed.append(f"{name}: {verdict.text}")
            else:
                counts[verdict] += 1
    assert not failed, f"{len(failed)} of {len(names)} differ; the others: {dict(counts)}\n" + "\n\n".join(failed)
    return counts


def test_generated_scripts_have_github_s_effect(cluster: Cluster, evaluator: GitHub, tmp_path: Path) -> None:
    """Values with blanks, quotes, newlines, patterns and code come from every context, in every position of a script."""
    # given
    programs = tmp_path / "programs"
    write_programs(programs)
    first = SEED % 1_000_000
    cases = {seed: workflows.generated(seed) for seed in [*FAILED_SEEDS, *range(first, first + CASES)]}
    subjects = {
        f"seed {seed}": Subject(workflow=case.workflow, as_data=case.as_data, interpreted=case.is_interpreted)
        for seed, case in cases.items()
    }

    # when
    counts = compared(Comparison(cluster, evaluator, tmp_path, programs), subjects)

    # then
    print(f"{len(cases)} workflows: {dict(counts)}")
    assert counts.keys() <= {SAME, DATA, PIPEFAIL} | EXPECTED_CODES
    assert counts[SAME] > len(cases) // 3


def test_scripts_as_in_ci_files_have_github_s_effect(cluster: Cluster, evaluator: GitHub, tmp_path: Path) -> None:
    """Whole jobs as projects have them, whose programs record their arguments."""
    # given
    folder = Path(os.environ.get("WATERFLOW_REAL_WORKFLOWS") or FILES)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".yml", ".yaml"))
    jobs = [
        job
        for path in paths
        for job in ci_files.jobs(str(path.relative_to(folder)), path.read_text("utf-8", "replace"))
    ]
    programs = tmp_path / "programs"
    write_programs(programs, frozenset().union(*(job.recorders for job in jobs)))

    # when
    accepted = {job.name: ci_files.without_rejected(job.workflow) for job in jobs}
    subjects = {
        name: Subject(
            workflow=workflow, as_data=partial(ci_files.as_data, workflow), interpreted=ci_files.is_interpreted
        )
        for name, (workflow, _) in accepted.items()
    }
    counts = compared(Comparison(cluster, evaluator, tmp_path, programs), subjects)

    # then
    rejected = Counter(code for _, codes in accepted.values() for code in codes)
    scripts, unsuitable = sum(job.scripts for job in jobs), sum(job.unsuitable for job in jobs)
    suitable = scripts - unsuitable
    print(f"{len(jobs)} jobs: {dict(counts)}; {suitable} of {scripts} scripts, of which {dict(rejected)} are rejected")
    assert suitable - rejected.total() >= 40
    assert rejected.total() <= suitable // 10
