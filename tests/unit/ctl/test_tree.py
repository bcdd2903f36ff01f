"""A run as a tree of lines: which parts are listed, which are only counted, and where they appear."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from waterflowd.ctl.display import pending_approvals, run_parts, run_tree
from waterflowd.ctl.display.event_lines import EventLines
from waterflowd.ctl.display.terminal import millis

_BEGAN, _ENDED = "2026-01-02T03:04:05.000Z", "2026-01-02T03:04:07.500Z"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def thing(identity: str, conclusion: str | None = "success", **more: Any) -> dict[str, Any]:
    status = "completed" if conclusion else "running"
    reason = (
        {"code": "exit-code", "text": "exit code 3"} if conclusion == "failure" else {"code": "started", "text": ""}
    )
    return {
        "id": identity, "name": identity, "status": status, "conclusion": conclusion, "outcome": conclusion,
        "reason": reason, "reused": False, "started_at": _BEGAN, "completed_at": _ENDED if conclusion else None, **more,
    }  # fmt: skip


def step(identity: str, conclusion: str | None = "success", **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"node": "shell", "attempts": [], "counts": {}, "blocks_total": 0, "blocks": []}
    return thing(identity, conclusion, **{**base, **more})


def job(identity: str, conclusion: str | None = "success", **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "agent": None, "kind": "steps", "calls": None, "tries": 1, "batch": None, "matrix": {}, "steps": [],
        "counts": {}, "jobs_total": 0, "jobs": [],
    }  # fmt: skip
    return thing(identity, conclusion, **{**base, **more})


def run(*jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts = {"number": 7, "created_at": _BEGAN, "revision": "abcdef0123456", "jobs": list(jobs), "approvals": []}
    return thing("01RUN", "success", **facts) | {"name": "deploy"} | more


def drawn(found: dict[str, Any], **options: bool) -> list[str]:
    return list(run_tree.lines(found, None, **options))


def servers(*words: str | None, listed: int | None = None) -> dict[str, Any]:
    children = [
        job(f"roll[web-{n}]", word, agent=f"web-{n}", steps=[step("one", word)]) for n, word in enumerate(words)
    ]
    counts: dict[str, int] = {}
    for word in words:
        counts[word or "running"] = counts.get(word or "running", 0) + 1
    return job("roll", None, kind="each", counts=counts, jobs_total=len(words), jobs=children[:listed])


def test_few_servers_are_all_listed_with_a_count() -> None:
    """Each server is listed with its steps, below a job that says how many have succeeded."""
    assert drawn(run(servers("success", "failure")))[1:] == [
        "└─ ● roll  1/2 servers, 1 failure",
        "   ├─ ✓ roll[web-0]  2.5s  on web-0",
        "   │  └─ ✓ one  2.5s",
        "   └─ ✗ roll[web-1]  2.5s  on web-1  exit code 3",
        "      └─ ✗ one  2.5s",
    ]


def test_of_many_servers_failed_and_running_ones_are_listed() -> None:
    """Failed and running ones are listed, with their steps if the tree is short; each other state gets one line."""
    words = [*["success"] * 20, "failure", None, *["queued"] * 3]
    found = servers(*words)
    found["counts"]["queued"] = 3
    lines = drawn(run(found))
    assert [line.split("  ")[0] for line in lines if "web-" in line] == ["", ""]
    assert any("20 more servers: success" in line for line in lines)
    assert any("3 more servers: queued" in line for line in lines)
    assert len(lines) == 8


def test_servers_omitted_from_the_response_are_counted() -> None:
    """The counts cover all servers, whatever the list contains."""
    lines = drawn(run(servers(*["failure"] * 200, listed=100)))
    assert any("188 more servers: failure" in line for line in lines)


def test_many_successful_servers_are_one_line() -> None:
    """The job's own count is enough."""
    assert drawn(run(servers(*["success"] * 50)))[1:] == ["└─ ● roll  50/50 servers"]


