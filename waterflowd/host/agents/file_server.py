"""Sends agents the repository files for the working directories of their jobs.

Rules of this file: an agent gets only what belongs to one of its open attempts: the list of that job's files, and the files on
the list. Each request has one answer, and no state is kept between requests: after a loss the agent asks again. The number of
concurrent requests per agent is bounded; the agent has to repeat any further ones later. Steps come first: while some are in
progress, the parts of large files are spaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from waterflow_agent.errors import Retryable, WaterflowError
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.model.ids import AgentId
from waterflowd.model.records import Checkout
from waterflowd.pacing import Pacing

logger = logging.getLogger("waterflow.host")

#: Concurrent requests of one agent: those of its session, and of the sessions that it replaced.
REQUESTS_MAX = 4 * messages.FILE_REQUESTS_MAX
RETRY_MS = 1_000


class FileServer:
    """Answers the agents' file requests."""

    def __init__(
        self, attempts: ports.Attempts, files: ports.RevisionFiles, link: ports.Link, pacing: Pacing | None = None
    ) -> None:
        """Without `pacing`, the parts of large files are sent as fast as they are requested."""
        self._attempts = attempts
        self._files = files
        self._link = link
        self._pacing = pacing
        self._open: Counter[AgentId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """An agent requests files."""
        try:
            found = self._attempts.checkout(agent, request.key)
        except Retryable as error:
            response = messages.FileResponse(request.key, request.number, [], error.code, error.text, RETRY_MS)
            self._link.send(agent, [response])
            return
        if found is None:
            # Usually the attempt has just ended.
            text = "the attempt that needs the files is not open on this server"
            self._link.reject(agent, "WF219", text)
            self._link.send(agent, [messages.FileResponse(request.key, request.number, [], "WF219", text)])
            return
        if self._open[agent] >= REQUESTS_MAX:
            # Requests of earlier short sessions may still be in progress; the agent asks again.
            text = "too many file requests of this agent are in progress"
            self._link.send(agent, [messages.FileResponse(request.key, request.number, [], "WF219", text, RETRY_MS)])
            return
        self._open[agent] += 1
        task = asyncio.create_task(self._answer(agent, request, found), name="files for an agent")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drops the requests in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, agent: AgentId, request: messages.FileRequest, found: Checkout) -> None:
        try:
            chunks = self._chunks(request, found)
            if self._pacing is not None and request.blobs and request.offset > 0:
                chunks = self._pacing.spaced(chunks)
            response = messages.FileResponse(request.key, request.number, await chunks)
        except WaterflowError as error:
            after_ms = int(error.after_s * 1_000) if isinstance(error, Retryable) else 0
            response = messages.FileResponse(request.key, request.number, [], error.code, error.text, after_ms)
        except Exception:
            # The supervision point per peer: a bug that one repository triggers fails only the steps that need its files.
            logger.exception("cannot read the files for %s", request.key, extra={"agent": agent})
            text = "internal error; see the daemon's log"
            response = messages.FileResponse(request.key, request.number, [], "WF514", text)
        finally:
            self._open[agent] -= 1
            if not self._open[agent]:
                del self._open[agent]
        self._link.send(agent, [response])

    async def _chunks(self, request: messages.FileRequest, found: Checkout) -> list[messages.FileChunk]:
        listed = await self._files.listed(found)
        if not request.blobs:
            offset = min(max(request.offset, 0), len(listed.content))
            part = listed.content[offset : offset + messages.FILE_RESPONSE_BYTES_MAX]
            return [messages.FileChunk(len(listed.content), part)]
        blobs = request.blobs[: messages.FILE_REQUEST_BLOBS_MAX]
        if not listed.blobs.issuperset(blobs):
            raise WaterflowError("WF219", "the requested file is not one of the job's files")
        return await self._files.pieces(
            found.repository, listed, blobs, max(request.offset, 0), messages.FILE_RESPONSE_BYTES_MAX
        )
