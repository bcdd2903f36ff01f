"""Identifiers. Each kind has its own type, so that two kinds cannot be confused. Ids are never reused.

A run's id is a ULID: 48 bits of milliseconds and 80 random bits in Crockford's base 32 (26 characters), so ids
sort by creation. Time and randomness arrive as arguments; this module reads neither.
Source of the format: the ULID specification, https://github.com/ulid/spec.
"""

from __future__ import annotations

import hashlib
from typing import NewType

from waterflow_agent.attempts import AttemptId, AttemptNo, JobId, RunId, StepId

__all__ = [
    "AUDIT",
    "FLEET",
    "NOTICES",
    "REPOSITORIES",
    "RUN_ID_LENGTH",
    "AgentId",
    "AttemptId",
    "AttemptNo",
    "JobId",
    "RunId",
    "StepId",
    "StreamName",
    "is_run_id",
    "repository_stream",
    "run_id",
    "run_stream",
]

#: Fingerprint of the agent's public key: `SHA256:` and 43 characters of unpadded base 64.
AgentId = NewType("AgentId", str)
#: Name of a stream of the log: `run/<id>`, `repo/<name>`, `repositories`, `notices`, `fleet`, `audit`.
StreamName = NewType("StreamName", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS = frozenset(_ALPHABET)
_RANDOM_BITS = 80
RUN_ID_LENGTH = 26

#: A key of the log's index has at most 511 bytes, and the store adds a prefix.
_TRIGGER_KEY_BYTES_MAX = 400

FLEET = StreamName("fleet")
AUDIT = StreamName("audit")
#: Who was, and is to be, told of what.
NOTICES = StreamName("notices")
#: Which repositories were added through the API.
REPOSITORIES = StreamName("repositories")


def run_id(at: int, randomness: int) -> RunId:
    """Builds a run's id from a time in milliseconds and 80 random bits."""
    number = ((at & ((1 << 48) - 1)) << _RANDOM_BITS) | (randomness & ((1 << _RANDOM_BITS) - 1))
    return RunId("".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5)))


def is_run_id(text: str) -> bool:
    """Tells whether `text` has the form of a whole run id."""
    return len(text) == RUN_ID_LENGTH and text[0] <= "7" and _DIGITS.issuperset(text)


def run_stream(run: RunId) -> StreamName:
    """The stream that holds the events of `run`."""
    return StreamName(f"run/{run}")


def repository_stream(name: str) -> StreamName:
    """The stream that holds what was observed and applied of the repository `name`."""
    return StreamName(f"repo/{name}")


def trigger_key(scope: str, trigger: str) -> str:
    """The key that lets one trigger start at most one run: `SCOPE:TRIGGER`, the trigger as a hash when the key is too long.

    The scope says what starts the run and for whom (`push:ops`); it must be short enough to leave room for the hash.
    """
    key = f"{scope}:{trigger}"
    if len(key.encode()) <= _TRIGGER_KEY_BYTES_MAX:
        return key
    return f"{scope}:sha256-{hashlib.sha256(trigger.encode()).hexdigest()}"