def test_iterations_are_below_their_loop_with_items_and_inner_steps() -> None:
    """The branches of a condition need no line of their own."""
    inner = step("check", node="condition", blocks_total=1, counts={"success": 1}, blocks=[
        {"index": 0, "name": "then", "item": None, "state": "success", "steps": [step("deep")]},
    ])  # fmt: skip
    passes: list[dict[str, Any]] = [
        {"index": n, "name": f"pass {n + 1}", "item": item, "state": state, "steps": [inner]}
        for n, (item, state) in enumerate([("x", "success"), ({"a": 1}, "running")])
    ]
    loop = step("all", None, node="loop", blocks_total=2, counts={"success": 1, "running": 1}, blocks=passes)
    assert drawn(run(job("a", None, steps=[loop])))[2:] == [
        "   └─ ● all  1/2 passes",
        "      ├─ ✓ pass 1: x",
        "      │  └─ ✓ check  2.5s",
        "      │     └─ ✓ deep  2.5s",
        '      └─ ● pass 2: {"a":1}',
        "         └─ ✓ check  2.5s",
        "            └─ ✓ deep  2.5s",
    ]


def test_of_many_iterations_unsuccessful_ones_are_listed() -> None:
    """The other passes are only counted."""
    passes: list[dict[str, Any]] = [
        {"index": n, "name": f"pass {n + 1}", "item": n, "state": "failure" if n == 30 else "success", "steps": []}
        for n in range(100)
    ]
    loop = step("all", None, node="loop", blocks_total=100, counts={"success": 99, "failure": 1}, blocks=passes)
    lines = drawn(run(job("a", None, steps=[loop])))
    assert [line.strip(" ├└─") for line in lines[3:]] == ["✗ pass 31: 30", "✓ 99 more passes: success"]


def test_a_calling_job_lists_the_jobs_of_the_called_workflow() -> None:
    """All of them are listed in order, with the path of the file."""
    called = job("deploy", kind="call", calls="workflows/d.yml", counts={"success": 2}, jobs_total=2, jobs=[
        job("deploy/check"), job("deploy/put"),
    ])  # fmt: skip
    assert drawn(run(called))[1:] == [
        "└─ ✓ deploy  2.5s  calls workflows/d.yml",
        "   ├─ ✓ deploy/check  2.5s",
        "   └─ ✓ deploy/put  2.5s",
    ]


def test_reused_and_retried_jobs_are_marked() -> None:
    """A reused job has nothing below it."""
    kept = job("build", reused=True, steps=[step("make")])
    batch = {"number": 2, "of": 5, "resume_at": None}
    lines = drawn(run(kept, job("deploy", None, tries=2, batch=batch, steps=[step("put")])))
    assert lines[1:] == ["├─ ✓ build  2.5s  reused", "└─ ● deploy  try 2  batch 2 of 5", "   └─ ✓ put  2.5s"]


def test_a_response_of_an_older_daemon_is_displayed() -> None:
    """Such an answer has no parts, counts or approvals."""
    old_step = {
        name: value for name, value in step("one").items() if name not in ("counts", "blocks", "blocks_total", "reused")
    }
    old = {name: value for name, value in job("a").items() if name in (*thing("a"), "agent")} | {"steps": [old_step]}
    found = run(old)
    del found["approvals"], old["reused"]
    assert drawn(found)[1:] == ["└─ ✓ a  2.5s", "   └─ ✓ one  2.5s"]
    assert list(pending_approvals.lines(found)) == []
    assert list(run_parts.reasons(found)) == []


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eevil"])
def test_names_from_outside_are_escaped(name: str) -> None:
    """Names of instances, items of loops, approvers and comments are escaped."""
    inner = {"index": 0, "name": "pass 1", "item": name, "state": "success", "steps": [step("x", name=name)]}
    loop = step("l", node="loop", blocks_total=1, counts={"success": 1}, blocks=[inner], name=name)
    found = run(job("a", steps=[loop], kind="call", calls=name, name=name, agent=name))
    approval = {
        "job": name, "step": None, "environment": name, "approvers": [name], "minimum": 1, "approved_by": [],
        "rejected_by": None, "self_approval": True, "due_at": None, "default": None,
        "reason": {"code": "waiting-approval", "text": name, "message": name},
    }  # fmt: skip
    text = "".join(itertools.chain(drawn(found), pending_approvals.lines(found | {"approvals": [approval]})))
    assert not set(text) & set("\x1b\n\u202e")


