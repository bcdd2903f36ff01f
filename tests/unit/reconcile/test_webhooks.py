"""Webhooks without HTTP: signatures, deliveries, keys, and the ownership of names."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.model.plan import Triggers, WebhookTrigger
from waterflowd.reconcile import events, state, webhooks

MAIN = "refs/heads/main"
NOW = 1_800_000_000


def digest(text: bytes, secret: str = "s3cret") -> str:
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


@given(st.binary(max_size=100), st.binary(max_size=100), st.text(min_size=1, max_size=20))
def test_only_a_signature_of_the_body_is_genuine(body: bytes, other: bytes, secret: str) -> None:
    """Each of the known headers is accepted, and a signature of another body is not."""
    body = b"{" + body
    for name, prefix in webhooks.SIGNATURES.items():
        headers = {name: prefix + digest(body, secret)}
        assert webhooks.is_genuine(secret, headers, body, NOW)
        assert webhooks.is_genuine(secret, headers, other, NOW) is (other == body)
        assert not webhooks.is_genuine(secret + "x", headers, body, NOW)
        assert not webhooks.is_genuine(None, headers, body, NOW)
    assert not webhooks.is_genuine(secret, {}, body, NOW)


def test_an_empty_secret_is_never_valid() -> None:
    """Neither an empty secret nor the placeholder for a missing one makes a signature valid."""
    for key in ("", "no secret"):
        headers = {"x-hub-signature-256": "sha256=" + digest(b"{}", key)}
        assert not webhooks.is_genuine("", headers, b"{}", NOW)
        assert not webhooks.is_genuine(None, headers, b"{}", NOW)


def test_a_request_with_a_timestamp_is_valid_for_five_minutes() -> None:
    """The limit applies in both directions, to the second."""

    def is_genuine(at: int) -> bool:
        headers = {"x-gitea-signature": digest(f"{at}..body".encode()), webhooks.TIMESTAMP: str(at)}
        return webhooks.is_genuine("s3cret", headers, b"body", NOW)

    assert [is_genuine(NOW + late) for late in (-301, -300, 0, 300, 301)] == [False, True, True, True, False]


@given(st.text(max_size=50))
def test_hostile_headers_do_not_raise(text: str) -> None:
    """A request is genuine or not, whatever its headers contain."""
    names = (*webhooks.SIGNATURES, *webhooks.DELIVERIES, *webhooks.EVENTS, webhooks.TIMESTAMP)
    headers = dict.fromkeys(names, text)
    assert not webhooks.is_genuine("s3cret", headers, b"{}", NOW)
    webhooks.delivery(headers, b"{}", NOW)


def test_keys_of_deliveries_fit_into_the_index() -> None:
    """A long name ends in a hash, and two deliveries never share a key."""
    keys = {webhooks.trigger_key("r" * 300, "n" * 100, f"d{number}") for number in range(10)}
    assert len(keys) == 10
    assert all(len(key.encode()) <= 400 for key in keys)


def hooked(path: str, blob: str, name: str | None) -> events.FileApplied:
    hook = WebhookTrigger(name=name, secret="HOOK") if name else None
    return events.FileApplied(path=path, blob=blob, plan_hash=blob, triggers=Triggers(webhook=hook))


def applied(number: int, *files: events.FileApplied, removed: tuple[str, ...] = ()) -> events.RevisionApplied:
    return events.RevisionApplied(
        at=number, ref=MAIN, update_number=number, commit=f"c{number}", tree="t", files=files, removed=removed
    )


def test_a_file_owns_its_name_as_long_as_it_keeps_it() -> None:
    """It keeps its position when changed, broken for a while or renamed, and loses it by giving the name up."""
    held = state.RepositoryState(name="ops", refs={}, schedules={})

    def since(path: str) -> int:
        return held.refs[MAIN].files[path].webhook_since

    state.evolve(held, applied(1, hooked("a.yml", "1", "x")), 10)
    state.evolve(held, applied(2, hooked("a.yml", "2", "x")), 20)
    state.evolve(held, applied(3, events.FileApplied(path="a.yml", blob="3")), 30)
    state.evolve(held, applied(4, hooked("a.yml", "4", "x")), 40)
    assert since("a.yml") == 10
    state.evolve(held, applied(5, hooked("b.yml", "4", "x"), removed=("a.yml",)), 50)
    assert since("b.yml") == 10
    state.evolve(held, applied(6, hooked("b.yml", "6", None)), 60)
    state.evolve(held, applied(7, hooked("b.yml", "7", "x")), 70)
    assert since("b.yml") == 70
