"""The enrollment port: new servers ask here to become agents, and can do nothing else.

The connection proves the key to enroll. The enroller decides by the request's token, or leaves the decision to a person.
Anybody may connect, so everything is bounded: requests per key, per address and in total, and concurrent requests. Beyond a
limit the answer is `pending` with a later time to ask again, which does not involve the enroller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from waterflow_agent.errors import LocalProtocolError, Rejected, RemoteProtocolError, Retryable, WaterflowError
from waterflow_agent.keys import fingerprint
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.router import IncomingFrame, SendResult
from waterflowd.ports import Enroller
from waterflowd.rates import BucketPerName, TokenBucket

#: A pending agent asks every few seconds; a hundred servers may be set up behind one address at once.
PER_KEY_PER_S, PER_KEY_BURST = 0.5, 5
PER_ADDRESS_PER_S, PER_ADDRESS_BURST = 20.0, 100
IN_ALL_PER_S, IN_ALL_BURST = 100.0, 200
_NAMES_MAX = 1_024
#: Concurrent requests; each one costs at most one commit.
WORKING_MAX = 32
#: When an agent may ask again after it exceeded a limit.
BUSY_RETRY_MS = 5_000
_GROUPS_MAX = 64
_TEXT_LENGTH_MAX = 256

_logger = logging.getLogger("waterflow.dispatch.enroll")


class EnrollmentPort:
    """Answers the enrollment port."""

    def __init__(
        self,
        enroller: Enroller,
        send: Callable[[bytes, bytes], SendResult],
        rejections: Rejections,
        clock: Callable[[], int],
        work_endpoint: Callable[[], str],
    ) -> None:
        self.requests_answered = 0
        self._enroller = enroller
        self._send = send
        self._rejections = rejections
        self._clock = clock
        self._work_endpoint = work_endpoint
        self._per_key = BucketPerName(PER_KEY_PER_S, PER_KEY_BURST, _NAMES_MAX)
        self._per_address = BucketPerName(PER_ADDRESS_PER_S, PER_ADDRESS_BURST, _NAMES_MAX)
        self._in_all = TokenBucket(IN_ALL_PER_S, IN_ALL_BURST, clock())
        self._working: set[asyncio.Task[None]] = set()

    def take(self, incoming: IncomingFrame) -> None:
        """Handles one frame of the enrollment port. Never raises because of its content."""
        now = self._clock()
        # The narrow limits first: requests beyond them must not use up the shared one.
        if not (
            self._per_key.take(incoming.public_key, now)
            and self._per_address.take(incoming.address, now)
            and self._in_all.take(now)
        ):
            self._postpone(incoming, "too many requests")
            return
        try:
            request = self._permitted(incoming)
        except RemoteProtocolError as error:
            self._rejections.record(error.code, error.text, incoming.address)
            self._answer(incoming, _answer("refused", f"{error.text} [{error.code}]", 0))
            return
        if len(self._working) >= WORKING_MAX:
            self._postpone(incoming, "too many concurrent requests")
            return
        task = asyncio.get_running_loop().create_task(self._work(incoming, request), name="enrollment request")
        self._working.add(task)
        task.add_done_callback(self._finish)

    async def close(self) -> None:
        """Cancels the requests in progress; their agents ask again."""
        working = list(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def _permitted(self, incoming: IncomingFrame) -> messages.EnrollRequest:
        request = codec.decode_enroll_request(incoming.payload)
        if type(request) not in messages.PERMITTED[messages.PeerState.ANONYMOUS]:
            raise RemoteProtocolError("WF213", "this port accepts only enrollment requests")
        if request.protocol < messages.PROTOCOL_VERSION_MIN:
            raise RemoteProtocolError("WF210", f"protocol {request.protocol} is no longer supported: upgrade the agent")
        texts = (
            request.token,
            request.name,
            request.hostname,
            request.machine_id,
            request.agent_version,
            *request.groups,
        )
        if len(request.groups) > _GROUPS_MAX or any(len(text) > _TEXT_LENGTH_MAX for text in texts):
            raise RemoteProtocolError("WF214", "too many groups, or a text is too long")
        return request

    async def _work(self, incoming: IncomingFrame, request: messages.EnrollRequest) -> None:
        try:
            answer = await self._enroller.request(incoming.public_key, request)
        except Retryable as error:
            answer = _answer("pending", str(error), int(error.after_s * 1000))
        except WaterflowError as error:
            code = error.code if isinstance(error, Rejected) else "WF217"
            self._rejections.record(code, error.text, incoming.address)
            answer = _answer("refused", str(error), 0)
        self._answer(incoming, answer)

    def _postpone(self, incoming: IncomingFrame, text: str) -> None:
        self._rejections.record("WF217", text, incoming.address)
        self._answer(incoming, _answer("pending", f"{text}: ask again later [WF217]", BUSY_RETRY_MS))

    def _answer(self, incoming: IncomingFrame, answer: messages.EnrollAnswer) -> None:
        """Sends an answer, and fills in what only the link knows."""
        answer = msgspec.structs.replace(
            answer,
            fingerprint=answer.fingerprint or fingerprint(incoming.public_key),
            work_endpoint=answer.work_endpoint or self._work_endpoint(),
        )
        try:
            payload = bytes(memoryview(codec.encode_message(answer)))
        except LocalProtocolError as error:
            _logger.error("cannot send an enrollment answer: %s", error)
            return
        # An agent that has disconnected, or cannot receive, asks again.
        self._send(incoming.routing_id, payload)
        self.requests_answered += 1

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The supervision point per peer: the agent gets no answer, and asks again.
            _logger.error("internal error in an enrollment request", exc_info=error)


def _answer(state: str, text: str, after_ms: int) -> messages.EnrollAnswer:
    return messages.EnrollAnswer(
        state=state, text=text, fingerprint="", name="", groups=[], work_endpoint="", after_ms=after_ms
    )
