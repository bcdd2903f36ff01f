"""Seals every payload before Temporal stores it, and opens it again.

Anyone who may use a namespace of Temporal can read all event histories in it. So a payload (input, fact, signal, result,
failure, memo) is deflated and then encrypted with XChaCha20-Poly1305. The id of its workflow is additional data: a payload that
is copied into another workflow does not open there.

    data     head | nonce (24 bytes) | ciphertext
    head     version (1 byte) | length of the workflow's id (2 bytes, big-endian) | the workflow's id
    content  form (1 byte) | the payload as Temporal's client encoded it
    form     0 unchanged, 1 deflated (zlib), 2 deflated with a dictionary (raw deflate, `deflate_dictionary.py`)

A daemon knows which workflow a payload is for, and never believes the head. The id is there for Temporal's own tools, which
show payloads to people, and send nothing but the payload to the daemon that opens it (`payload_decoder.py`).

A payload that is not sealed, was changed, or belongs to another workflow never becomes valid. It does not raise an exception,
which would fail the workflow's task again and again, so that one signal sent by hand would stop a run forever. It becomes a
payload of the encoding `REFUSED`: the shell drops it, and nothing else can convert it to a value. A payload whose key is
missing does raise an exception: the task is repeated until an operator has added the key.

Content is deflated before it is encrypted, so the length of a payload reveals how repetitive its content is. The content has
no secrets, only references to them.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Self

from nacl import bindings
from nacl.exceptions import CryptoError
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.temporal.sealing.deflate_dictionary import DICTIONARY
from waterflowd.temporal.sealing.payload_keys import PayloadKeys
from waterflowd.temporal.workflow.messages import REFUSED

#: The encoding of a sealed payload.
SEALED = b"binary/waterflow-sealed"
#: The key's id in the metadata of a sealed payload.
KEY_FIELD = "waterflow-key"

VERSION = 1
#: Version and length, without the workflow's id.
_HEAD_BYTES = 3
_NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_PLAIN, _DEFLATED, _WITH_DICTIONARY = b"\x00", b"\x01", b"\x02"
_DOMAIN = b"waterflow payload\x00"

#: Temporal refuses payloads of 2 MB. The rest is room for the other payloads of the same event.
SEALED_BYTES_MAX = 1_500_000
#: With an object store; also the limit of what is inflated, because it is held in memory.
CONTENT_BYTES_MAX = 64 << 20
#: Smaller contents hardly shrink.
_DEFLATE_BYTES_MIN = 40
#: Most of what a larger content repeats is in the content itself.
_DICTIONARY_BYTES_MAX = 16 << 10
#: Larger ones take milliseconds, so they are handled on a thread.
_THREAD_BYTES_MIN = 256 << 10


def seal(payload: Payload, workflow_id: str, keys: PayloadKeys, nonce: bytes) -> Payload:
    """The sealed payload. `nonce` is 24 random bytes that are never used again."""
    content = payload.SerializeToString(deterministic=True)
    if len(content) > CONTENT_BYTES_MAX:
        raise _too_large(workflow_id, len(content), CONTENT_BYTES_MAX)
    form, deflated = _deflated(content)
    content = form + deflated if len(deflated) < len(content) else _PLAIN + content
    head = _head(workflow_id)
    encrypted = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(content, _DOMAIN + head, nonce, keys.sealing)
    return Payload(
        metadata={"encoding": SEALED, KEY_FIELD: keys.sealing_id.encode()}, data=b"".join((head, nonce, encrypted))
    )


def unseal(payload: Payload, workflow_id: str, keys: PayloadKeys, content_bytes_max: int | None = None) -> Payload:
    """The payload that was sealed, or one of the encoding `REFUSED` with the reason as its data.

    Raises `Stalled` WF810 when the key is missing, or when the payload was written by a newer release, and `Rejected` WF812
    when its content has more than `content_bytes_max`; the default is `CONTENT_BYTES_MAX`.
    """
    if payload.metadata.get("encoding") != SEALED:
        return _refused("it is not sealed")
    identifier = payload.metadata.get(KEY_FIELD, b"").decode("ascii", "replace")
    version, head = payload.data[:1], _head(workflow_id)
    if version > bytes((VERSION,)):
        raise Stalled(
            "WF810",
            f"a payload of workflow {workflow_id} has the format {version[0]}, which is newer than this release;"
            " next: upgrade this daemon",
        )
    key = keys.find(identifier)
    if key is None:
        raise Stalled(
            "WF810",
            f"a payload of workflow {workflow_id} is sealed with the key {identifier[:32]!r}, which the file of"
            " temporal.payload-keys does not contain; next: add this key as a further line, on every daemon",
        )
    nonce, encrypted = payload.data[len(head) :][:_NONCE_BYTES], payload.data[len(head) + _NONCE_BYTES :]
    try:
        if not payload.data.startswith(head):
            raise ValueError("its head is another one")
        content = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(encrypted, _DOMAIN + head, nonce, key)
    except (CryptoError, ValueError):
        return _refused("it was changed, or sealed for another workflow")
    return Payload.FromString(_inflated(content, workflow_id, content_bytes_max or CONTENT_BYTES_MAX))


def stated_workflow(payload: Payload) -> str | None:
    """The id of the workflow in the head of a sealed payload, which is true only if `unseal` opens the payload for it.

    None for a payload that is not sealed, and "" for an id that is not text, for which nothing opens.
    """
    if payload.metadata.get("encoding") != SEALED or len(payload.data) < _HEAD_BYTES:
        return None
    length = int.from_bytes(payload.data[1:_HEAD_BYTES], "big")
    try:
        return payload.data[_HEAD_BYTES : _HEAD_BYTES + length].decode()
    except UnicodeDecodeError:
        return ""


def refusal(payload: Payload) -> str:
    """Why a payload was refused; empty for one that was not."""
    return payload.data.decode() if payload.metadata.get("encoding") == REFUSED else ""


def _head(workflow_id: str) -> bytes:
    identifier = workflow_id.encode()
    return bytes((VERSION,)) + len(identifier).to_bytes(_HEAD_BYTES - 1, "big") + identifier


def _deflated(content: bytes) -> tuple[bytes, bytes]:
    """The form, and the content in it."""
    if len(content) < _DEFLATE_BYTES_MIN:
        return _PLAIN, content
    if len(content) > _DICTIONARY_BYTES_MAX:
        return _DEFLATED, zlib.compress(content)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=DICTIONARY)
    return _WITH_DICTIONARY, deflater.compress(content) + deflater.flush()


def _inflated(content: bytes, workflow_id: str, bytes_max: int) -> bytes:
    """The content without its form. The seal was valid, so a daemon wrote it; the limit holds for it as well."""
    if content[:1] == _PLAIN:
        if len(content) - 1 > bytes_max:
            raise _too_large(workflow_id, len(content) - 1, bytes_max)
        return content[1:]
    has_dictionary = content[:1] == _WITH_DICTIONARY
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, DICTIONARY) if has_dictionary else zlib.decompressobj()
    inflated = inflater.decompress(content[1:], bytes_max)
    if inflater.unconsumed_tail:
        raise _too_large(workflow_id, bytes_max + 1, bytes_max)
    return inflated


def _refused(reason: str) -> Payload:
    return Payload(metadata={"encoding": REFUSED}, data=reason.encode())


def _too_large(workflow_id: str, size: int, limit: int) -> Rejected:
    return Rejected(
        "WF812",
        f"a payload of workflow {workflow_id} has {size:,} bytes, the limit is {limit:,}; next: pass large data in files",
        status=413,
    )


class SealingCodec(PayloadCodec, WithSerializationContext):
    """The codec of Temporal's client, which binds it to a workflow before each use."""

    def __init__(
        self,
        keys: PayloadKeys,
        *,
        sealed_bytes_max: int = SEALED_BYTES_MAX,
        random: Callable[[int], bytes] = os.urandom,
        workflow_id: str = "",
    ) -> None:
        self._keys = keys
        self._sealed_bytes_max = sealed_bytes_max
        self._random = random
        self._workflow_id = workflow_id

    def with_context(self, context: SerializationContext) -> Self:
        """The codec for the payloads of one workflow, and of its activities."""
        identifier = None
        if isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
            identifier = context.workflow_id
        # The arguments of a local activity stay in this process; `StreamActivities` checks the size of what it returns.
        is_stored = not (isinstance(context, ActivitySerializationContext) and context.is_local)
        return type(self)(
            self._keys,
            sealed_bytes_max=self._sealed_bytes_max if is_stored else CONTENT_BYTES_MAX,
            random=self._random,
            workflow_id=identifier or "",
        )

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Seals payloads. Raises `Rejected` WF812 for one that Temporal would not store."""
        return [await self._on_thread(payload, self._seal, self._seal) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Opens payloads; one that must not be trusted becomes a payload of the encoding `REFUSED`."""
        return [await self._on_thread(payload, self._unseal, self._unseal_small) for payload in payloads]

    async def _on_thread(
        self, payload: Payload, call: Callable[[Payload], Payload], call_small: Callable[[Payload], Payload | None]
    ) -> Payload:
        """Only small payloads are handled at once; `call_small` returns None for one that turns out to be large."""
        if not self._workflow_id:
            raise RuntimeError("the codec is not bound to a workflow")
        made = call_small(payload) if len(payload.data) < _THREAD_BYTES_MIN else None
        return made if made is not None else await asyncio.to_thread(call, payload)

    def _seal(self, payload: Payload) -> Payload:
        sealed = seal(payload, self._workflow_id, self._keys, self._random(_NONCE_BYTES))
        if len(sealed.data) > self._sealed_bytes_max:
            raise _too_large(self._workflow_id, len(sealed.data), self._sealed_bytes_max)
        return sealed

    def _unseal_small(self, payload: Payload) -> Payload | None:
        """None if a small payload inflates to a large one."""
        try:
            return unseal(payload, self._workflow_id, self._keys, _THREAD_BYTES_MIN)
        except Rejected:
            return None

    def _unseal(self, payload: Payload) -> Payload:
        return unseal(payload, self._workflow_id, self._keys)
