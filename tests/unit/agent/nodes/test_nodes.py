"""Nodes inside the agent, their parameters, and the outcomes of exited processes."""

from __future__ import annotations

import sys

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import exits, instant, parameters, registry, schema
from waterflow_agent.runner.reports import StepResult


def result(reason: str = "exited", exit_code: int | None = 0, signal: int | None = None) -> StepResult:
    return StepResult(
        exit_code=exit_code, signal=signal, reason=reason, started_at=1, finished_at=2, output_bytes=0, output_dropped=0
    )


def test_log_prints_one_line() -> None:
    """The message is followed by exactly one newline."""
    assert instant.run(schema.Log(message="hi")).printed == [(1, b"hi\n")]
    assert instant.run(schema.Log(message="hi\n")).printed == [(1, b"hi\n")]


def test_fail_reports_its_exit_code_and_message() -> None:
    """It fails like a process with this exit code would."""
    end = instant.run(schema.Fail(message="why", exit_code=75))

    assert (end.outcome, end.exit_code, end.reason_text) == (Outcome.FAILURE, 75, "why")


@pytest.mark.parametrize(
    ("name", "package"), [("http/wait", "httpx"), ("notify/webhook", "httpx"), ("docker/run", "docker")]
)
def test_a_package_that_is_missing_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    """The message contains the command that installs the package."""
    for module in ("http", "webhook", "docker"):
        monkeypatch.delitem(sys.modules, f"waterflow_agent.nodes.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Rejected, match='pip install "waterflow-agent') as caught:
        registry.load(name)
    assert (caught.value.code, f"needs the package {package};" in caught.value.text) == ("WF708", True)


def test_outputs_of_any_type_are_set() -> None:
    """They are set unchanged, within the limit for all outputs."""
    values = {"n": 1, "list": [None, 1.5], "map": {"a": "b"}}

    assert instant.run(schema.SetOutputs(outputs=values)).outputs == values
    assert instant.run(schema.SetOutputs(outputs={"a": "x" * (1 << 20)})).outcome is Outcome.FAILURE


@pytest.mark.parametrize("name", ["shell", "exec/shell", "log", "log@v1"])
def test_nodes_are_found_by_name_alias_and_version(name: str) -> None:
    """Every name, alias and version of a built-in node of the agent is found."""
    assert parameters.find(name).runs_in is not schema.RunsIn.ENGINE


@pytest.mark.parametrize("name", ["sleep", "no/such", "workflow/run", ""])
def test_node_that_does_not_run_on_agents_is_refused(name: str) -> None:
    """Unknown nodes and those of the engine are refused."""
    with pytest.raises(Rejected, match="WF701"):
        parameters.find(name)


@pytest.mark.parametrize(
    ("params", "expected_message"),
    [
        ({}, 'missing key "message"'),
        ({"message": 1}, "with.message: expected text, not a whole number"),
        ({"message": "x", "mesage": "y"}, 'unknown key "mesage"'),
    ],
)
def test_wrong_parameter_is_named(params: dict[str, object], expected_message: str) -> None:
    """The message names the field and says what was expected."""
    with pytest.raises(Rejected) as caught:
        parameters.convert("log", schema.Log, params)

    assert expected_message in caught.value.text


@pytest.mark.parametrize(
    ("ended", "outcome", "code", "expected_message"),
    [
        (result(), Outcome.SUCCESS, "", ""),
        (result(exit_code=3), Outcome.FAILURE, "exit-code", "exit code 3"),
        (result(exit_code=None, signal=9), Outcome.FAILURE, "signal", "SIGKILL"),
        (result("timed-out", None, 15), Outcome.TIMED_OUT, "timeout", "timed out after 2 min"),
        (result("cancelled", None, 15), Outcome.CANCELLED, "cancel-requested", "somebody"),
        (result("spawn-failed", None), Outcome.FAILURE, "spawn-failed", "could not be started"),
        (result("lost", None), Outcome.LOST, "outcome-unknown", "unknown"),
        (result("from the future", 0), Outcome.LOST, "outcome-unknown", "unknown"),
    ],
)
def test_exit_of_a_process_is_an_outcome(ended: StepResult, outcome: Outcome, code: str, expected_message: str) -> None:
    """Only exit code 0 is a success; an outcome that this version does not know is lost."""
    end = exits.interpret(ended, timeout_ms=120_000, cancel_reason="somebody")

    assert (end.outcome, end.reason_code) == (outcome, code)
    assert expected_message in end.reason_text
