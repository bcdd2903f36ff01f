"""Identical output of many servers is shown once, and nothing is lost."""

from __future__ import annotations

from typing import Any

from waterflowd.ctl.display.folding import LINES_MAX, OutputFolding


def printed(job: str, *texts: str, step: str = "one", attempt: int = 1) -> list[dict[str, Any]]:
    return [{"job": job, "step": step, "attempt": attempt, "text": text} for text in texts]


def displayed(*outputs: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    folding = OutputFolding()
    rows = folding.rows(iter([row for output in outputs for row in output]))
    return [f"{row['job']} {row['text']}" for row in rows], list(folding.notes())


def test_identical_output_of_many_servers_is_printed_once() -> None:
    """One line counts and names the other servers; different output is shown."""
    outputs = [printed(f"roll[web-{n}]", "a", "b" if n != 3 else "c") for n in range(10)]
    lines, notes = displayed(*outputs)
    assert lines == ["roll[web-0] a", "roll[web-0] b", "roll[web-3] a", "roll[web-3] c"]
    assert notes == [
        "roll[web-0]/one: same output on 8 others: roll[web-1]/one, roll[web-2]/one, roll[web-4]/one, roll[web-5]/one, "
        "roll[web-6]/one and 3 more"
    ]


def test_only_the_same_step_of_instances_of_one_job_is_folded() -> None:
    """Other steps, other jobs, jobs on one server, and a second attempt of the same step are not folded."""
    outputs = [
        printed("a", "x"), printed("b", "x"), printed("m[1]", "x"), printed("n[1]", "x"),
        printed("m[2]", "x", step="two"), printed("m[1]", "x", attempt=2),
    ]  # fmt: skip
    lines, notes = displayed(*outputs)
    assert (len(lines), notes) == (len(outputs), [])


def test_a_long_output_is_not_held_back() -> None:
    """It is passed on as it arrives, complete and in order."""
    texts = [str(number) for number in range(LINES_MAX + 10)]
    lines, notes = displayed(printed("m[1]", *texts), printed("m[2]", *texts))
    assert lines == [f"m[{n}] {text}" for n in (1, 2) for text in texts]
    assert notes == []
