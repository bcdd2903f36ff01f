"""A sealed stream: somebody who can write the data directory, but has no key, cannot change its history unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.access.events import AccessRefused, ActionTaken
from waterflowd.app import audit
from waterflowd.app.bootstrap import UNIONS, examine
from waterflowd.app.cli import main
from waterflowd.app.config import Config, load
from waterflowd.model.ids import AUDIT, StreamName
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.store import layout, record, salvage
from waterflowd.store.environment import Environment
from waterflowd.store.opening import open_store
from waterflowd.store.record import StoredRecord
from waterflowd.store.sealing import SealKey

Change = Callable[[list[StoredRecord]], list[StoredRecord]]


def configured(tmp_path: Path, *, has_key: bool = True) -> Config:
    """A configuration with an audit key, which is created the first time."""
    key = tmp_path / "audit.key"
    if has_key and not key.exists():
        audit.create_key(key)
    settings = tmp_path / "waterflowd.toml"
    settings.write_text(f'data-dir = "{tmp_path / "data"}"\n[audit]\nkey-file = "{key if has_key else ""}"\n')
    return load(settings)


def act(config: Config, keys: list[SealKey], names: list[str]) -> None:
    """Records actions, as a daemon does between its start and its end."""
    with open_store(Path(config.data_dir), UNIONS, seals={AUDIT: keys[0]} if keys else {}) as store:
        audit.begin(store.log, keys, _Clock())
        for name in names:
            facts = [
                ActionTaken(at=5, by="alice", what="approve-agent", target=name),
                AccessRefused(at=5, by="mallory", door="api", code="WF602", target=name),
            ]
            batch = Batch(
                appends=[StreamAppend(stream=AUDIT, expected=store.log.head(AUDIT), at=5, events=facts)],
                plans={},
                summaries=[],
                keys={},
                counters={},
            )
            store.log.append_blocking(batch)


class _Clock:
    def now(self) -> int:
        return 5


def rewrite(data: Path, change: Change) -> None:
    """Changes the trail as an attacker with the source code would: all checksums, chains and heads are right again."""
    key = layout.stream_key(AUDIT)
    environment = Environment(data / layout.ENVIRONMENT_DIRECTORY)
    with environment.begin_write() as transaction:
        records = environment.database("records")
        stored = [record.unpack(layout.unpack_u64(seq), value) for seq, value in transaction.cursor(records)]
        transaction.drop(records, delete=False)
        chain, previous = record.chain_start(key), 0
        for number, each in enumerate(change(stored), 1):
            chain = record.next_chain(chain, each.schema, number, each.at, each.body)
            fresh = each._replace(seq=number, position=number, previous=previous, chain=chain)
            transaction.put(layout.pack_u64(number), record.pack(fresh), db=records)
            previous = number
        head = layout.pack_head(previous, previous, chain)
        transaction.put(key, layout.seal(key, head), db=environment.database("heads"))
    environment.close()


def other_author(stored: list[StoredRecord]) -> list[StoredRecord]:
    return [each._replace(body=each.body.replace(b"alice", b"carol")) for each in stored]


def without_one(stored: list[StoredRecord]) -> list[StoredRecord]:
    return stored[:2] + stored[3:]


def reordered(stored: list[StoredRecord]) -> list[StoredRecord]:
    return [*stored[:1], stored[2], stored[1], *stored[3:]]


def without_seals(stored: list[StoredRecord]) -> list[StoredRecord]:
    return [each._replace(seal=b"") for each in other_author(stored)]


def without_the_last_seals(stored: list[StoredRecord]) -> list[StoredRecord]:
    return [*stored[:3], *(each._replace(seal=b"") for each in stored[3:])]


def with_own_key(stored: list[StoredRecord]) -> list[StoredRecord]:
    own, sealed = SealKey(b"attacker", b"k" * 32), []
    chain = record.chain_start(layout.stream_key(AUDIT))
    for position, each in enumerate(other_author(stored), 1):
        sealed.append(each._replace(seal=own.seal(chain, each.schema, position, each.at, each.body)))
        chain = record.next_chain(chain, each.schema, position, each.at, each.body)
    return sealed


@pytest.mark.parametrize(
    "change", [other_author, without_one, reordered, without_seals, without_the_last_seals, with_own_key]
)
def test_a_rewritten_trail_is_recognized_by_its_seals(tmp_path: Path, change: Change) -> None:
    """Every other check of the log passes: the chain without a key cannot tell the forgery."""
    config = configured(tmp_path)
    act(config, audit.load_keys(config), ["web-1", "db-1"])
    assert examine(config).seals[AUDIT].verified == 5

    rewrite(Path(config.data_dir), change)

    with pytest.raises(Stalled, match="WF321"):
        examine(config)
    if change is not without_the_last_seals:
        assert examine(configured(tmp_path, has_key=False)).records > 0


def test_the_checker_without_a_key_says_that_nothing_is_proven(tmp_path: Path) -> None:
    """The log itself is checked all the same, for example where only the backup is."""
    config = configured(tmp_path)
    act(config, audit.load_keys(config), ["web-1"])

    shown = CliRunner().invoke(main, ["fsck", "--config", str(tmp_path / "waterflowd.toml")])
    configured(tmp_path, has_key=False)
    blind = CliRunner().invoke(main, ["fsck", "--config", str(tmp_path / "waterflowd.toml")])

    assert "audit trail: sealed, 3 records verified" in shown.output
    assert (shown.exit_code, blind.exit_code) == (0, 0)
    assert "audit trail: not verified, because there is no key" in blind.output


def test_a_daemon_without_the_key_of_its_trail_does_not_start(tmp_path: Path) -> None:
    """Records without seals would look like a forgery; the error says what to do."""
    config = configured(tmp_path)
    act(config, audit.load_keys(config), ["web-1"])

    with pytest.raises(Stalled, match=r"waterflowd audit-key FILE \[WF320\]"):
        act(config, [], ["web-2"])


def test_a_new_key_continues_the_trail_and_old_records_need_the_old_one(tmp_path: Path) -> None:
    """The change is in the trail. Records from before the first key are covered by the first seal."""
    config = configured(tmp_path, has_key=False)
    act(config, [], ["before"])
    config = configured(tmp_path)
    first = audit.load_keys(config)
    act(config, first, ["web-1"])
    audit.create_key(tmp_path / "audit.key")
    both = audit.load_keys(config)
    act(config, both, ["web-2"])

    assert both[1] == first[0]
    found = examine(config).seals[AUDIT]
    assert (found.unsealed, found.verified, found.unverified) == (2, 6, 0)

    lines = (tmp_path / "audit.key").read_text().splitlines()
    (tmp_path / "audit.key").write_text(lines[0] + "\n")
    with pytest.raises(Stalled, match=rf"3 records .*{first[0].id.hex()}.*WF321"):
        examine(config)


def test_seals_survive_a_salvage(tmp_path: Path) -> None:
    """A copy has the same seals."""
    config = configured(tmp_path)
    act(config, audit.load_keys(config), ["web-1"])

    with salvage.salvage_directory(Path(config.data_dir), tmp_path / "saved") as kept:
        assert kept.records == 3
        with open_store(tmp_path / "saved", UNIONS, is_rescue=True) as store:
            assert store.log.head(AUDIT) == 3
    Path(config.data_dir).rename(tmp_path / "old")
    (tmp_path / "saved").rename(config.data_dir)

    assert examine(config).seals[AUDIT].verified == 3


@pytest.mark.parametrize("text", ["", "short\n"])
def test_a_key_that_is_too_short_is_refused(tmp_path: Path, text: str) -> None:
    """A daemon never seals with a key that could be guessed."""
    config = configured(tmp_path)
    (tmp_path / "audit.key").write_text(text)

    with pytest.raises(Stalled, match="WF320"):
        audit.load_keys(config)


def test_a_key_in_the_data_directory_or_for_everybody_is_refused(tmp_path: Path) -> None:
    """It would be in every backup, or readable by those who must not have it."""
    config = configured(tmp_path)
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(Rejected, match="WF622"):
        audit.load_keys(config)

    (tmp_path / "data").mkdir()
    audit.create_key(tmp_path / "data" / "audit.key")
    (tmp_path / "waterflowd.toml").write_text(
        f'data-dir = "{tmp_path / "data"}"\n[audit]\nkey-file = "{tmp_path / "data" / "audit.key"}"\n'
    )
    with pytest.raises(Rejected, match="in the data directory"):
        audit.load_keys(load(tmp_path / "waterflowd.toml"))


def test_a_damaged_record_is_named_with_its_run(tmp_path: Path) -> None:
    """The next record of the run refers to it, so even a destroyed header does not hide whose it is."""
    data = tmp_path / "data"
    run = "01M8P0EHGAH2P240JBZSCJ7BVN"
    with open_store(data, {"run": ActionTaken}) as store:
        for number in range(3):
            event = ActionTaken(at=5, by="alice", what="x", target=f"event {number}")
            append = StreamAppend(stream=StreamName(f"run/{run}"), expected=number, at=5, events=[event])
            store.log.append_blocking(Batch(appends=[append], plans={}, summaries=[], keys={}, counters={}))
    for number, where in ((2, "header"), (3, "newest"), (1, "missing")):
        environment = Environment(data / layout.ENVIRONMENT_DIRECTORY)
        with environment.reading() as transaction:
            kept = transaction.get(layout.pack_u64(number), db=environment.database("records"))
        assert kept is not None
        _put(environment, number, b"" if where == "missing" else b"\0" * 80 + kept[80:])
        environment.close()

        with pytest.raises(Stalled, match=rf"record {number} of the log \(run {run}\) is damaged"):
            _examine(data)

        environment = Environment(data / layout.ENVIRONMENT_DIRECTORY)
        _put(environment, number, kept)
        environment.close()


def _put(environment: Environment, number: int, value: bytes) -> None:
    with environment.begin_write() as transaction:
        database = environment.database("records")
        if value:
            transaction.put(layout.pack_u64(number), value, db=database)
        else:
            transaction.delete(layout.pack_u64(number), db=database)


def _examine(data: Path) -> None:
    from waterflowd.store.check import verify

    environment = Environment(data / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
    try:
        verify(environment)
    finally:
        environment.close()
