"""Disk layout: names, keys and sizes of what the store keeps in a data directory.

Files of a data directory::

    FORMAT          format version, LMDB engine, release that wrote it, and state of the directory; read first
    owner           process id of the daemon that uses the directory (a hint for people; the lock decides)
    cluster.json    the Temporal cluster that the runs are on; only with that engine
    ballast         reserved disk space for the case that the disk is full; exists while a daemon runs
    log.mdb/        the LMDB environment
    output/<run>/   large output logs, one append-only file per attempt
    artifacts/      artifacts (waterflowd/artifacts): a record for each, and blocks that they share
    snapshot.tmp/   copy of the log; exists while an encrypted backup is created

Databases of the environment (keys -> values; all integers big-endian, so that keys sort as numbers do):

    meta        name -> text: generation, release
    records     global sequence u64 -> record (record.py); appended, and removed with a whole run (removal.py)
    heads       stream key -> sequence, position and chain of the stream's newest record
    marks       stream key, position u64 -> sequence; every 256th position, which bounds how far a read walks
    plans       hash -> plan
    runs        run id (16 bytes) -> summary, msgpack
    open        run id -> empty: the runs that are not completed
    keys        trigger key -> run id
    counters    name -> u64
    output      attempt prefix, offset u64 -> piece (outputs.py)
    plan_uses   hash -> u64: the runs that have this plan; a plan without any is removed
    gaps        "f", first sequence -> last one, and "l", last -> first: the removed records, in maximal ranges
    removed     run id -> what is remembered of a removed run, msgpack; the newest `REMOVED_MAX` ids
    removing    run id -> "r" or "o": a run, or its output, of which a part is still to be removed
    outputless  run id -> when and by which rule the output of this run was removed, msgpack

A value is *sealed*: it begins with a CRC-32 (four bytes) over key and value, because LMDB itself has no checksums and a
flipped bit must never be returned. Records carry their own CRC.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from functools import lru_cache

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import RUN_ID_LENGTH, RunId, StreamName, is_run_id

#: Increases with every change of a stored shape that an older release could misread; a newer one is refused unchanged.
FORMAT_VERSION = 1
#: LMDB's 0.9 file format. The 1.0 format is incompatible, so the engine is never left to a default.
LMDB_ENGINE = 0

FORMAT_FILE = "FORMAT"
MANIFEST_FILE = "backup.json"
OWNER_FILE = "owner"
#: Written only by a daemon whose runs are on a Temporal cluster.
CLUSTER_FILE = "cluster.json"
BALLAST_FILE = "ballast"
ENVIRONMENT_DIRECTORY = "log.mdb"
#: LMDB's name for its file.
LOG_FILE = "data.mdb"
OUTPUT_DIRECTORY = "output"
ARTIFACT_DIRECTORY = "artifacts"
SNAPSHOT_DIRECTORY = "snapshot.tmp"

DATABASES = (
    *("meta", "records", "heads", "marks", "plans", "runs", "open", "keys", "counters", "output"),
    # What removes runs and output needs.
    *("plan_uses", "gaps", "removed", "removing", "outputless"),
)

#: Sparse, so it costs only address space; growing it later has to wait for every reader.
MAP_BYTES = 64 << 30
#: Enough for about 100,000 small events, or a few minutes of results until space is freed.
BALLAST_BYTES = 64 << 20
#: The ballast takes at most this fraction of a small file system.
BALLAST_SHARE = 16
#: A read of one record walks back over at most this many others; a mark costs 40 bytes.
MARK_EVERY = 256
#: Removed runs that are remembered, so that a reference to one is answered with when and why; about 12 MB.
REMOVED_MAX = 100_000
#: The length of a stream's name is stored in one byte.
STREAM_NAME_BYTES_MAX = 255
#: LMDB's keys have at most 511 bytes; longer texts are replaced by their hash.
KEY_BYTES_MAX = 500

_CRC_BYTES = 4
_HEAD = struct.Struct(">QQ16s")
_U64 = struct.Struct(">Q")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_TO_DIGITS = str.maketrans(_CROCKFORD, _DIGITS)

pack_u64 = _U64.pack


def unpack_u64(packed: bytes) -> int:
    """The number in eight big-endian bytes."""
    number: int = _U64.unpack(packed)[0]
    return number


@lru_cache(maxsize=4096)
def run_key(run: RunId) -> bytes:
    """The 16 bytes of a run's id, which sort as the ids do. Raises `ValueError` for an invalid id."""
    if not is_run_id(run):
        raise ValueError(f"not a run id: {run!r}")
    return int(run.translate(_TO_DIGITS), 32).to_bytes(16, "big")


@lru_cache(maxsize=4096)
def run_of_key(key: bytes) -> RunId:
    """The run id in 16 bytes."""
    number = int.from_bytes(key, "big")
    return RunId("".join(_CROCKFORD[(number >> shift) & 31] for shift in range(5 * (RUN_ID_LENGTH - 1), -5, -5)))


def run_of_stream(stream: StreamName) -> RunId | None:
    """The run whose stream this is, or None for the other streams."""
    run = RunId(stream[4:])
    return run if stream.startswith("run/") and is_run_id(run) else None


@lru_cache(maxsize=4096)
def stream_key(stream: StreamName) -> bytes:
    """The stream's key in `heads`: short for runs, the whole name for the others."""
    run = run_of_stream(stream)
    if run is not None:
        return b"r" + run_key(run)
    name = stream.encode()
    if not 0 < len(name) <= STREAM_NAME_BYTES_MAX:
        raise ValueError(f"a stream's name has 1 to {STREAM_NAME_BYTES_MAX} bytes: {stream!r}")
    return b"n" + name


def text_key(text: str) -> bytes:
    """A trigger key, counter name or plan hash as a key; a long text is replaced by its hash."""
    key = text.encode()
    if len(key) <= KEY_BYTES_MAX:
        return b"t" + key
    return b"h" + hashlib.blake2b(key, digest_size=32).digest()


def pack_head(seq: int, position: int, chain: bytes) -> bytes:
    """A row of `heads`, unsealed."""
    return _HEAD.pack(seq, position, chain)


def unpack_head(packed: bytes) -> tuple[int, int, bytes]:
    """Global sequence, position and chain of a stream's newest record."""
    seq, position, chain = _HEAD.unpack(packed)
    return seq, position, chain


def seal(key: bytes, value: bytes) -> bytes:
    """The value, preceded by a checksum over key and value."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(_CRC_BYTES, "big") + value


def unseal(database: str, key: bytes, sealed: bytes) -> bytes:
    """The value of a sealed row. Raises `Stalled` WF304 when the checksum does not match."""
    value = sealed[_CRC_BYTES:]
    if sealed[:_CRC_BYTES] != zlib.crc32(value, zlib.crc32(key)).to_bytes(_CRC_BYTES, "big"):
        raise Stalled(
            "WF304", f'row {key!r} of the index "{database}" is damaged; restore a backup of the data directory'
        )
    return value