def test_a_pending_approval_names_approvers_minimum_and_deadline() -> None:
    """Each approval has one line and one command; the command names the part, quoted, if several parts are waiting."""
    approval = {
        "job": "roll[web-1]", "step": None, "environment": "prod", "approvers": ["alice", "bob"], "minimum": 2,
        "approved_by": ["bob"], "rejected_by": None, "self_approval": False, "due_at": None, "default": None,
        "reason": {"code": "waiting-approval", "text": "", "message": "now?"},
    }  # fmt: skip
    first, following, other = pending_approvals.lines(run(approvals=[approval]))
    assert other == following.replace("approve", "reject")
    assert first == (
        '◌ roll[web-1] waiting for alice, bob to approve "prod"; 1 of 2 approved; the starter may not approve: now?'
    )
    assert following == "next: waterflowctl approve 01RUN"
    *_, following, _ = pending_approvals.lines(run(approvals=[approval, approval | {"step": "gate"}]))
    assert following == "next: waterflowctl approve 01RUN 'roll[web-1]'"


def test_reasons_reach_every_part() -> None:
    """Instances and inner steps are named by the parts that other commands accept; omitted parts are mentioned."""
    inner = {"index": 0, "name": "pass 1", "item": 1, "state": "failure", "steps": [step("l[0]/x", "failure")]}
    loop = step("l", "failure", node="loop", blocks=[inner])
    found = run(
        job("roll", "failure", jobs_total=3, jobs=[job("roll[1]", "failure", steps=[loop])]), conclusion="failure"
    )
    assert [row.part for row in run_parts.reasons(found)] == [
        "run", "roll", "roll", "roll[1]", "roll[1]/l", "roll[1]/l[0]/x",
    ]  # fmt: skip


def test_a_failure_is_explained_once_at_the_part_that_failed() -> None:
    """What contains it, and what was skipped because of it, is listed without the reason."""
    inside = {"reason": {"code": "failed", "text": 'step "go": exit code 3'}}
    after = {"reason": {"code": "earlier-failure", "text": 'step "go" failed'}}
    unmet = {"reason": {"code": "needs", "text": 'job "a" failed'}}
    found = run(
        job("a", "failure", steps=[step("go", "failure"), step("later", "skipped", **after)], **inside),
        job("b", "skipped", steps=[step("one", "skipped", **unmet)], **unmet),
        conclusion="failure",
        reason={"code": "failed", "text": 'job "a": step "go": exit code 3'},
    )
    lines = drawn(found)
    assert [line for line in lines if "exit code 3" in line] == ["│  ├─ ✗ go  2.5s  exit code 3"]
    assert lines[-2:] == ["│  └─ – later  2.5s", '└─ – b  2.5s  job "a" failed']
    assert [row.part for row in run_parts.reasons(found) if not row.is_repeated] == ["a/go"]
    assert [row.part for row in run_parts.reasons(found) if row.is_repeated] == ["run", "a", "a/later", "b"]


def test_what_a_job_and_its_step_wait_for_is_said_once() -> None:
    """Both wait for a server, and have the same reason."""
    why = {"code": "no-server", "text": 'no server is enrolled in group "db"'}
    waiting = {"status": "waiting", "reason": why}
    found = run(job("a", None, steps=[step("go", None, **waiting)], **waiting), conclusion=None, status="running")
    assert [row.part for row in run_parts.reasons(found) if not row.is_repeated] == ["run", "a"]
    assert [row.part for row in run_parts.reasons(found)] == ["run", "a", "a/go"]


def test_a_failure_whose_part_is_not_in_the_answer_is_explained_where_it_is_known() -> None:
    """An answer has a bounded number of parts."""
    found = run(job("a", "failure", steps=[step("go")], reason={"code": "failed", "text": 'step "x": exit code 3'}))
    assert any('step "x": exit code 3' in line for line in drawn(found))
    assert [row.is_repeated for row in run_parts.reasons(found)] == [False]


