"""The own log of daemon and agent: the format of entries, with any content."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from waterflow_agent import logs
from waterflowd.app.logs import RateLimit
from waterflowd.engine import events
from waterflowd.host import run_logging
from waterflowd.model.ids import AttemptNo, JobId, StepId
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.model.statuses import Conclusion, Outcome

HOSTILE = "a\nERROR forged\r\x1b[2J\x9b\u202e\u2028\x00\ud800end"


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("waterflow.test").makeRecord(
        "waterflow.test", level, "", 0, message, arguments, None, extra=extra
    )


def test_a_text_entry_has_time_level_logger_message_and_fields_in_order() -> None:
    """The subject comes first; values with blanks are quoted; None is omitted."""
    line = logs.TextFormatter().format(
        record("run %s started", 1, by="Ada L", run="01M", job="a", agent=None, forced=True)
    )
    time, _, rest = line.partition(" ")
    assert time.endswith("Z")
    assert len(time) == len("2026-01-02T03:04:05.678Z")
    assert rest == 'info    waterflow.test: run 1 started run=01M job=a by="Ada L" forced=true'


def test_a_json_entry_has_the_same_fields_and_extras_cannot_replace_them() -> None:
    """An entry is one line of JSON, and numbers stay numbers."""
    entry = json.loads(
        logs.JsonFormatter().format(record("x %s", "y", level=logging.ERROR, run="01M", attempt=2, time=1))
    )
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "error", "logger": "waterflow.test", "message": "x y", "run": "01M", "attempt": 2}


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_hostile_text_is_escaped(formatter: logs.Formatter) -> None:
    """This covers the message, fields, and the text of an exception."""
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        line = formatter.format(
            logging.getLogger("waterflow.test").makeRecord(
                "waterflow.test", logging.ERROR, "", 0, "%s", (HOSTILE,), sys.exc_info(), extra={"job": HOSTILE}
            )
        )
    first, *more = line.split("\n")
    assert "\\nERROR forged" in json.loads(first)["message"] if line.startswith("{") else "\\nERROR forged" in first
    assert all(text.startswith("    | ") for text in more)
    assert line.replace("\n", "").isprintable()
    line.encode("utf-8")


def test_tokens_are_shortened_everywhere() -> None:
    """This covers API tokens and join tokens; the prefix identifies the token."""
    for secret in ("wf_" + "Ab3-_" * 9, "wfj1." + "Zz9_-" * 20):
        for formatter in (logs.TextFormatter(), logs.JsonFormatter()):
            line = formatter.format(record("it was %s!", secret, target=f"x {secret}"))
            assert secret not in line
            assert secret[:7] in line
    assert "wf_short" in logs.TextFormatter().format(record("wf_short"))


def test_a_long_text_is_truncated() -> None:
    """The message includes the original length."""
    line = logs.JsonFormatter().format(record("x" * 1_000_000, job="y" * 1_000_000))
    assert len(line) < 20_000
    assert "(1000000 characters)" in line


def test_the_journal_gets_its_own_level_format_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is recognized by the device and inode in JOURNAL_STREAM."""
    line = logs.TextFormatter(is_journal=True).format(record("careful", level=logging.WARNING, run="r"))
    assert line == "<4>warning waterflow.test: careful run=r"
    entry = json.loads(logs.JsonFormatter(is_journal=True).format(record("x")).removeprefix("<6>"))
    assert entry["message"] == "x"
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = (tmp_path / "stream").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert logs.goes_to_journal(stream)
        assert not logs.goes_to_journal(other)
        monkeypatch.setenv("JOURNAL_STREAM", "")
        assert not logs.goes_to_journal(stream)


def test_entries_that_strangers_cause_are_rate_limited_and_errors_are_not() -> None:
    """After a burst, one entry per second is logged."""
    bounded = RateLimit(per_s=0.001, burst=3)
    assert [bounded.filter(record("x")) for _ in range(5)] == [True, True, True, False, False]
    assert bounded.filter(record("x", level=logging.ERROR))


# Log lines about runs -----------------------------------------------------------------------------------------------------


def reported(caplog: pytest.LogCaptureFixture, level: int, *happened: events.Event) -> list[logging.LogRecord]:
    """Returns the log lines of a batch with these events of one run."""
    caplog.set_level(level, logger="waterflow.run")
    caplog.clear()
    append = StreamAppend(stream="run/01M", expected=3, at=1, events=list(happened))  # type: ignore[arg-type]
    run_logging.log_batch(Batch(appends=[append]))
    return caplog.records


def test_failures_are_warnings_and_successes_are_debug_entries(caplog: pytest.LogCaptureFixture, reason: Any) -> None:
    """A failed step is a warning with its run, job and step; a successful one is logged only at level `debug`."""

    def completed(conclusion: Conclusion) -> events.StepCompleted:
        return events.StepCompleted(
            at=1, job=JobId("a"), step=StepId("2"), outcome=conclusion, conclusion=conclusion, reason=reason
        )

    assert reported(caplog, logging.INFO, completed(Conclusion.SUCCESS)) == []
    assert len(reported(caplog, logging.DEBUG, completed(Conclusion.SUCCESS))) == 1
    (line,) = reported(caplog, logging.INFO, completed(Conclusion.FAILURE))
    assert line.levelno == logging.WARNING
    fields = vars(line)
    assert (fields["run"], fields["job"], fields["step"], fields["conclusion"]) == ("01M", "a", "2", "failure")


def test_a_failed_attempt_is_logged_with_its_number_and_exit_code(
    caplog: pytest.LogCaptureFixture, reason: Any
) -> None:
    """It is logged even if a later attempt succeeds."""
    finished = events.AttemptFinished(
        at=1,
        job=JobId("a"),
        step=StepId("2"),
        attempt=AttemptNo(3),
        outcome=Outcome.FAILURE,
        exit_code=7,
        reason=reason,
    )
    (line,) = reported(caplog, logging.INFO, finished)
    fields = vars(line)
    assert (fields["attempt"], fields["exit_code"]) == (3, 7)
    assert reported(caplog, logging.WARNING, finished) == []


@pytest.fixture
def reason() -> Any:
    """Returns an arbitrary reason."""
    from waterflowd.model.reasons import Reason, ReasonCode

    return Reason(code=next(iter(ReasonCode)), text="so it was")
