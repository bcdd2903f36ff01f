"""Records a data directory as this release writes it, for later releases: `python tests/compat/record_log.py`.

Run it once for each release (and again before the release if an event was added): it writes `logs/<release>.tar.gz`, the
data directory, and `logs/<release>.json.gz`, what a reader must find in it. It contains every kind of event with every field
set. Recordings of published releases must never be changed.
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import io
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec

import waterflowd
from waterflow_agent.testing import attempt_id
from waterflowd.access import events as access_events
from waterflowd.engine import events
from waterflowd.fleet import events as fleet_events
from waterflowd.model import ids
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import (
    Batch,
    OutputAppend,
    OutputPiece,
    RunFilter,
    RunSummary,
    StreamAppend,
    Trigger,
    TriggerKind,
)
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.notices import events as notice_events
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile.added import AddedFact
from waterflowd.store.opening import Store, open_store

LOGS = Path(__file__).with_name("logs")
UNIONS: dict[str, Any] = {
    "run": events.RunEvent,
    "fleet": fleet_events.Fact,
    "repo": repository_events.Fact,
    "repositories": AddedFact,
    "notices": notice_events.Fact,
    "audit": access_events.Fact,
}
RUNS = [ids.run_id(1_700_000_000_000 + number, number << 40) for number in range(3)]
STREAMS = {
    "run": ids.run_stream(RUNS[0]),
    "fleet": ids.FLEET,
    "repo": ids.repository_stream("shop"),
    "repositories": ids.REPOSITORIES,
    "notices": ids.NOTICES,
    "audit": ids.AUDIT,
}
SMALL = attempt_id(RUNS[0], "deploy", "1", 1)
LARGE = attempt_id(RUNS[0], "deploy", "big.one", 2)


def sample(kind: msgspec.inspect.Type, name: str = "") -> Any:
    """Returns a plain value of a type with every optional part set."""
    inspect = msgspec.inspect
    match kind:
        case inspect.StructType():
            fields = {field.encode_name: sample(field.type, field.name) for field in kind.fields}
            if kind.array_like:
                return [*([kind.tag] if kind.tag_field else []), *fields.values()]
            return {kind.tag_field: kind.tag, **fields} if kind.tag_field else fields
        case inspect.UnionType():
            return sample(next(each for each in kind.types if not isinstance(each, inspect.NoneType)), name)
        case inspect.EnumType():
            return next(iter(kind.cls)).value if issubclass(kind.cls, enum.Enum) else None
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1_700_000_000_123 if name.endswith("at") else 42
        case inspect.FloatType():
            return 2.5
        case inspect.StrType():
            return f"{name} — text"
        case inspect.BytesType():
            return b"\x00bytes\xff"
        case inspect.DictType():
            return {sample(kind.key_type, "key"): sample(kind.value_type, "value")}
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return [sample(kind.item_type, name)]
        case inspect.TupleType():
            return [sample(each, name) for each in kind.item_types]
        case inspect.NamedTupleType():
            return [sample(field.type, field.name) for field in kind.fields]
        case inspect.AnyType():
            return {"deep": [1, 2.5, None, True, "ü"]}
        case _:
            raise TypeError(f"no sample for {kind}")


def samples(union: Any) -> list[Any]:
    """Returns one event of each kind in a union."""
    kind = msgspec.inspect.type_info(union)
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return [msgspec.convert(sample(each), union) for each in kinds]


def summary(number: int, status: Status) -> RunSummary:
    """Returns a row with every field set."""
    return RunSummary(
        id=RUNS[number],
        number=number,
        name="Deploy",
        path=".waterflow/deploy.yaml",
        repository="shop",
        revision="f" * 40,
        trigger=Trigger(
            kind=TriggerKind.PUSH, by="Ada", key=f"key {number}", ref="main", git={"sha": "f"}, payload={"a": [1]}
        ),
        status=status,
        conclusion=Conclusion.SUCCESS if status is Status.COMPLETED else None,
        reason=Reason(code=ReasonCode.SUCCEEDED, text="all good"),
        created_at=1,
        started_at=2,
        completed_at=3,
        seq=9,
    )


def fill(store: Store) -> None:
    """Appends everything that a data directory can contain."""
    for number, (kind, union) in enumerate(UNIONS.items()):
        facts = samples(union)
        store.log.append_blocking(
            Batch(appends=[StreamAppend(stream=STREAMS[kind], expected=0, at=1_000 + number, events=facts)])
        )
    rows = [summary(0, Status.RUNNING), summary(1, Status.COMPLETED), summary(2, Status.QUEUED)]
    keys = {f"key {number}": run for number, run in enumerate(RUNS)}
    store.log.append_blocking(Batch(summaries=rows, keys=keys, counters={"deploy": 3}, plans={"ab" * 32: b"the plan"}))
    many = samples(events.RunEvent)[-1:] * 600
    append = StreamAppend(stream=ids.run_stream(RUNS[1]), expected=0, at=2_000, events=many)
    store.log.append_blocking(Batch(appends=[append]))
    asyncio.run(_print(store))


async def _print(store: Store) -> None:
    for name, lengths in ((SMALL, (4, 5, 0, 6)), (LARGE, (30_000, 30_000, 30_000, 5))):
        offset = 0
        for length in lengths:
            piece = OutputPiece(offset=offset, at=offset, stream=1, data=bytes([65 + length % 26]) * length)
            await store.outputs.append([OutputAppend(attempt=name, pieces=[piece])])
            offset += length


def view(store: Store) -> Any:
    """Returns what a reader finds, as plain values."""
    log = store.log
    pieces = {name.step: store.outputs.read(name, 0, 1 << 30) for name in (SMALL, LARGE)}
    found = {
        "feed": log.feed(0, 10_000),
        "heads": {stream: log.head(stream) for stream in STREAMS.values()},
        "part": [record.position for record in log.read(ids.run_stream(RUNS[1]), 250, 10)],
        "open": list(log.open_runs()),
        "runs": log.runs(RunFilter(), before=None, limit=10)[0],
        "keys": [log.run_for_key(f"key {number}") for number in range(4)],
        "counters": [log.counter("deploy"), log.counter("other")],
        "plan": (log.plan("ab" * 32) or b"").decode(),
        "output": {
            step: [[piece.offset, piece.at, piece.stream, piece.data.decode()] for piece in of_step]
            for step, of_step in pieces.items()
        },
    }
    return msgspec.json.decode(msgspec.json.encode(found))


def main() -> int:
    """Writes the recording of this release."""
    LOGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "data"
        with open_store(directory, UNIONS, ballast_bytes=0) as store:
            fill(store)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for file in sorted(directory.rglob("*")):
                if file.is_file() and file.name not in ("lock.mdb", "owner", "ballast"):
                    archive.add(file, arcname=file.relative_to(directory))
        with open_store(directory, UNIONS, ballast_bytes=0) as store:
            found = msgspec.json.format(msgspec.json.encode(view(store)), indent=1)
    (LOGS / f"{waterflowd.__version__}.tar.gz").write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    (LOGS / f"{waterflowd.__version__}.json.gz").write_bytes(gzip.compress(found, mtime=0))
    print(f"recorded {waterflowd.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
