"""Records what this release stores of runs, besides events: `python tests/compat/record_values.py`.

It writes `values/<release>.json`: for each kind of value and each type its bytes, and what a reader must find in them. Run it
when a type or a field was added, and look at the difference. Recordings of published releases must never be changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

import waterflowd
from tests.compat import record_log
from waterflowd.dispatch import lowering
from waterflowd.engine import commands, inputs
from waterflowd.fleet import lock_table
from waterflowd.model.codec import ValueCodec
from waterflowd.model.records import RunSummary
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.repositories import ledger
from waterflowd.temporal.shared_streams import append_turns, fleet_snapshot

VALUES = Path(__file__).with_name("values")
#: Kind of value -> its type or union; events are recorded in logs.
UNIONS: dict[str, Any] = {
    "input": inputs.RunInput,
    "command": commands.RunCommand,
    "draft": lowering.Draft,
    "order": orders.AnyOrder,
    "lock": lock_table.TableFact,
    "progress": orders.AttemptProgress,
    "answer": run_turns.Answer,
    "row": RunSummary,
    "fleet": fleet_snapshot.FleetStreamFact,
    "append-request": append_turns.AppendRequest,
    "append-answer": append_turns.AppendAnswer,
    "repository": ledger.AnyFact,
}


class Recorded(msgspec.Struct, forbid_unknown_fields=True):
    """A value as it was stored."""

    kind: str
    type: str
    schema: int
    #: In hexadecimal.
    body: str
    value: dict[str, Any]


def recorded(release: str) -> list[Recorded]:
    """Returns what a release recorded."""
    return msgspec.json.decode((VALUES / f"{release}.json").read_bytes(), type=list[Recorded])


def recording() -> list[Recorded]:
    """Returns what this release records."""
    return [
        Recorded(
            kind=kind,
            type=type(value).__struct_config__.tag or kind,
            schema=codec.schema,
            body=codec.encode(value).hex(),
            value=plain(value),
        )
        for kind, codec in codecs().items()
        for value in record_log.samples(UNIONS[kind])
    ]


def plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def codecs() -> dict[str, ValueCodec]:
    """Returns the codec of each kind of value."""
    return {kind: ValueCodec(kind, union) for kind, union in UNIONS.items()}


def main() -> int:
    """Writes the recording of this release."""
    VALUES.mkdir(exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(recording()), indent=1)
    (VALUES / f"{waterflowd.__version__}.json").write_bytes(content + b"\n")
    print(f"recorded {waterflowd.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
