"""The messages between the agent and the runner, and their frames.

A frame is a length (4 bytes, big endian) and a JSON list of messages; each message is an object with a `type`. Many
messages share a frame, because at hundreds of steps a second the wake-up of the other side is the main cost. Frames over
`FRAME_BYTES_MAX` end the connection. Unknown fields are ignored; unknown types are answered with `error`.

    agent -> runner                                       runner -> agent
    start   name argv cwd env timeout_ms stop_signal      hello    protocol release pid boot_id
            grace_ms output_bytes_max cgroup user                  can_switch limits leftovers
            within job joins_output and limits            started  name pid at
    cancel  name reason                                   output   name bytes      (a hint: the spool grew to that size)
    confirm at                                            exited   name result
    status                                                held     attempts [name state pid at output_bytes result]
    forget  name                                                   jobs
    end-job job                                           job-ended job processes [name pid age_ms]
    stop                                                  error    name text       (name may be null)
                                                          leftovers count          (killed since the runner's start)
                                                          replaced                 (a newer agent took over)

`job` (any text) lets the step leave processes behind when it exits. They run until `end-job` of this job, which `job-ended`
answers once all are gone; its processes are those that were ended, named by the kernel. `jobs` of `held` are those with such
processes.

`joins_output` gives the step one pipe for standard output and standard error, so that their order is kept.

`confirm` extends the leases (see `leases`): at `at` (boot clock) the daemon knew that the agent was alive.

`start` is idempotent by name: a second one is answered with the state of the first. Text is UTF-8; other bytes (in an argument
or a path) are lone surrogates, as with Python's `surrogateescape`.

A result has `exit_code` (null when a signal ended the process), `signal`, `reason` (`exited`, `timed-out`, `cancelled`,
`lease-ended`, `limit`, `spawn-failed`, `lost`), `started_at` and `finished_at` (milliseconds, wall clock), `output_bytes` (all
that the step printed), `output_dropped` (bytes of it that the spool lacks), `error` (null, or a sentence for people) and
`has_commands` (false when the output certainly has no workflow commands, because it contains no `::`). If the step left
processes behind, it has `left` (the first ones, as in `job-ended`) and `left_count`, or `ended_count` if these were too many
to stay.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Message = dict[str, object]

#: Increased when an older peer would misunderstand a message; not for new fields.
PROTOCOL = 2
#: Twice the limit of Linux for arguments and environment of a process, which leaves room for JSON escapes.
FRAME_BYTES_MAX = 8 * 1024 * 1024
#: Enough for any log that a person reads. Of a longer one the first and the last part are kept.
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
#: Between the stop signal and the kill, as with Docker.
GRACE_MS = 10_000
#: A name is used as a directory name (255 bytes at most) with room for a suffix.
NAME_CHARACTERS_MAX = 200
SIGTERM = 15
SIGNAL_MAX = 64

REASONS = frozenset({"exited", "timed-out", "cancelled", "lease-ended", "limit", "spawn-failed", "lost"})

_LENGTH = struct.Struct(">I")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_encode_json = json.JSONEncoder(separators=(",", ":")).encode


class BadMessage(ValueError):
    """The peer sent an invalid frame, message or request."""


def to_json(message: Message) -> bytes:
    """Return the message as one line of ASCII JSON, without a newline."""
    return _encode_json(message).encode("ascii")


def encode(message: Message) -> bytes:
    """Return the bytes of the message within a frame. Raises `BadMessage` when it is too large for a frame."""
    encoded = to_json(message)
    if len(encoded) > FRAME_BYTES_MAX - 2:
        raise BadMessage(f"a message has {len(encoded)} bytes; the limit is {FRAME_BYTES_MAX - 2}")
    return encoded


def frames(encoded: Iterable[bytes]) -> bytes:
    """Return encoded messages in as few frames as possible."""
    framed = bytearray()
    batch: list[bytes] = []
    size = 1
    for message in encoded:
        if batch and size + len(message) + 1 > FRAME_BYTES_MAX:
            framed += _frame(batch)
            batch, size = [], 1
        batch.append(message)
        size += len(message) + 1
    if batch:
        framed += _frame(batch)
    return bytes(framed)


def _frame(batch: list[bytes]) -> bytes:
    body = b"[" + b",".join(batch) + b"]"
    return _LENGTH.pack(len(body)) + body


def is_name(name: object) -> bool:
    """Whether `name` is safe as the name of a directory: letters, digits, `.`, `_`, `-`, not starting with a dot."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= NAME_CHARACTERS_MAX
        and name[0] not in ".-"
        and _NAME_CHARACTERS.issuperset(name)
    )