def test_what_ended_everything_is_said_once_at_the_top() -> None:
    """A cancelled run is the reason of all of its parts."""
    why = {"code": "cancel-requested", "text": "cancelled by Ada"}
    found = run(
        job("a", "cancelled", steps=[step("go", "cancelled", reason=why)], reason=why),
        job("b", "failure", steps=[step("x", "failure")]),
        conclusion="cancelled",
        reason=why,
    )
    assert "\n".join(drawn(found)).count("cancelled by Ada") == 1
    assert [row.part for row in run_parts.reasons(found) if not row.is_repeated] == ["run", "b", "b/x"]


def test_the_time_until_the_next_attempt_counts_down() -> None:
    """The sentence has the duration of the moment when the decision was made; a screen has what is left of it."""
    waiting = {"code": "retry", "text": "attempt 1 failed (exit code 3); next attempt in 1 m 4 s"}
    found = run(job("a", None, steps=[step("go", None, reason=waiting, retry_at=_ENDED)]))
    due = millis(_ENDED)
    assert due is not None
    ends = {
        due - 3_700_000: "in 1h01m", due - 64_000: "in 1m04s", due - 8_001: "in 9s", due - 1: "in 1s",
        due: "now", due + 99_000: "now",
    }  # fmt: skip
    for now, end in ends.items():
        assert list(run_tree.lines(found, now))[-1].endswith(f"(exit code 3); next attempt {end}")
    assert drawn(found)[-1].endswith("next attempt in 1 m 4 s")


@pytest.mark.parametrize("columns", [40, 80])
def test_long_lines_of_a_tree_are_broken_between_words(columns: int) -> None:
    """The branches continue beside them, and the id of the run stays whole."""
    why = {"code": "node-error", "text": "the server did not answer within ten seconds, nor later " * 3}
    steps = [step("a step with a long name", "failure", reason=why), step("b")]
    inside = {"code": "failed", "text": "a step failed"}
    found = run(job("a", "failure", steps=steps, reason=inside), id="01M8RBQ2RY4VWN8YY0Q4KJHE4F", conclusion="failure")
    lines = list(run_tree.lines(found, None, columns=columns))
    assert max(map(len, lines)) <= columns
    assert any("01M8RBQ2RY4VWN8YY0Q4KJHE4F" in line for line in lines)
    begin = next(number for number, line in enumerate(lines) if "a step" in line)
    assert lines[begin + 1].startswith("   │    ")
    words = " ".join(line.lstrip(" │├└─") for line in lines)
    assert words.count(why["text"].strip()) == 1


def test_the_first_failed_attempt_is_found_inside_blocks() -> None:
    """The loop around it has no output and is not chosen."""
    inner = step("l[0]/x", "failure", attempts=[{"attempt": 1}])
    loop = step("l", "failure", node="loop", blocks=[{"steps": [inner]}])
    found = run(job("roll", "failure", jobs=[job("roll[1]", "failure", steps=[loop])]))
    assert run_parts.failed_step(found) == ("roll[1]", "l[0]/x")
    assert run_parts.failed_step(run(job("a"))) is None


def test_plain_output_names_inner_steps() -> None:
    """They are identified by their path, with the name that was rendered at their dispatch."""
    lines = EventLines(run(job("a", steps=[step("one")])))
    part = {"job": "a", "step": "l[0]/x", "at": _BEGAN}
    assert lines.text({"type": "attempt-dispatched", "name": "Deploy x", **part}) is None
    text = lines.text({"type": "step-completed", "conclusion": "success", "reason": {}, **part, "at": _ENDED})
    assert text is not None
    assert text.endswith("✓ a/l[0]/x (Deploy x): success in 2.5s")
    waits = lines.text({"type": "approval-requested", "reason": {"text": "waits for alice"}, "job": "a", "at": _BEGAN})
    assert waits is not None
    assert "◌ a: waits for alice" in waits
