"""SecretReader: one request for many steps, cached for a while, retried while that may help, and bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.secrets import secret_reader
from waterflowd.secrets.secret_reader import Key, SecretReader
from waterflowd.testing.awaiting import until

KEY = ("vault", "apps/web")


class Source:
    """A scripted source: counts the reads and gives the answers in order, the last one repeatedly."""

    def __init__(self, *answers: dict[str, str] | Exception) -> None:
        self.answers = list(answers)
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> tuple[dict[str, str], float]:
        """See `secret_reader.Read`."""
        self.reads += 1
        await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer, 60.0


class CountingReader(SecretReader):
    """Counts the calls of `changed`."""

    def __init__(self, give_up_after_s: float = 600.0) -> None:
        super().__init__(give_up_after_s)
        self.changes = 0
        self.changed = self._count

    def _count(self) -> None:
        self.changes += 1

    def outcome(self, source: Source, key: Key = KEY) -> dict[str, str] | WaterflowError:
        """Returns the result of `get`, or the exception that it raises."""
        try:
            return self.get(key, source.read)
        except WaterflowError as error:
            return error

    async def final(self, source: Source, key: Key = KEY) -> dict[str, str] | WaterflowError:
        """Returns the result of `get` once the read has ended, or the exception that it raises."""
        await until(lambda: not isinstance(self.outcome(source, key), Retryable), PATIENCE_S)
        return self.outcome(source, key)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_reader, "BACKOFF", Backoff(first_s=0.001, max_s=0.001))


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are cached only for the time that their source gives, and failures not at all."""
    monkeypatch.setattr(secret_reader, "CACHE_S_MIN", 0.0)
    monkeypatch.setattr(secret_reader, "FAILURE_CACHE_S", 0.0)


@pytest.fixture
async def reader() -> AsyncIterator[CountingReader]:
    """A reader whose time limit no test reaches."""
    reader = CountingReader()
    yield reader
    await reader.close()


async def test_many_requests_cause_one_read_and_its_values_are_cached(reader: CountingReader) -> None:
    """`get` never waits, and `changed` is called once."""
    source = Source({"key": "value"})
    source.gate.clear()
    assert all(isinstance(reader.outcome(source), Retryable) for _ in range(100))
    source.gate.set()
    assert await reader.final(source) == {"key": "value"}
    assert reader.outcome(source) == {"key": "value"}
    assert (source.reads, reader.changes) == (1, 1)


async def test_a_slow_source_does_not_delay_another(reader: CountingReader) -> None:
    """Its read stays open while the other one succeeds."""
    slow, fast = Source({}), Source({"a": "b"})
    slow.gate.clear()
    reader.outcome(slow, ("vault", "slow"))
    assert await reader.final(fast, ("vault", "fast")) == {"a": "b"}
    assert isinstance(reader.outcome(slow, ("vault", "slow")), Retryable)


async def test_a_source_is_retried_until_it_recovers(reader: CountingReader, caplog: pytest.LogCaptureFixture) -> None:
    """Each reason for the delay is logged once."""
    sealed = Retryable("WF626", "Vault is sealed")
    source = Source(sealed, sealed, sealed, {"a": "b"})
    with caplog.at_level(logging.WARNING):
        assert await reader.final(source) == {"a": "b"}
    assert (source.reads, reader.changes) == (4, 2)
    assert caplog.text.count("Vault is sealed") == 1
    assert "vault apps/web" in caplog.text


async def test_a_retried_read_gives_up_after_the_time_limit() -> None:
    """The error names the last reason and the limit, and is cached for a moment."""
    reader = CountingReader(give_up_after_s=0.0)
    source = Source(Retryable("WF626", "Vault is sealed"))
    found = await reader.final(source)
    assert isinstance(found, Rejected)
    assert found.text == "Vault is sealed; gave up after 0 s"
    assert isinstance(reader.outcome(source), Rejected)
    assert source.reads == 1, "the failure is cached for a moment"
    await reader.close()


@pytest.mark.parametrize("error", [Rejected("WF626", "refused"), Stalled("WF508", "no plain file")])
async def test_a_permanent_failure_is_not_retried(reader: CountingReader, error: WaterflowError) -> None:
    """The source is read once, and the failure has the same code."""
    source = Source(error)
    found = await reader.final(source)
    assert isinstance(found, Rejected)
    assert (found.code, found.text, source.reads) == (error.code, error.text, 1)


async def test_a_bug_in_a_source_is_a_failure_and_not_an_endless_wait(
    reader: CountingReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Its traceback is in the daemon's log."""
    found = await reader.final(Source(ZeroDivisionError("a bug")))
    assert isinstance(found, Rejected)
    assert "a bug" in caplog.text


@pytest.mark.usefixtures("short_memory")
async def test_a_failed_read_is_dropped_and_read_again(reader: CountingReader) -> None:
    """A later `get` starts a new read."""
    source = Source(Rejected("WF626", "refused"), {"a": "b"})
    await until(lambda: reader.outcome(source) == {"a": "b"}, PATIENCE_S)
    assert source.reads == 2


@pytest.mark.usefixtures("short_memory")
async def test_keys_beyond_the_limit_wait(reader: CountingReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is read, and `changed` is called when a key has been dropped."""
    monkeypatch.setattr(secret_reader, "KEYS_MAX", 1)
    first, second = Source(Rejected("WF626", "refused")), Source({"a": "b"})
    first.gate.clear()
    reader.outcome(first, ("first",))
    refused = reader.outcome(second, ("second",))
    assert isinstance(refused, Retryable)
    assert "too many" in refused.text
    assert second.reads == 0
    first.gate.set()
    await until(lambda: reader.changes == 2, PATIENCE_S)
    assert await reader.final(second, ("second",)) == {"a": "b"}


async def test_close_cancels_reads(reader: CountingReader) -> None:
    """No task remains."""
    source = Source({})
    source.gate.clear()
    reader.outcome(source)
    await reader.close()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "secrets"] == []
