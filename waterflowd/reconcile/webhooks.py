"""Webhooks: verifies signatures, identifies deliveries, and makes the request that starts a run.

Rules of this file:

- A request is genuine if it has at least one signature, and each of its signatures is the HMAC-SHA256 of the signed text with
  the workflow's secret. SHA-1 and plain tokens are not accepted. Comparisons take constant time, and an unknown webhook takes
  as long as a known one.
- With `X-Waterflow-Timestamp` (seconds since 1970) the signed text is `timestamp.delivery.body`, which is valid for five
  minutes. Without it the signed text is the body, as on GitHub; a body that looks like the other form is refused, because a
  captured request could otherwise be replayed without its timestamp.
- A delivery has an id, and starts one run. If the sender gives none, an equal body is the same delivery for five to ten
  minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from waterflowd.model import ids
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import ref_updates
from waterflowd.reconcile.state import RefState

#: How far a request's timestamp may be from the daemon's clock.
WINDOW_S = 300
#: Headers with a signature, in lower case, and the prefix of the hexadecimal digits.
SIGNATURES = {"x-hub-signature-256": "sha256=", "x-gitea-signature": "", "x-gogs-signature": ""}
#: Headers with the delivery id; the first one that is present counts.
DELIVERIES = ("x-waterflow-delivery", "x-github-delivery", "x-gitea-delivery", "x-gogs-delivery")
TIMESTAMP = "x-waterflow-timestamp"
#: Headers with the sender's name for the event.
EVENTS = ("x-github-event", "x-gitea-event", "x-gogs-event")

_DELIVERY = re.compile(r"[A-Za-z0-9_:-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,12}")
_TIMED = re.compile(rb"[0-9]{1,12}\.[A-Za-z0-9_:-]{0,128}\.")
_EVENT_LENGTH_MAX = 100
#: Keys that the `event` context adds to the payload.
RESERVED = frozenset({"name", "webhook", "payload"})


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a genuine request."""

    id: str
    #: Other ids under which the same request may have been delivered before.
    earlier: tuple[str, ...] = ()
    #: The sender's name for the event, such as GitHub's `issues`; empty if not given.
    event: str = ""


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether there is a signature, valid or not."""
    return any(name in headers for name in SIGNATURES)


def is_genuine(secret: str | None, headers: Mapping[str, str], body: bytes, wall_s: int) -> bool:
    """Whether the request was signed with the secret; False without a secret."""
    timestamp = headers.get(TIMESTAMP)
    signed = body if timestamp is None else _signed_text(timestamp, headers, body)
    expected = hmac.new((secret or "no secret").encode("utf-8", "surrogateescape"), signed, hashlib.sha256).hexdigest()
    wrong = 0
    for name, prefix in SIGNATURES.items():
        if name in headers:
            signature = headers[name].strip().lower()
            wrong += not hmac.compare_digest(signature.encode(), (prefix + expected).encode())
    is_fresh = _TIMED.match(body) is None if timestamp is None else _is_fresh(timestamp, wall_s)
    return bool(secret) and is_signed(headers) and not wrong and is_fresh


def delivery(headers: Mapping[str, str], body: bytes, wall_s: int) -> Delivery | None:
    """The delivery of a genuine request; None if its id is invalid."""
    event = next((headers[name][:_EVENT_LENGTH_MAX] for name in EVENTS if name in headers), "")
    delivery_id = _delivery_header(headers)
    if delivery_id:
        return Delivery(id=delivery_id, event=event) if _DELIVERY.fullmatch(delivery_id) else None
    timestamp = headers.get(TIMESTAMP)
    if timestamp is not None:
        return Delivery(id=f"sha256-{hashlib.sha256(_signed_text(timestamp, headers, body)).hexdigest()}", event=event)
    digest, window = hashlib.sha256(body).hexdigest(), wall_s // WINDOW_S
    # The next window too: a clock that is set back a little must not make it another delivery.
    earlier = (f"sha256-{digest}-{window - 1}", f"sha256-{digest}-{window + 1}")
    return Delivery(id=f"sha256-{digest}-{window}", earlier=earlier, event=event)


def trigger_key(repository: str, name: str, delivery_id: str) -> str:
    """The key under which a delivery starts its run once; a long one ends in a hash."""
    return ids.trigger_key(f"hook:{repository}", f"{name}:{delivery_id}")


def event_of(payload: Any, name: str, of: Delivery) -> dict[str, Any]:
    """The `event` context: the payload, and `webhook` with the name, delivery id and event.

    A payload that is not an object, or has a reserved key, is put into `event.payload` as a whole.
    """
    added: dict[str, Any] = {"name": "webhook", "webhook": {"name": name, "delivery": of.id, "event": of.event}}
    if isinstance(payload, dict) and RESERVED.isdisjoint(payload):
        return {**payload, **added}
    return {**added, "payload": payload}


def trigger_keys(repository: str, name: str, of: Delivery) -> tuple[str, ...]:
    """The delivery's key, and those under which it may have started a run before."""
    return tuple(trigger_key(repository, name, delivery_id) for delivery_id in (of.id, *of.earlier))


def start_request(
    plan: bytes, repository: str, ref: RefState, name: str, of: Delivery, event: dict[str, Any]
) -> StartRequest:
    """The request that starts the run of a delivery at the applied commit, or finds its earlier run."""
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


def _delivery_header(headers: Mapping[str, str]) -> str:
    return next((headers[name] for name in DELIVERIES if name in headers), "")


def _signed_text(timestamp: str, headers: Mapping[str, str], body: bytes) -> bytes:
    return f"{timestamp}.{_delivery_header(headers)}.".encode("utf-8", "surrogateescape") + body


def _is_fresh(timestamp: str, wall_s: int) -> bool:
    return _SECONDS.fullmatch(timestamp) is not None and abs(wall_s - int(timestamp)) <= WINDOW_S
