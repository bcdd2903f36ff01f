"""The dependency graph of jobs: every need exists, and there are no cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waterflow_agent.display import quote
from waterflowd.dsl.reading.tree import Document, Path
from waterflowd.dsl.reading.tree import Mapping as TreeMapping
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.model.wording import did_you_mean, listed

#: Jobs of a cycle that a message names.
_SHOWN_MAX = 10


def check_needs(
    needs: Mapping[str, Sequence[str]], document: Document, report: DiagnosticReport
) -> dict[str, tuple[str, ...]]:
    """The needs of each job that exist, without duplicates; reports unknown jobs and cycles."""
    jobs, _ = document.find(("jobs",))
    names = jobs.entries.keys() if isinstance(jobs, TreeMapping) else {}.keys()
    result: dict[str, tuple[str, ...]] = {}
    for job, needed in needs.items():
        for position, need in enumerate(needed):
            if need not in names:
                offset = _offset(document, job, position)
                text = f"unknown job {quote(need)} in needs"
                others = [name for name in names if name != job]
                report.add(offset, codes.UNKNOWN_JOB, text, did_you_mean(need, others) or _known(others))
            elif need in needed[:position]:
                at: Path = ("jobs", job, "needs", position)
                text = f"{quote(need)} is in needs twice"
                report.warn(document.value_start(at), codes.NO_EFFECT, text, "remove one of them")
        result[job] = tuple(dict.fromkeys(need for need in needed if need in needs))
    for cycle in _cycles(result):
        first, second = cycle[0], cycle[1]
        offset = _offset(document, first, list(needs[first]).index(second))
        shortened = cycle if len(cycle) <= _SHOWN_MAX else [*cycle[: _SHOWN_MAX - 1], "...", cycle[-1]]
        text = f"dependency cycle between jobs: {' -> '.join(shortened)}"
        report.add(offset, codes.CYCLE, text, "remove one of these needs")
    return result


def _known(names: Sequence[str]) -> str:
    return f"known jobs: {listed(names)}" if names else "the workflow has no other job"


def _offset(document: Document, job: str, position: int) -> int:
    return document.value_start(("jobs", job, "needs", position))


def _cycles(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Cycles as lists that begin and end with the same job; at least one in each strongly connected component."""
    cycles: list[list[str]] = []
    done: set[str] = set()
    for root in needs:
        if root in done:
            continue
        trail, on_trail = [root], {root}
        waiting = [iter(needs[root])]
        while waiting:
            need = next(waiting[-1], None)
            if need is None:
                waiting.pop()
                left = trail.pop()
                on_trail.discard(left)
                done.add(left)
            elif need in on_trail:
                cycles.append([*trail[trail.index(need) :], need])
            elif need not in done:
                trail.append(need)
                on_trail.add(need)
                waiting.append(iter(needs[need]))
    return cycles
