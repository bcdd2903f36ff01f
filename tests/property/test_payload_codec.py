"""Sealing of payloads with generated contents, workflows and keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from waterflow_agent.errors import Stalled
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

payloads = st.builds(
    Payload,
    metadata=st.dictionaries(st.text(max_size=20), st.binary(max_size=40), max_size=4),
    data=st.one_of(st.binary(max_size=600), st.binary(min_size=1, max_size=8).map(lambda part: part * 400)),
)
workflows = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
nonces = st.binary(min_size=24, max_size=24)
keys = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True)


@given(payload=payloads, workflow=workflows, nonce=nonces, known=keys)
def test_every_payload_opens_as_it_was_sealed(
    payload: Payload, workflow: str, nonce: bytes, known: list[bytes]
) -> None:
    """Whatever its content, and also after the key was renewed."""
    sealed = codec.seal(payload, workflow, PayloadKeys(known), nonce)
    renewed = PayloadKeys([bytes(32), *known] if bytes(32) not in known else known)
    assert codec.unseal(sealed, workflow, renewed) == payload


@given(payload=payloads, sealed_for=workflows, opened_for=workflows, nonce=nonces, known=keys)
def test_no_payload_opens_for_another_workflow(
    payload: Payload, sealed_for: str, opened_for: str, nonce: bytes, known: list[bytes]
) -> None:
    """The id is part of what the seal covers."""
    sealed = codec.seal(payload, sealed_for, PayloadKeys(known), nonce)
    is_refused = bool(codec.refusal(codec.unseal(sealed, opened_for, PayloadKeys(known))))
    assert is_refused is (sealed_for != opened_for)


@given(data=st.binary(max_size=200), identifier=st.sampled_from(["own", "none"]), workflow=workflows)
def test_no_made_up_bytes_open(data: bytes, identifier: str, workflow: str) -> None:
    """Bytes that no key has sealed never become a payload."""
    known = PayloadKeys([bytes(32)])
    field = known.sealing_id.encode() if identifier == "own" else b""
    made_up = Payload(metadata={"encoding": codec.SEALED, codec.KEY_FIELD: field}, data=b"\x01" + data)
    if identifier == "own":
        assert codec.refusal(codec.unseal(made_up, workflow, known))
    else:
        with pytest.raises(Stalled, match="WF810"):
            codec.unseal(made_up, workflow, known)
