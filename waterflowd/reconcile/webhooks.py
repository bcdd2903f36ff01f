"""Webhooks: what makes a request genuine, which delivery it is, and the run that it starts.

Rules of this file:

- A request is genuine when every signature that it carries is the HMAC-SHA256 of what was sent, under the secret that the
  workflow names. There is one at least. SHA-1 and plain tokens are no signatures. Comparisons take constant time, and an
  unknown hook costs what a known one costs.
- With `X-Waterflow-Timestamp` (seconds since 1970) the signed text is `timestamp.delivery.body`, and it is good for five
  minutes. Without it the signed text is the body, as on GitHub; it may not look like the other form, or a captured request
  could be sent again as one without a time.
- A delivery has an id, by which it starts one run. Senders without ids send nothing twice on purpose: the same body is the
  same delivery for five to ten minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import ref_updates
from waterflowd.reconcile.state import RefState

#: How far a time in a request may be from the daemon's.
WINDOW_S = 300
#: Headers that hold a signature, in small letters, and what stands before the hexadecimal digits.
SIGNATURES = {"x-hub-signature-256": "sha256=", "x-gitea-signature": "", "x-gogs-signature": ""}
#: Headers that hold the delivery's id; the first one that is there counts.
DELIVERIES = ("x-waterflow-delivery", "x-github-delivery", "x-gitea-delivery", "x-gogs-delivery")
TIMESTAMP = "x-waterflow-timestamp"
#: Headers that say what happened at the sender.
EVENTS = ("x-github-event", "x-gitea-event", "x-gogs-event")

_DELIVERY = re.compile(r"[A-Za-z0-9_:-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,12}")
_TIMED = re.compile(rb"[0-9]{1,12}\.[A-Za-z0-9_:-]{0,128}\.")
_KEY_BYTES_MAX = 400
_EVENT_LENGTH_MAX = 100
#: What the run adds to the payload.
RESERVED = frozenset({"name", "webhook", "payload"})


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A genuine request, as far as it is not payload."""

    id: str
    #: Other ids under which the same request may have come before.
    earlier: tuple[str, ...] = ()
    #: What the sender calls it, such as GitHub's `issues`; empty when it says nothing.
    event: str = ""


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether there is a signature at all, good or not."""
    return any(name in headers for name in SIGNATURES)


def is_genuine(secret: str | None, headers: Mapping[str, str], body: bytes, wall_s: int) -> bool:
    """Whether the request comes from who knows the secret; without a secret nobody does."""
    timestamp = headers.get(TIMESTAMP)
    signed = body if timestamp is None else _timed(timestamp, headers, body)
    expected = hmac.new((secret or "no secret").encode("utf-8", "surrogateescape"), signed, hashlib.sha256).hexdigest()
    wrong = 0
    for name, prefix in SIGNATURES.items():
        if name in headers:
            given = headers[name].strip().lower()
            wrong += not hmac.compare_digest(given.encode(), (prefix + expected).encode())
    is_fresh = _TIMED.match(body) is None if timestamp is None else _is_fresh(timestamp, wall_s)
    return bool(secret) and is_signed(headers) and not wrong and is_fresh


def delivery(headers: Mapping[str, str], body: bytes, wall_s: int) -> Delivery | None:
    """Which delivery a genuine request is; None when its id is no id."""
    event = next((headers[name][:_EVENT_LENGTH_MAX] for name in EVENTS if name in headers), "")
    stated = _stated(headers)
    if stated:
        return Delivery(id=stated, event=event) if _DELIVERY.fullmatch(stated) else None
    timestamp = headers.get(TIMESTAMP)
    if timestamp is not None:
        return Delivery(id=f"sha256-{hashlib.sha256(_timed(timestamp, headers, body)).hexdigest()}", event=event)
    digest, window = hashlib.sha256(body).hexdigest(), wall_s // WINDOW_S
    # The next window too: a clock that is set back a little must not make another delivery of it.
    earlier = (f"sha256-{digest}-{window - 1}", f"sha256-{digest}-{window + 1}")
    return Delivery(id=f"sha256-{digest}-{window}", earlier=earlier, event=event)


def trigger_key(repository: str, name: str, delivery_id: str) -> str:
    """The text under which a delivery starts its run once; long ones end in a hash."""
    key = f"hook:{repository}:{name}:{delivery_id}"
    if len(key.encode()) > _KEY_BYTES_MAX:
        key = f"hook:{repository}:sha256-{hashlib.sha256(key.encode()).hexdigest()}"
    return key


def event_of(payload: Any, name: str, of: Delivery) -> dict[str, Any]:
    """The `event` context: what was sent, and `webhook`, which says how it came.

    What is no object, or has a key that is taken, stands as a whole in `event.payload`.
    """
    how: dict[str, Any] = {"name": "webhook", "webhook": {"name": name, "delivery": of.id, "event": of.event}}
    if isinstance(payload, dict) and RESERVED.isdisjoint(payload):
        return {**payload, **how}
    return {**how, "payload": payload}


def trigger_keys(repository: str, name: str, of: Delivery) -> tuple[str, ...]:
    """The delivery's own key, and those under which it may have come before."""
    return tuple(trigger_key(repository, name, delivery_id) for delivery_id in (of.id, *of.earlier))


def start_request(
    plan: bytes, repository: str, ref: RefState, name: str, of: Delivery, event: dict[str, Any]
) -> StartRequest:
    """The request that starts the run of a delivery, at the applied commit; the first run, if it came before."""
    key, *earlier = trigger_keys(repository, name, of)
    return StartRequest(
        plan=plan,
        repository=repository,
        revision=ref.commit,
        trigger=Trigger(
            kind=TriggerKind.WEBHOOK,
            by=f"hook:{name}",
            key=key,
            ref=ref.ref,
            git=ref_updates.git_context(repository, ref.ref, ref.commit, ref.author, ref.message),
            payload=event,
        ),
        earlier_keys=tuple(earlier),
    )


def _stated(headers: Mapping[str, str]) -> str:
    return next((headers[name] for name in DELIVERIES if name in headers), "")


def _timed(timestamp: str, headers: Mapping[str, str], body: bytes) -> bytes:
    return f"{timestamp}.{_stated(headers)}.".encode("utf-8", "surrogateescape") + body


def _is_fresh(timestamp: str, wall_s: int) -> bool:
    return _SECONDS.fullmatch(timestamp) is not None and abs(wall_s - int(timestamp)) <= WINDOW_S
