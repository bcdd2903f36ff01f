"""Files: sends agents the files that their jobs' working directories begin with.

Rules of this file: an agent gets what belongs to an open attempt of its own, and nothing else: the list of the files of that
job, and the files that are on it. Each question has one answer, and nothing is remembered between two: what is lost is asked
for again. An agent has a few questions at a time; what is beyond is to be asked later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from waterflow_agent.errors import Retryable, WaterflowError
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.engine.rules import checkout
from waterflowd.host.batch import LiveState
from waterflowd.model.ids import AgentId
from waterflowd.model.records import Checkout

logger = logging.getLogger("waterflow.host")

#: Questions of one agent that are worked on: those of a session and of the ones that it replaced.
QUESTIONS_MAX = 4 * messages.FILE_REQUESTS_MAX
LATER_MS = 1_000


class FileServer:
    """The way of files from the repositories to the link."""

    def __init__(self, state: LiveState, files: ports.RevisionFiles, link: ports.Link) -> None:
        self._state = state
        self._files = files
        self._link = link
        self._open: Counter[AgentId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """An agent asks for files."""
        if self._open[agent] >= QUESTIONS_MAX:
            # After some short sessions their questions may still be worked on; the agent asks again.
            text = "too many questions of this agent are worked on"
            later = messages.FileResponse(request.key, request.number, [], "WF219", text, LATER_MS)
            self._link.send(agent, [later])
            return
        self._open[agent] += 1
        task = asyncio.create_task(self._answer(agent, request), name="files for an agent")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Answers nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, agent: AgentId, request: messages.FileRequest) -> None:
        try:
            content = messages.FileResponse(request.key, request.number, await self._pieces(agent, request))
        except WaterflowError as error:
            after_ms = int(error.after_s * 1_000) if isinstance(error, Retryable) else 0
            content = messages.FileResponse(request.key, request.number, [], error.code, error.text, after_ms)
        except Exception:
            # The supervision point per peer: a bug that one repository brings out fails the steps that need its files.
            logger.exception("the files for %s could not be read", request.key, extra={"agent": agent})
            text = "a fault in Waterflow itself; see the daemon's log"
            content = messages.FileResponse(request.key, request.number, [], "WF514", text)
        finally:
            self._open[agent] -= 1
            if not self._open[agent]:
                del self._open[agent]
        self._link.send(agent, [content])

    async def _pieces(self, agent: AgentId, request: messages.FileRequest) -> list[messages.FileChunk]:
        found = self._checkout(agent, request.key)
        if found is None:
            raise WaterflowError("WF219", "the attempt that the files are for is not open on this server")
        listed = await self._files.listed(found)
        if not request.blobs:
            offset = min(max(request.offset, 0), len(listed.content))
            part = listed.content[offset : offset + messages.FILE_RESPONSE_BYTES_MAX]
            return [messages.FileChunk(len(listed.content), part)]
        blobs = request.blobs[: messages.FILE_REQUEST_BLOBS_MAX]
        if not listed.blobs.issuperset(blobs):
            raise WaterflowError("WF219", "a file that is not of the job's files")
        return await self._files.pieces(
            found.repository, blobs, max(request.offset, 0), messages.FILE_RESPONSE_BYTES_MAX
        )

    def _checkout(self, agent: AgentId, key: messages.TaskId) -> Checkout | None:
        run = self._state.runs.get(key.attempt.run)
        attempt = run.attempt(key.attempt.job, key.attempt.step, key.attempt.number) if run is not None else None
        if run is None or attempt is None or not attempt.is_open:
            return None
        if attempt.agent != agent or attempt.epoch != key.epoch:
            return None
        return checkout.of_job(run, run.jobs_by_id[key.attempt.job])
