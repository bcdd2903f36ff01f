"""Recorded sealed payloads: later releases must still open what Temporal has kept since an earlier one.

`payloads/v<format>-<name>.payload` contains the bytes, `EXPECTED` their meaning. A recorded file is never changed. After
changing the format, add an entry and run this file as a program: it records only what is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload

from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

PAYLOADS = Path(__file__).parent / "payloads"
OLD, NEW = bytes(range(32)), bytes(range(32, 64))
KEYS = PayloadKeys([NEW, OLD])

#: Name -> the key, the workflow, the nonce and the payload.
EXPECTED: dict[str, tuple[bytes, str, bytes, Payload]] = {
    "v1-short": (
        NEW,
        "run/01J8XQ5T3MZ6V0K9B7N2C4D1EF",
        bytes(range(24)),
        Payload(metadata={"encoding": b"binary/plain"}, data=b"an input"),
    ),
    "v1-empty": (NEW, "fleet", bytes(range(24, 48)), Payload()),
    "v1-deflated": (
        OLD,
        "repo/größe",
        bytes(range(48, 72)),
        Payload(metadata={"encoding": b"binary/msgpack"}, data=b"a line that repeats itself\n" * 100),
    ),
    "v1-dictionary": (
        NEW,
        "run/01J8XQ5T3MZ6V0K9B7N2C4D1EF",
        bytes(range(72, 96)),
        Payload(
            metadata={"encoding": b"binary/plain"},
            data=b"task-finished outcome success exit_code started_at finished_at",
        ),
    ),
}
#: Contents below the size from which they are deflated: their bytes do not depend on the version of zlib.
SHORT = ["v1-short", "v1-empty"]


def _file(name: str) -> Path:
    return PAYLOADS / f"{name}.payload"


def _sealed(name: str) -> bytes:
    key, workflow, nonce, payload = EXPECTED[name]
    return codec.seal(payload, workflow, PayloadKeys([key]), nonce).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_payload_opens(name: str) -> None:
    """It has the same content as on the day it was sealed."""
    _, workflow, _, payload = EXPECTED[name]
    assert codec.unseal(Payload.FromString(_file(name).read_bytes()), workflow, KEYS) == payload


@pytest.mark.parametrize("name", SHORT)
def test_this_release_seals_the_same_bytes(name: str) -> None:
    """A change of the format needs a new version, because other daemons must open it during an upgrade."""
    assert _sealed(name) == _file(name).read_bytes()


def test_every_recorded_payload_has_its_meaning_here() -> None:
    """A file without an entry would not be tested."""
    assert {file.stem for file in PAYLOADS.iterdir()} == set(EXPECTED)


if __name__ == "__main__":
    for missing in EXPECTED:
        if not _file(missing).exists():
            PAYLOADS.mkdir(exist_ok=True)
            _file(missing).write_bytes(_sealed(missing))
