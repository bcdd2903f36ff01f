"""The enrollment port: new servers ask here to become agents, and can do nothing else.

The connection proves the key to enroll. The enroller decides by the request's token, or leaves the decision to a person.
Anybody may connect, so everything is bounded: requests per key, per address and in total, and concurrent requests. Beyond a
limit the answer is `pending` with a later time to ask again, which does not involve the enroller. A connection is for one
request; `LIMITS` bounds the connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from waterflow_agent.errors import LocalProtocolError, Rejected, RemoteProtocolError, Retryable, WaterflowError
from waterflow_agent.keys import fingerprint
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch.port.client import IncomingMessage
from waterflowd.dispatch.port.limits import PortLimits
from waterflowd.dispatch.port.records import Refused, Verdict
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.sessions import Connections
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
#: Idle connections displace one another, so a few are enough; a connection has said what it wants within a round trip.
LIMITS = PortLimits(
    waiting_max=512,
    waiting_per_address_max=128,
    active_max=512,
    active_per_address_max=128,
    per_key_max=4,
    arrivals_burst=200,
    arrivals_per_s=50.0,
)
#: Log lines about internal errors, which a request may trigger.
FAULT_LINES_PER_S, FAULT_LINES_BURST = 0.1, 5
#: Answers are a few hundred bytes.
OUTBOUND_BYTES_MAX = 2 * codec.ENROLL_BYTES_MAX
#: Running steps and agents take precedence over strangers.
NICENESS = 5
_GROUPS_MAX = 64
_TEXT_LENGTH_MAX = 256

_logger = logging.getLogger("waterflow.dispatch.enroll")


class Introduction(NamedTuple):
    """What each approved agent needs to know of this daemon."""

    work_endpoint: str
    #: The current key, which the agent uses from now on; its join token may name an old one.
    server_key: str
    old_server_keys: list[messages.OldServerKey]


class EnrollmentPort:
    """Answers the enrollment port."""

    def __init__(
        self,
        enroller: Enroller,
        connections: Connections,
        rejections: Rejections,
        clock: Callable[[], int],
        introduction: Callable[[], Introduction],
    ) -> None:
        self.requests_answered = 0
        self._enroller = enroller
        self._connections = connections
        self._rejections = rejections
        self._clock = clock
        self._introduction = introduction
        self._per_key = BucketPerName(PER_KEY_PER_S, PER_KEY_BURST, _NAMES_MAX)
        self._per_address = BucketPerName(PER_ADDRESS_PER_S, PER_ADDRESS_BURST, _NAMES_MAX)
        self._in_all = TokenBucket(IN_ALL_PER_S, IN_ALL_BURST, clock())
        self._faults = TokenBucket(FAULT_LINES_PER_S, FAULT_LINES_BURST, clock())
        self._working: set[asyncio.Task[None]] = set()

    def admit(self, public_key: str, address: str) -> Verdict:
        """See `port.client.PortListener`: every key may ask."""
        return Verdict.ACCEPT

    def closed(self, connection: int, text: str) -> None:
        """See `port.client.PortListener`: an agent that wants the answer asks again."""

    def refused(self, report: Refused) -> None:
        """See `port.client.PortListener`."""
        self._rejections.record(report.code, report.text, report.address, report.count)

    def take(self, incoming: IncomingMessage) -> None:
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

    def _permitted(self, incoming: IncomingMessage) -> messages.EnrollRequest:
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

    async def _work(self, incoming: IncomingMessage, request: messages.EnrollRequest) -> None:
        try:
            answer = await self._enroller.request(incoming.public_key, request)
        except Retryable as error:
            answer = _answer("pending", str(error), int(error.after_s * 1000))
        except WaterflowError as error:
            code = error.code if isinstance(error, Rejected) else "WF217"
            self._rejections.record(code, error.text, incoming.address)
            answer = _answer("refused", str(error), 0)
        self._answer(incoming, answer)

    def _postpone(self, incoming: IncomingMessage, text: str) -> None:
        self._rejections.record("WF217", text, incoming.address)
        self._answer(incoming, _answer("pending", f"{text}: ask again later [WF217]", BUSY_RETRY_MS))

    def _answer(self, incoming: IncomingMessage, answer: messages.EnrollAnswer) -> None:
        """Sends an answer, and fills in what only the link knows."""
        introduction = self._introduction()
        answer = msgspec.structs.replace(
            answer,
            fingerprint=answer.fingerprint or fingerprint(incoming.public_key),
            work_endpoint=answer.work_endpoint or introduction.work_endpoint,
            server_key=introduction.server_key,
            old_server_keys=introduction.old_server_keys,
        )
        try:
            payload = bytes(memoryview(codec.encode_message(answer)))
        except LocalProtocolError as error:
            _logger.error("cannot send an enrollment answer: %s", error)
            return
        # An agent that has disconnected, or cannot receive, asks again. A connection is for one request.
        self._connections.send(incoming.connection, payload)
        self._connections.disconnect(incoming.connection)
        self.requests_answered += 1

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._faults.take(self._clock()):
            # The supervision point per peer: the agent gets no answer, and asks again.
            _logger.error("internal error in an enrollment request", exc_info=error)


def _answer(state: str, text: str, after_ms: int) -> messages.EnrollAnswer:
    return messages.EnrollAnswer(
        state=state, text=text, fingerprint="", name="", groups=[], work_endpoint="", after_ms=after_ms
    )
