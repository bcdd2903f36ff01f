"""The topic `output:ID/JOB/STEP/N@LINE` of `GET /v1/live`: what is new in the output of one attempt, as blocks of lines.

Rules of this file: a reader names the line from which it has no output, and is sent consecutive blocks from there on, those
that are there already and those that come. So what it has fetched before and what follows are one sequence. A slow reader
delays only itself.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote

import msgspec

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.api.runs.attempt_logs import is_complete
from waterflowd.api.schemas.live import OutputBlocksSchema
from waterflowd.api.services import Services
from waterflowd.api.streaming.output_blocks import BlockBuilder
from waterflowd.api.streaming.output_pages import READ_BYTES, find_line, in_turns
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, is_run_id

#: Text in one piece of the stream, besides the rest of a line. Twenty times a second, it is more than an agent sends.
PIECE_BYTES = 256 << 10
_TOPIC = re.compile(r"([0-9A-Za-z]{26})/([^/]+)/([^/]+)/(\d{1,9})(?:@(\d{1,15}))?", re.ASCII)
_LINES_MAX = 1 << 62


class OutputTopic(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt, and the first line of its output that a reader has not got. `text` is how the reader names the topic."""

    text: str
    attempt: AttemptId
    line: int


def parse_output_topic(rest: str) -> OutputTopic:
    """What follows `output:`; job and step are percent-encoded. `Rejected` 400 for anything else."""
    found = _TOPIC.fullmatch(rest)
    if found is None or not is_run_id(found[1].upper()) or int(found[4]) < 1:
        text = "topics: output:ID/JOB/STEP/N@LINE needs the whole id of a run, and job and step percent-encoded"
        raise Rejected("WF605", text, where="topics")
    attempt = AttemptId(
        RunId(found[1].upper()), JobId(unquote(found[2])), StepId(unquote(found[3])), AttemptNo(int(found[4]))
    )
    return OutputTopic(text=f"output:{rest.partition('@')[0]}", attempt=attempt, line=max(1, int(found[5] or 1)))


class OutputSubscriber:
    """Follows one attempt for one reader. `wake` is set when there is something to `take`; call `close` at the end."""

    def __init__(self, services: Services, topic: OutputTopic, wake: asyncio.Event) -> None:
        self.topic = topic
        self._services = services
        self._wake = wake
        self._builder: BlockBuilder | None = None
        self._has_grown = True
        self._is_over = False
        self._waiting = asyncio.create_task(self._wait(), name="live: output")

    async def _wait(self) -> None:
        while not self._is_over:
            await self._services.history.output_grew(self.topic.attempt.run)
            # The next wait begins before anything is read, so that output which arrives in between is noticed.
            self._has_grown = True
            self._wake.set()

    async def take(self) -> OutputBlocksSchema | None:
        """What is new; None if nothing is. Raises `WaterflowError` when the output cannot be read; then it is over."""
        if not self._has_grown or self._is_over:
            return None
        self._has_grown = False
        try:
            return await self._take()
        except WaterflowError:
            self._is_over = True
            raise

    async def _take(self) -> OutputBlocksSchema | None:
        outputs, name = self._services.outputs, self.topic.attempt
        builder = self._builder
        if builder is None:
            marks = await outputs.line_marks(name)
            builder = await find_line(outputs, name, marks, self.topic.line)
            self._builder = builder
        begun = builder.taken_bytes
        is_all = False
        while not is_all and builder.taken_bytes - begun < PIECE_BYTES:
            offset = builder.offset
            pieces = await outputs.read(name, offset, READ_BYTES)
            async for piece in in_turns(pieces):
                builder.feed(piece, _LINES_MAX, begun + PIECE_BYTES)
            read = sum(len(piece.data) for piece in pieces)
            # A long piece may have been taken only in part.
            is_all = read < READ_BYTES and (not pieces or builder.offset >= pieces[0].offset + read)
        if not is_all:
            self._has_grown = True
            self._wake.set()
        self._is_over = is_all and await self._is_complete(builder)
        blocks = builder.take(is_end=self._is_over)
        if not blocks and not self._is_over:
            return None
        return OutputBlocksSchema(topic=self.topic.text, blocks=blocks, is_complete=self._is_over)

    async def _is_complete(self, builder: BlockBuilder) -> bool:
        run = await self._services.reader.run(self.topic.attempt.run)
        job = run.jobs_by_id.get(self.topic.attempt.job) if run is not None else None
        step = job.steps_by_id.get(self.topic.attempt.step) if job is not None else None
        number = self.topic.attempt.number
        if step is None or number > len(step.attempts):
            return False
        return await is_complete(self._services, self.topic.attempt, step.attempts[number - 1], builder.offset)

    async def close(self) -> None:
        """Stops waiting for output."""
        self._waiting.cancel()
        await asyncio.gather(self._waiting, return_exceptions=True)
