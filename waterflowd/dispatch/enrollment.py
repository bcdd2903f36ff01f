"""The enrollment port: strangers ask here to become agents, and do nothing else.

The connection proves the key that is to be enrolled; the request names what is wanted; the desk decides by the token or leaves
it to a person. Anybody may connect, so everything is bounded: requests per key, per address and in all, and how many the desk
works on at once. Past a bound the answer is `pending` with a later time to ask again, which costs the desk nothing.
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

#: A waiting agent asks every few seconds; a hundred servers may be set up behind one address at once.
PER_KEY_PER_S, PER_KEY_BURST = 0.5, 5
PER_ADDRESS_PER_S, PER_ADDRESS_BURST = 20.0, 100
IN_ALL_PER_S, IN_ALL_BURST = 100.0, 200
_NAMES_MAX = 1_024
#: Requests that the desk works on at once; each one is a commit or less.
WORKING_MAX = 32
#: When one that was turned away may ask again.
BUSY_RETRY_MS = 5_000
_GROUPS_MAX = 64
_TEXT_LENGTH_MAX = 256

_logger = logging.getLogger("waterflow.dispatch.enroll")


class EnrollmentPort:
    """Answers the enrollment port."""

    def __init__(
        self,
        desk: Enroller,
        send: Callable[[bytes, bytes], SendResult],
        rejections: Rejections,
        clock: Callable[[], int],
        work_endpoint: Callable[[], str],
    ) -> None:
        self.requests_answered = 0
        self._desk = desk
        self._send = send
        self._rejections = rejections
        self._clock = clock
        self._work_endpoint = work_endpoint
        self._per_key = BucketPerName(PER_KEY_PER_S, PER_KEY_BURST, _NAMES_MAX)
        self._per_address = BucketPerName(PER_ADDRESS_PER_S, PER_ADDRESS_BURST, _NAMES_MAX)
        self._in_all = TokenBucket(IN_ALL_PER_S, IN_ALL_BURST, clock())
        self._working: set[asyncio.Task[None]] = set()

    def take(self, incoming: IncomingFrame) -> None:
        """Handles one part of the enrollment port. Raises nothing for what is in it."""
        now = self._clock()
        # The narrow bounds first: what one key or address has too much of does not use up what all share.
        if not (
            self._per_key.take(incoming.public_key, now)
            and self._per_address.take(incoming.address, now)
            and self._in_all.take(now)
        ):
            self._turn_away(incoming, "too many requests")
            return
        try:
            wanted = self._permitted(incoming)
        except RemoteProtocolError as error:
            self._rejections.note(error.code, error.text, incoming.address)
            self._answer(incoming, _answer("refused", f"{error.text} [{error.code}]", 0))
            return
        if len(self._working) >= WORKING_MAX:
            self._turn_away(incoming, "too many requests at once")
            return
        task = asyncio.get_running_loop().create_task(self._work(incoming, wanted), name="enrollment request")
        self._working.add(task)
        task.add_done_callback(self._finish)

    async def settled(self) -> None:
        """Returns when the requests that came so far are answered."""
        await asyncio.gather(*self._working, return_exceptions=True)

    async def close(self) -> None:
        """Gives up on the requests that are being worked on; their agents ask again."""
        working = list(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def _permitted(self, incoming: IncomingFrame) -> messages.EnrollRequest:
        wanted = codec.decode_enroll_request(incoming.payload)
        if type(wanted) not in messages.PERMITTED[messages.PeerState.ANONYMOUS]:
            raise RemoteProtocolError("WF213", "only a request to enroll may be sent to this port")
        if wanted.protocol < messages.PROTOCOL_VERSION_MIN:
            raise RemoteProtocolError("WF210", f"protocol {wanted.protocol} is not spoken any more: upgrade the agent")
        texts = (wanted.token, wanted.name, wanted.hostname, wanted.machine_id, wanted.agent_version, *wanted.groups)
        if len(wanted.groups) > _GROUPS_MAX or any(len(text) > _TEXT_LENGTH_MAX for text in texts):
            raise RemoteProtocolError("WF214", "too many groups, or a text that is too long")
        return wanted

    async def _work(self, incoming: IncomingFrame, wanted: messages.EnrollRequest) -> None:
        try:
            answer = await self._desk.request(incoming.public_key, wanted)
        except Retryable as error:
            answer = _answer("pending", str(error), int(error.after_s * 1000))
        except WaterflowError as error:
            code = error.code if isinstance(error, Rejected) else "WF217"
            self._rejections.note(code, error.text, incoming.address)
            answer = _answer("refused", str(error), 0)
        self._answer(incoming, answer)

    def _turn_away(self, incoming: IncomingFrame, text: str) -> None:
        self._rejections.note("WF217", text, incoming.address)
        self._answer(incoming, _answer("pending", f"{text}: ask again later [WF217]", BUSY_RETRY_MS))

    def _answer(self, incoming: IncomingFrame, answer: messages.EnrollAnswer) -> None:
        """Sends what was decided; the facts that only the link knows are filled in where the desk left them out."""
        answer = msgspec.structs.replace(
            answer,
            fingerprint=answer.fingerprint or fingerprint(incoming.public_key),
            work_endpoint=answer.work_endpoint or self._work_endpoint(),
        )
        try:
            payload = bytes(memoryview(codec.encode_message(answer)))
        except LocalProtocolError as error:
            _logger.error("an answer could not be sent: %s", error)
            return
        # An agent that is gone or takes nothing asks again.
        self._send(incoming.routing_id, payload)
        self.requests_answered += 1

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The supervision point per peer: the agent gets no answer and asks again.
            _logger.error("an enrollment request could not be handled", exc_info=error)


def _answer(state: str, text: str, after_ms: int) -> messages.EnrollAnswer:
    return messages.EnrollAnswer(
        state=state, text=text, fingerprint="", name="", groups=[], work_endpoint="", after_ms=after_ms
    )
