"""SecretReader: one question for all who ask, held for a while, asked again while that may help, and never for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.secrets import secret_reader
from waterflowd.secrets.secret_reader import Key, SecretReader
from waterflowd.testing.host import until

KEY = ("vault", "apps/web")


class Source:
    """What is asked: counts the questions, and gives the answers in their order, the last one for ever."""

    def __init__(self, *answers: dict[str, str] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> tuple[dict[str, str], float]:
        """See `readings.Read`."""
        self.asked += 1
        await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer, 60.0


class Asked(SecretReader):
    """Readings that count the calls of `changed`."""

    def __init__(self, patience_s: float = 600.0) -> None:
        super().__init__(patience_s)
        self.news = 0
        self.changed = self._count

    def _count(self) -> None:
        self.news += 1

    def outcome(self, source: Source, key: Key = KEY) -> dict[str, str] | WaterflowError:
        """What `get` gives or raises."""
        try:
            return self.get(key, source.read)
        except WaterflowError as error:
            return error

    async def in_the_end(self, source: Source, key: Key = KEY) -> dict[str, str] | WaterflowError:
        """What it gives or raises when it is read."""
        await until(lambda: not isinstance(self.outcome(source, key), Retryable), PATIENCE_S)
        return self.outcome(source, key)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_reader, "PAUSE_S_MIN", 0.001)


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is forgotten when its source says so, and a failure at once."""
    monkeypatch.setattr(secret_reader, "HELD_S_MIN", 0.0)
    monkeypatch.setattr(secret_reader, "FAILURE_HELD_S", 0.0)


@pytest.fixture
async def readings() -> AsyncIterator[Asked]:
    """Readings with a patience that no test sees the end of."""
    made = Asked()
    yield made
    await made.close()


async def test_many_who_ask_are_one_question_and_the_answer_is_held(readings: Asked) -> None:
    """Nobody waits in the call; there is news once."""
    source = Source({"key": "value"})
    source.gate.clear()
    assert all(isinstance(readings.outcome(source), Retryable) for _ in range(100))
    source.gate.set()
    assert await readings.in_the_end(source) == {"key": "value"}
    assert readings.outcome(source) == {"key": "value"}
    assert (source.asked, readings.news) == (1, 1)


async def test_a_slow_source_holds_up_no_other(readings: Asked) -> None:
    """Its question stays open, the other is answered."""
    slow, fast = Source({}), Source({"a": "b"})
    slow.gate.clear()
    readings.outcome(slow, ("vault", "slow"))
    assert await readings.in_the_end(fast, ("vault", "fast")) == {"a": "b"}
    assert isinstance(readings.outcome(slow, ("vault", "slow")), Retryable)


async def test_a_source_that_recovers_is_asked_until_it_does(readings: Asked, caplog: pytest.LogCaptureFixture) -> None:
    """What keeps it is told, each trouble once."""
    trouble = Retryable("WF626", "Vault is sealed")
    source = Source(trouble, trouble, trouble, {"a": "b"})
    with caplog.at_level(logging.WARNING):
        assert await readings.in_the_end(source) == {"a": "b"}
    assert (source.asked, readings.news) == (4, 2)
    assert caplog.text.count("Vault is sealed") == 1
    assert "vault apps/web" in caplog.text


async def test_patience_ends_and_the_failure_says_how_long_it_was() -> None:
    """Who asks learns the last trouble, as something that asking again at once does not change."""
    readings = Asked(patience_s=0.0)
    source = Source(Retryable("WF626", "Vault is sealed"))
    found = await readings.in_the_end(source)
    assert isinstance(found, Rejected)
    assert found.text == "Vault is sealed; it was tried for 0 s"
    assert isinstance(readings.outcome(source), Rejected)
    assert source.asked == 1, "the failure is held for a moment"
    await readings.close()


@pytest.mark.parametrize("error", [Rejected("WF626", "refused"), Stalled("WF508", "no plain file")])
async def test_what_only_a_person_can_help_fails_at_once(readings: Asked, error: WaterflowError) -> None:
    """One question, one failure with the same code."""
    source = Source(error)
    found = await readings.in_the_end(source)
    assert isinstance(found, Rejected)
    assert (found.code, found.text, source.asked) == (error.code, error.text, 1)


async def test_a_bug_of_a_source_is_a_failure_and_no_endless_wait(
    readings: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    """Its traceback is in the log of the daemon."""
    found = await readings.in_the_end(Source(ZeroDivisionError("a bug")))
    assert isinstance(found, Rejected)
    assert "a bug" in caplog.text


@pytest.mark.usefixtures("short_memory")
async def test_what_failed_is_forgotten_and_asked_anew(readings: Asked) -> None:
    """The next one who asks may be luckier."""
    source = Source(Rejected("WF626", "refused"), {"a": "b"})
    await until(lambda: readings.outcome(source) == {"a": "b"}, PATIENCE_S)
    assert source.asked == 2


@pytest.mark.usefixtures("short_memory")
async def test_too_many_at_a_time_wait_for_a_place(readings: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound there is no question, and news when a place has come free."""
    monkeypatch.setattr(secret_reader, "KEYS_MAX", 1)
    first, second = Source(Rejected("WF626", "refused")), Source({"a": "b"})
    first.gate.clear()
    readings.outcome(first, ("first",))
    refused = readings.outcome(second, ("second",))
    assert isinstance(refused, Retryable)
    assert "too many" in refused.text
    assert second.asked == 0
    first.gate.set()
    await until(lambda: readings.news == 2, PATIENCE_S)
    assert await readings.in_the_end(second, ("second",)) == {"a": "b"}


async def test_the_end_of_the_daemon_ends_what_is_being_read(readings: Asked) -> None:
    """No task is left."""
    source = Source({})
    source.gate.clear()
    readings.outcome(source)
    await readings.close()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "secrets"] == []
