"""Searching output: what is found, compared with a search of every line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading

from waterflow_agent.testing import attempt_id
from waterflowd.api.streaming import output_search
from waterflowd.api.streaming.output_search import OutputSearch, Query, Scanner, SearchHit, SearchProgress
from waterflowd.host.history import LogOutputs
from waterflowd.model import ids
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.testing.memory_outputs import MemoryOutputLogs

NAME = attempt_id(ids.run_id(1_700_000_000_000, 7), "deploy", "build", 1)
WORDS = (
    "error",
    "Error",
    "ERRORS",
    "an error.",
    "x_error",
    "Größe",
    "GRÖSSE",
    "größer",
    "\x00",
    "世界",
    "aa",
    "aaa",
    "-",
)


def _query(text: str, *, case: bool = False, word: bool = False) -> Query:
    return Query(text, is_case_sensitive=case, is_whole_word=word)


def _expected(text: str, lines: list[str], *, case: bool, word: bool) -> list[tuple[int, int]]:
    """Number and column of each line that matches, by a regular expression."""
    found = re.escape(text)
    if word:
        found = rf"(?<!\w){found}(?!\w)"
    pattern = re.compile(found, re.NOFLAG if case else re.IGNORECASE)
    matches = ((number, pattern.search(line)) for number, line in enumerate(lines, 1))
    return [(number, match.start()) for number, match in matches if match is not None]


def test_a_search_finds_what_a_search_of_every_line_finds() -> None:
    """With and without case, words and parts of them, in content that is split anywhere."""
    for seed in range(150):
        dice = random.Random(seed)
        words = [dice.choice(WORDS) + dice.choice((" ", "\n", "\n\n", ", ")) for _ in range(dice.randrange(1, 60))]
        content = "".join(words).encode()
        lines = content.decode().split("\n")
        text, case, word = (
            dice.choice(("error", "größe", "aa", "a", "ERROR", "世")),
            dice.random() < 0.5,
            dice.random() < 0.5,
        )
        scanner = Scanner(_query(text, case=case, word=word), 1)
        hits: list[SearchHit] = []
        position = 0
        while position < len(content):
            size = dice.randrange(1, 40)
            is_end = position + size >= len(content)
            hits += scanner.scan(content[position : position + size], is_end=is_end)
            position += size
        assert [(hit.line, hit.column) for hit in hits] == _expected(text, lines, case=case, word=word), (seed, text)
        assert all(hit.text == lines[hit.line - 1] for hit in hits)


def test_long_lines_are_searched_and_shown_in_part() -> None:
    """A match anywhere in a line of megabytes is found once, with what is around it; the lines after it have their numbers."""
    for position in (0, 10, 262_100, 262_144, 1_000_000, 2_999_990):
        long = b"x" * position + b" needle " + b"y" * (3_000_000 - position)
        content = b"one\n" + long + b" needle\nneedle\n"
        scanner = Scanner(_query("needle"), 1)
        hits: list[SearchHit] = []
        for begin in range(0, len(content), 200_000):
            hits += scanner.scan(content[begin : begin + 200_000], is_end=begin + 200_000 >= len(content))
        assert [(hit.line, hit.column) for hit in hits] == [(2, position + 1), (3, 0)]
        assert "needle" in hits[0].text
        assert len(hits[0].text) <= 400
        assert hits[0].text[hits[0].column - hits[0].begin :].startswith("needle")


async def _logs(content: bytes) -> LogOutputs:
    logs = LogOutputs(MemoryOutputLogs())
    pieces = [
        OutputPiece(offset=begin, at=1, stream=1, data=content[begin : begin + 50_000])
        for begin in range(0, len(content), 50_000)
    ]
    await logs.append([OutputAppend(attempt=NAME, pieces=pieces)])
    return logs


async def test_a_search_says_how_far_it_is_and_is_bounded() -> None:
    """It begins at any line, ends after so many hits, and its last item says whether there may be more."""
    content = b"".join(b"%d needle\n" % number for number in range(1, 200_001))
    search = OutputSearch(await _logs(content))

    async def find(line: int, hits_max: int) -> list[SearchHit | SearchProgress]:
        return [item async for items in search.search(NAME, _query("needle"), line, hits_max) for item in items]

    *hits, last = await find(150_000, 100_000)
    assert [hit.line for hit in hits if isinstance(hit, SearchHit)] == list(range(150_000, 200_001))
    scanned = len(content) - content.index(b"150000 ")
    assert last == SearchProgress(scanned=scanned, hits=50_001, is_complete=True, more=False)
    *hits, last = await find(1, 10)
    assert len(hits) == 10
    assert isinstance(last, SearchProgress)
    assert (last.hits, last.is_complete, last.more) == (10, True, True)
    assert last.scanned <= 1 << 21, "it does not read on"


async def test_a_search_runs_beside_the_event_loop_and_ends_with_its_reader() -> None:
    """No part of it runs on the loop's thread, and nothing is read after its reader has left."""
    threads: set[int] = set()
    reads: list[int] = []

    class Watched(MemoryOutputLogs):
        def read(self, name: ids.AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
            reads.append(offset)
            threads.add(threading.get_ident())
            return super().read(name, offset, bytes_max)

    logs = Watched()
    pieces = [
        OutputPiece(offset=begin, at=1, stream=1, data=b"needle\n" * 10_000) for begin in range(0, 7_000_000, 70_000)
    ]
    await LogOutputs(logs).append([OutputAppend(attempt=NAME, pieces=pieces)])
    found = OutputSearch(LogOutputs(logs)).search(NAME, _query("needle"), 1, 1 << 30)
    async with contextlib.aclosing(found) as parts:
        await anext(parts)
    await asyncio.sleep(0)
    assert len(reads) == 1
    assert threading.get_ident() not in threads
    assert output_search._READ_BYTES > 256 << 10, "less is read on the loop"
