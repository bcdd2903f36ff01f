"""Rotation of the server's key: `waterflowd keys`.

Rules of this file:

- A rotation needs the data directory for itself, because the daemon reads its keys at the start. A restart costs agents a
  reconnect, which they need anyway to use the new key.
- It is first recorded in the audit trail, then the file is replaced. A crash between the two leaves the old keys and a record
  of a key that was never used; a key that no record names cannot come into use.
- Listing the keys only reads, so the daemon may be running.
- Which agents have followed is known where agents are recorded: in the log, or on the Temporal cluster, which must answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waterflow_agent.clock import Clock, utc_time
from waterflow_agent.errors import Rejected, Stalled
from waterflowd.access.events import ActionTaken
from waterflowd.app import audit, cluster_check
from waterflowd.app.bootstrap import UNIONS
from waterflowd.app.config import Config
from waterflowd.dispatch import keys
from waterflowd.dispatch.keys import ServerKeyPair, ServerKeys
from waterflowd.fleet.registry import Registry
from waterflowd.fleet.server_keys import agents_behind
from waterflowd.host.clock import LogClock
from waterflowd.model.ids import AUDIT, FLEET
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.store import copying, layout
from waterflowd.store.codec import Codec
from waterflowd.store.environment import Environment
from waterflowd.store.log import LmdbLog, read_stream
from waterflowd.store.opening import open_store


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key of the server. Times are in ms."""

    fingerprint: str
    created_at: int
    #: None for the current key.
    accepted_until: int | None
    is_accepted: bool


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a server, newest first, and the names of the agents that have not connected with the newest one yet."""

    keys: list[KeyRow]
    agents: int
    agents_on_old_key: list[str]


def listing(config: Config) -> KeyList:
    """The keys of the data directory; a daemon may be running.

    Raises `Stalled` WF220, WF311 for another directory, and what `agents_on` raises about a cluster.
    """
    data_dir = copying.data_directory(Path(config.data_dir))
    if config.engine == "temporal":
        return _list(_existing(data_dir), cluster_check.agents_on(config), Clock().wall_ms())
    environment = Environment(data_dir / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
    try:
        registry = Registry.of(record.event for record in read_stream(environment, Codec(UNIONS), FLEET))
    finally:
        environment.close()
        # Root may list the keys of a daemon that runs as another user.
        copying.hand_over((data_dir / layout.ENVIRONMENT_DIRECTORY).iterdir(), data_dir)
    return _list(_existing(data_dir), registry, Clock().wall_ms())


def rotate(config: Config, accept_old_ms: int) -> KeyList:
    """Creates a new key, and accepts the current one for that long.

    Raises `Rejected` WF234, and `Stalled` as `_opened` does.
    """
    with _opened(config) as (log, clock):
        data_dir = Path(config.data_dir)
        registry = _registry(config, log)
        fresh = keys.fresh_pair(clock.now())
        pairs = _existing(data_dir).rotated(fresh, accept_old_ms)
        _record(log, fresh, "rotate-server-key", clock.now(), {"accept_old_for_s": accept_old_ms // 1_000})
        keys.replace_server_keys(data_dir, pairs)
        return _list(pairs, registry, clock.now())


def retire(config: Config, *, is_forced: bool) -> KeyList:
    """Accepts only the current key from now on.

    Raises `Rejected` WF234 when agents still use an old key, unless it is forced: they have to be enrolled again then.
    Raises `Stalled` as `_opened` does.
    """
    with _opened(config) as (log, clock):
        data_dir = Path(config.data_dir)
        pairs, registry = _existing(data_dir), _registry(config, log)
        behind = [entry.name for entry in agents_behind(registry, pairs.described()[0])]
        if behind and not is_forced and pairs.old(clock.now()):
            raise Rejected(
                "WF234",
                f"{_count(len(behind))} not followed yet: {', '.join(behind)}. Wait until they have connected, or use --force "
                "and enroll them again",
            )
        _record(log, pairs.current, "retire-server-keys", clock.now(), {"agents_on_old_key": behind})
        keys.replace_server_keys(data_dir, pairs.retired())
        return _list(pairs.retired(), registry, clock.now())


def _registry(config: Config, log: LmdbLog) -> Registry:
    """The agents: those of this log, or those of all daemons on the cluster."""
    if config.engine == "temporal":
        return cluster_check.agents_on(config)
    return Registry.of(record.event for record in log.read(FLEET))


def text_of(found: KeyList) -> Iterator[str]:
    """Lines for people."""
    for row in found.keys:
        yield f"{row.fingerprint}  {'current' if row.accepted_until is None else 'old'}"
        times = f"  created {utc_time(row.created_at)}"
        if row.accepted_until is not None:
            times += f", {'accepted until' if row.is_accepted else 'expired at'} {utc_time(row.accepted_until)}"
        yield times
    behind = found.agents_on_old_key
    if behind:
        yield f"{_count(len(behind))} not connected with the current key yet: {', '.join(behind)}"
    elif found.agents:
        yield f"all agents use the current key ({found.agents})"
    else:
        yield "no agent is approved yet"


def _count(agents: int) -> str:
    return "1 agent has" if agents == 1 else f"{agents} agents have"


def _existing(data_dir: Path) -> ServerKeys:
    try:
        return keys.read_server_keys(data_dir)
    except FileNotFoundError:
        raise Stalled(
            "WF220", f"{keys.key_file(data_dir)} does not exist: no daemon has run in {data_dir} yet"
        ) from None


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[tuple[LmdbLog, LogClock]]:
    """The log and the clock of a stopped daemon.

    Raises `Stalled`: WF310 while a daemon runs, WF320 without the key of a sealed audit trail, and what `open_store` raises.
    """
    data_dir = copying.data_directory(Path(config.data_dir))
    audit_keys = audit.load_keys(config)
    seals = {AUDIT: audit_keys[0]} if audit_keys else {}
    try:
        store = open_store(data_dir, UNIONS, wait_s=0, seals=seals)
    except Stalled as error:
        if error.code != "WF310":
            raise
        raise Stalled(
            "WF310",
            f"a daemon uses {data_dir}, and reads its keys only when it starts: stop it (systemctl stop waterflowd), repeat "
            "this command, and start it again. Running steps continue meanwhile",
        ) from None
    with store:
        clock = LogClock(data_dir / "clock.json", store.log.last_at)
        try:
            audit.begin(store.log, audit_keys, clock)
            yield store.log, clock
        finally:
            copying.hand_over([*data_dir.iterdir(), *(data_dir / layout.ENVIRONMENT_DIRECTORY).iterdir()], data_dir)


def _record(
    log: LmdbLog, pair: ServerKeyPair, what: str, now: int, facts: dict[str, str | int | bool | list[str] | None]
) -> None:
    event = ActionTaken(at=now, by=f"uid:{os.getuid()}", what=what, target=pair.fingerprint, facts=facts)
    append = StreamAppend(stream=AUDIT, expected=log.head(AUDIT), at=now, events=[event])
    log.append_blocking(Batch(appends=[append]))


def _list(pairs: ServerKeys, registry: Registry, now: int) -> KeyList:
    current, *old = described = pairs.described()
    return KeyList(
        keys=[
            KeyRow(
                fingerprint=key.fingerprint,
                created_at=key.created_at,
                accepted_until=key.accepted_until if key in old else None,
                is_accepted=key is current or now < key.accepted_until,
            )
            for key in described
        ],
        agents=len(registry.agents),
        agents_on_old_key=[entry.name for entry in agents_behind(registry, current)],
    )
