"""The event loop's time for the API: how much of an iteration its clients get, and how much each client has taken.

Rules of this file:

- What clients of one listener cause (new connections, bytes that arrive, each step of their requests) gets one time slice in
  each iteration of the loop. What does not fit waits for its turn, in the order in which it came. So the daemon's own work is
  delayed by a slice at most, however many clients there are.
- A step of a run needs several iterations. While the daemon's own work is under way, clients rest between their slices: they
  still get a part of the time, but not a part of each iteration.
- A client's requests and streams are charged to it as they work. A stream whose client has used up its time rests.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from waterflowd.rates import BucketPerName, TokenBucket

#: One small request or a few refusals: the daemon needs several iterations of the loop for each step of a run.
SLICE_S = 0.000_25
#: How long clients rest after a slice while the daemon's own work is under way.
REST_S = 0.001
#: The first guess of what one piece of work takes.
_USUAL_S = 0.000_2
#: Weight of the newest piece in their average.
_NEWEST = 0.05


_Result = TypeVar("_Result")


class LoopShare:
    """The slices of one listener's clients. Everything is called on the event loop's thread."""

    def __init__(self, is_busy: Callable[[], bool] = lambda: False, slice_s: float = SLICE_S) -> None:
        """`is_busy` tells whether the daemon's own work is under way."""
        self._is_busy = is_busy
        self._slice_s = self._left_s = slice_s
        #: What one piece of work takes on average.
        self._usual_s = _USUAL_S
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._renewal: asyncio.Handle | None = None

    @property
    def is_free(self) -> bool:
        """Whether work may begin now. If not, `wait` tells when."""
        return self._left_s > 0 and not self._waiting

    def wait(self) -> asyncio.Future[None]:
        """Done when it is the caller's turn, in one of the next iterations of the loop. Cancel it to give up the place."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._renew_later()
        return place

    def spend(self, seconds: float) -> None:
        """Charges a piece of work to this iteration of the loop."""
        self._left_s -= seconds
        self._usual_s += (seconds - self._usual_s) * _NEWEST
        self._renew_later()

    def _renew_later(self) -> None:
        if self._renewal is None:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(REST_S, self._renew) if self._is_busy() else loop.call_soon(self._renew)

    def _renew(self) -> None:
        self._renewal = None
        self._left_s = self._slice_s
        count = max(1, int(self._slice_s / self._usual_s))
        while self._waiting and count:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                count -= 1
        if self._waiting:
            self._renew_later()


class Meter:
    """Whom the time of a request is charged to: the share of its listener and, once it is known, its client."""

    def __init__(self, share: LoopShare) -> None:
        self.share = share
        self._bucket: Callable[[int], TokenBucket] | None = None
        self._now: Callable[[], int] | None = None

    def charge_to(self, times: BucketPerName, client: str, now: Callable[[], int]) -> None:
        """Charges to the bucket of this client from now on, in ms. `now` is its clock."""
        self._bucket, self._now = functools.partial(times.bucket, client), now

    def spend(self, seconds: float) -> None:
        """Charges time that has passed."""
        self.share.spend(seconds)
        if self._bucket is not None and self._now is not None:
            self._bucket(self._now()).spend(seconds * 1000)

    def rest_s(self) -> float:
        """How long the client has to rest; 0 if it has time left."""
        if self._bucket is None or self._now is None:
            return 0.0
        now = self._now()
        bucket = self._bucket(now)
        return bucket.wait_ms(now) / 1000 if bucket.is_spent(now) else 0.0


class Timed(Awaitable[_Result]):
    """A coroutine, to be awaited once, whose steps wait for their turns and are charged to a meter.

    Tasks that it starts are not: they need their own. With `rests` it also waits while its client has no time left.
    """

    def __init__(self, coroutine: Awaitable[_Result], meter: Meter, *, rests: bool = False) -> None:
        self._coroutine = coroutine
        self._meter = meter
        self._rests = rests

    def __await__(self) -> Generator[Any, Any, _Result]:
        """Runs the coroutine in the task that awaits it."""
        steps = self._coroutine.__await__()
        meter = self._meter
        has_begun = False
        waiting: Any = None
        while True:
            error: BaseException | None = None
            try:
                if has_begun:
                    yield waiting
                if self._rests and (rest_s := meter.rest_s()):
                    # Once: many streams of one client go on together, and the more they take, the longer they rest next time.
                    yield from asyncio.sleep(rest_s).__await__()
                if not meter.share.is_free:
                    yield from meter.share.wait()
            except BaseException as thrown:  # noqa: BLE001 - whatever the loop throws, such as a cancellation, is passed on
                error = thrown
            has_begun = True
            began = time.thread_time()
            try:
                waiting = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                result: _Result = end.value
                return result
            finally:
                meter.spend(time.thread_time() - began)