class Decoder:
    """Decodes a byte stream; keeps an incomplete frame until more bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> list[Message]:
        """Return the messages that `received` completes, in order. After a `BadMessage` the decoder cannot be used."""
        buffer = self._buffer
        buffer += received
        messages: list[Message] = []
        position = 0
        while len(buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, position)
            if length > FRAME_BYTES_MAX:
                raise BadMessage(f"a frame has {length} bytes; the limit is {FRAME_BYTES_MAX}")
            end = position + _LENGTH.size + length
            if len(buffer) < end:
                break
            messages += _parse(bytes(buffer[position + _LENGTH.size : end]))
            position = end
        del buffer[:position]
        return messages


def _parse(body: bytes) -> list[Message]:
    try:
        messages = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"a frame is not JSON: {error}") from error
    if not isinstance(messages, list):
        raise BadMessage("a frame is not a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise BadMessage("a message is not an object with a type")
    return messages


class StartRequest:
    """A checked `start` message: what to run, and its limits."""

    __slots__ = (
        "argv",
        "cgroup",
        "cpu_percent_max",
        "cwd",
        "env",
        "grace_ms",
        "job",
        "joins_output",
        "lease_ms",
        "memory_bytes_max",
        "name",
        "output_bytes_max",
        "pids_max",
        "stop_signal",
        "timeout_ms",
        "user",
        "within",
    )

    def __init__(self, message: Message) -> None:
        """Read the message. Raises `BadMessage` with the name of the field."""
        name = message.get("name")
        if not isinstance(name, str) or not is_name(name):
            raise BadMessage(f"name: {name!r} is not a safe name")
        self.name: str = name
        self.argv: list[str] = _text_list(message, "argv")
        self.cwd: str = _absolute_path(message, "cwd")
        self.env: dict[str, str] = _environment(message)
        self.timeout_ms: int | None = _number(message, "timeout_ms", None)
        self.grace_ms: int = _number(message, "grace_ms", GRACE_MS) or 0
        self.output_bytes_max: int = _number(message, "output_bytes_max", OUTPUT_BYTES_MAX) or 0
        #: 0: the step continues without the daemon.
        self.lease_ms: int = _number(message, "lease_ms", 0) or 0
        self.stop_signal: int = _number(message, "stop_signal", SIGTERM) or SIGTERM
        if self.stop_signal > SIGNAL_MAX:
            raise BadMessage(f"stop_signal: {self.stop_signal} is not a signal")
        self.cgroup: bool = message.get("cgroup", True) is True
        self.pids_max: int | None = _number(message, "pids_max", None)
        self.memory_bytes_max: int | None = _number(message, "memory_bytes_max", None)
        self.cpu_percent_max: int | None = _number(message, "cpu_percent_max", None)
        #: The user of the process; None for the runner's own.
        self.user: str | None = _text(message, "user")
        #: The directory that the working directory of another user's process must not leave.
        self.within: str | None = _text(message, "within")
        #: The job until whose end processes may run that the step leaves behind; None for none.
        self.job: str | None = _text(message, "job")
        #: One pipe for both outputs.
        self.joins_output: bool = message.get("joins_output") is True

    @property
    def limits(self) -> dict[str, int]:
        """The limits that need a control group, by name."""
        limits = {"processes": self.pids_max, "memory": self.memory_bytes_max, "cpu": self.cpu_percent_max}
        return {name: value for name, value in limits.items() if value is not None}


def _text(message: Message, key: str) -> str | None:
    value = message.get(key)
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise BadMessage(f"{key}: expected text, found {value!r}")
    return value


def _text_list(message: Message, key: str) -> list[str]:
    value = message.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise BadMessage(f"{key}: expected a non-empty list of strings")
    if any("\0" in item for item in value) or not value[0]:
        raise BadMessage(f"{key}: a NUL byte or an empty program name")
    return value


def _absolute_path(message: Message, key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise BadMessage(f"{key}: expected an absolute path, found {value!r}")
    return value


def _environment(message: Message) -> dict[str, str]:
    value = message.get("env")
    if not isinstance(value, dict):
        raise BadMessage("env: expected an object of strings")
    for name, text in value.items():
        if not isinstance(text, str) or not name or "=" in name or "\0" in name or "\0" in text:
            # The value may be a secret, so only the name is reported.
            raise BadMessage(f"env: {name!r} is not a valid variable name, or its value contains a NUL byte")
    return value


def _number(message: Message, key: str, default: int | None) -> int | None:
    value = message.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise BadMessage(f"{key}: expected a number from 0 to 2^53, found {value!r}")
    return value
