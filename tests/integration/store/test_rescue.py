"""Backup, restore and salvage on real disks: nothing false is ever kept, and the source is never changed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chance import IS_FULL
from tests.integration.store import writer_process
from tests.integration.store.test_store import mounted
from waterflow_agent.errors import Stalled
from waterflowd.engine import events
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import Batch, OutputAppend, OutputPiece, StreamAppend
from waterflowd.store import check, copying, directory, layout, salvage
from waterflowd.store.environment import Environment
from waterflowd.store.opening import Store, examine, open_store

UNIONS = writer_process.UNIONS
RUNS = 6
PAGE_BYTES = 4096
SEED = int(os.environ.get("WATERFLOW_SEED", "20"))


def stream(number: int) -> ids.StreamName:
    return ids.run_stream(writer_process.run(number))


def text(number: int, position: int) -> str:
    """Returns the text of an event; one in five is long enough to need overflow pages."""
    return f"run {number} event {position} " + "x" * (5_000 if position % 5 == 4 else 40)


def append(store: Store, number: int, count: int) -> None:
    expected = store.log.head(stream(number))
    facts = [
        events.RunStarted(
            at=each, reason=writer_process.REASON.__class__(code=writer_process.REASON.code, text=text(number, each))
        )
        for each in range(expected, expected + count)
    ]
    store.log.append_blocking(
        Batch(appends=[StreamAppend(stream=stream(number), expected=expected, at=expected, events=facts)])
    )


def print_output(store: Store, number: int, size: int) -> None:
    name = writer_process.name(number)
    offset = store.outputs.size(name)
    piece = OutputPiece(offset=offset, at=1, stream=1, data=bytes([65 + number]) * size)

    async def write() -> None:
        await store.outputs.append([OutputAppend(attempt=name, pieces=[piece])])

    asyncio.run(write())


def fill(path: Path, rounds: int = 12) -> dict[ids.StreamName, list[str]]:
    """Fills a directory with interleaved runs, a plan, and outputs; returns the expected content by stream."""
    with open_store(path, UNIONS) as store:
        store.log.append_blocking(Batch(plans={"plan-hash": b"the content of a plan " * 300}))
        for each in range(rounds):
            for number in range(RUNS):
                append(store, number, 1 + (each + number) % 3)
        for number in range(RUNS):
            print_output(store, number, 1_000)
        print_output(store, 0, 200_000)
        (path / "keys").mkdir()
        (path / "keys" / "server.key").write_bytes(b"a key")
        return truth(store)


def truth(store: Store) -> dict[ids.StreamName, list[str]]:
    return {name: [record.event.reason.text for record in store.log.read(name)] for name in store.log.streams()}


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        os.fspath(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def nothing_known(_: Environment, __: AttemptId) -> bool:
    return False


# Salvage --------------------------------------------------------------------------------------------------------------


def saved(source: Path, target: Path) -> tuple[salvage.SalvageReport, dict[ids.StreamName, list[str]]]:
    """Salvages, opens the result, checks it completely, and returns its report."""
    with salvage.salvage_directory(source, target) as found, open_store(target, UNIONS, is_rescue=True) as store:
        assert store.verify().records == found.records
        assert [record.seq for record in store.log.feed(0, 1 << 30)] == list(range(1, found.records + 1))
    with open_store(target, UNIONS) as store:
        return found, truth(store)


def check_prefixes(
    found: salvage.SalvageReport, kept: dict[ids.StreamName, list[str]], whole: dict[ids.StreamName, list[str]]
) -> None:
    """Checks that every stream is a prefix of the truth, and is complete unless it is reported as truncated."""
    cuts = {cut.stream: cut for cut in found.cuts}
    for name, events_kept in kept.items():
        assert events_kept == whole[name][: len(events_kept)], f"{name} has a false event"
    for name, events_whole in whole.items():
        count = len(kept.get(name, []))
        if count < len(events_whole):
            is_reported = name in cuts or (name not in kept and found.records_lost != 0)
            assert is_reported, f"{name} lost {len(events_whole) - count} events without a report"
        if name in cuts:
            assert cuts[name].kept == count
            lost = cuts[name].lost
            assert lost is None or lost <= len(events_whole) - count


def test_an_intact_directory_is_salvaged_completely_and_unchanged(tmp_path: Path) -> None:
    """All records, plans and output, with the same chains; the source is unchanged."""
    source, target = tmp_path / "source", tmp_path / "target"
    whole = fill(source)
    before = snapshot(source)
    found, kept = saved(source, target)
    assert snapshot(source) == before
    assert kept == whole
    assert (found.cuts, found.records_lost, found.outputs_cut, found.plans) == ([], 0, [], 1)
    assert found.is_whole
    with open_store(source, UNIONS) as old, open_store(target, UNIONS) as new:
        assert new.log.plan("plan-hash") == old.log.plan("plan-hash")
        for number in range(RUNS):
            name = writer_process.name(number)
            assert new.outputs.read(name, 0, 1 << 30) == old.outputs.read(name, 0, 1 << 30)
        assert new.log.generation > old.log.generation + 1_000
    assert (target / "keys" / "server.key").read_bytes() == b"a key"


def test_a_flipped_byte_costs_one_stream_its_end_and_the_others_nothing(tmp_path: Path) -> None:
    """The stream ends before the damaged event, and the report says how many events are lost."""
    source = tmp_path / "source"
    whole = fill(source)
    file = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    content = file.read_bytes()
    old = text(2, 7).encode()
    assert old in content
    file.write_bytes(content.replace(old, old.swapcase()))
    found, kept = saved(source, tmp_path / "target")
    assert kept.pop(stream(2)) == whole[stream(2)][:7]
    assert kept == {name: texts for name, texts in whole.items() if name != stream(2)}
    (cut,) = found.cuts
    assert (cut.stream, cut.kept, cut.lost) == (stream(2), 7, len(whole[stream(2)]) - 7)
    assert not found.is_whole


def test_damaged_branches_and_meta_pages_cost_nothing(tmp_path: Path) -> None:
    """Leaf pages outside the trees are found, and streams that match their heads are complete."""
    source = tmp_path / "source"
    whole = fill(source, rounds=80)
    file = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    content = bytearray(file.read_bytes())
    branches = 0
    for page in range(len(content) // PAGE_BYTES):
        if content[page * PAGE_BYTES + 10] == 1:  # The flags of a branch page.
            content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
            branches += 1
    assert branches
    file.write_bytes(content)
    found, kept = saved(source, tmp_path / "branches")
    assert kept == whole
    assert found.damaged_pages
    content[: 2 * PAGE_BYTES] = bytes(2 * PAGE_BYTES)
    file.write_bytes(content)
    found, kept = saved(source, tmp_path / "metas")
    check_prefixes(found, kept, whole)
    assert not found.is_whole


def _damages(size: int) -> Iterator[tuple[str, int]]:
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    pages = range(size // PAGE_BYTES)
    for page in pages if IS_FULL else [0, 1, *dice.sample(pages[2:], 8)]:
        yield "zero", page
    for page in pages if IS_FULL else [0, 1, 2, *dice.sample(pages[3:], 5)]:
        yield "cut", page
    for _ in range(500 if IS_FULL else 12):
        yield "flip", dice.randrange(size)


@pytest.mark.timeout(3600 if IS_FULL else 1200)
def test_salvaged_streams_are_true_prefixes_for_any_damage(tmp_path: Path) -> None:
    """Zeroed pages, truncated files, flipped bits: never a false event, an unreported loss, or a crash."""
    source, target = tmp_path / "source", tmp_path / "target"
    whole = fill(source)
    file = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    content = file.read_bytes()
    for kind, page_number in _damages(len(content)):
        damaged = bytearray(content)
        if kind == "zero":
            damaged[page_number * PAGE_BYTES : (page_number + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
        elif kind == "cut":
            del damaged[page_number * PAGE_BYTES :]
        else:
            damaged[page_number] ^= 1 << (page_number % 8)
        file.write_bytes(damaged)
        found, kept = saved(source, target)
        try:
            check_prefixes(found, kept, whole)
        except AssertionError as error:
            raise AssertionError(f"{kind} at {page_number}: {error}") from error
        shutil.rmtree(target)


def test_a_killed_salvage_leaves_an_unfinished_copy(tmp_path: Path) -> None:
    """The daemon, restore, backup and salvage refuse its directory."""
    source, target = tmp_path / "source", tmp_path / "target"
    fill(source)
    with pytest.raises(KeyError), salvage.salvage_directory(source, target):
        raise KeyError
    assert not any(target.iterdir()), "an error cleans up"
    directory.make_copy_directory(target)
    shutil.copytree(source / layout.ENVIRONMENT_DIRECTORY, target / layout.ENVIRONMENT_DIRECTORY)
    with pytest.raises(Stalled, match="WF313"):
        open_store(target, UNIONS)
    with pytest.raises(Stalled, match="WF313"), copying.restore_backup(target, tmp_path / "other"):
        pass
    with pytest.raises(Stalled, match="WF313"):
        copying.back_up(target, tmp_path / "other", nothing_known)
    with pytest.raises(Stalled, match="WF315"), salvage.salvage_directory(source, target):
        pass


def test_salvage_refuses_unsuitable_directories(tmp_path: Path) -> None:
    """A directory in use, one of a newer release, a target that is not empty, a target inside the source."""
    source = tmp_path / "source"
    fill(source)
    with (
        open_store(source, UNIONS),
        pytest.raises(Stalled, match="WF310"),
        salvage.salvage_directory(source, tmp_path / "a"),
    ):
        pass
    with pytest.raises(Stalled, match="WF315"), salvage.salvage_directory(source, source / "inside"):
        pass
    with pytest.raises(Stalled, match="WF315"), salvage.salvage_directory(source, source):
        pass
    (source / "FORMAT").write_text('{"format": 99, "lmdb": 0, "release": "9.0"}')
    with pytest.raises(Stalled, match="WF311"), salvage.salvage_directory(source, tmp_path / "b"):
        pass
    (source / "FORMAT").write_text("garbled")
    with salvage.salvage_directory(source, tmp_path / "c") as found:
        assert found.is_whole


# Backup ---------------------------------------------------------------------------------------------------------------


def restore(source: Path, target: Path) -> Store:
    with copying.restore_backup(source, target), open_store(target, UNIONS, is_rescue=True):
        pass
    return open_store(target, UNIONS)


def test_a_backup_of_a_stopped_daemon_is_restored_completely(tmp_path: Path) -> None:
    """The generation is new, and the backup itself is unchanged."""
    source, made, target = tmp_path / "source", tmp_path / "made", tmp_path / "target"
    whole = fill(source)
    manifest = copying.back_up(source, made, nothing_known)
    assert manifest.records == sum(map(len, whole.values()))
    before = snapshot(made)
    assert examine(made).records == manifest.records
    with pytest.raises(Stalled, match=r"restore.*WF314"):
        open_store(made, UNIONS)
    for _ in range(3):
        with open_store(source, UNIONS) as store:
            newest = store.log.generation
    with restore(made, target) as store, open_store(source, UNIONS) as old:
        assert truth(store) == whole
        assert store.log.generation > newest + 1_000
        assert store.outputs.read(writer_process.name(0), 0, 1 << 30) == old.outputs.read(
            writer_process.name(0), 0, 1 << 30
        )
    assert snapshot(made) == before
    assert (target / "keys" / "server.key").stat().st_mode & 0o777 == 0o600
    again = tmp_path / "again"
    with restore(made, again) as second, open_store(target, UNIONS) as first:
        assert second.log.generation > 0
        assert second.log.generation != first.log.generation


def test_a_copied_data_directory_is_restored_like_a_backup(tmp_path: Path) -> None:
    """A plain copy of a stopped daemon's directory has no file list, but every record is checked."""
    source, target = tmp_path / "source", tmp_path / "target"
    whole = fill(source)
    with open_store(source, UNIONS), pytest.raises(Stalled, match="WF310"):
        restore(source, target)
    with restore(source, target) as store:
        assert truth(store) == whole
        assert store.log.generation > 1_000


def test_a_backup_under_load_is_a_prefix_with_the_output_of_its_events(tmp_path: Path) -> None:
    """While another process writes as fast as it can; everything acknowledged before is included."""
    source, made = tmp_path / "source", tmp_path / "made"
    process = subprocess.Popen(
        [sys.executable, writer_process.__file__, "append", os.fspath(source)], stdout=subprocess.PIPE, text=True
    )
    acknowledged: dict[tuple[str, int], int] = {}
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("open")

        def take(count: int) -> None:
            assert process.stdout is not None
            for _ in range(count):
                kind, number, position = process.stdout.readline().split()
                acknowledged[kind, int(number)] = int(position)

        take(300)
        before = dict(acknowledged)
        reader = threading.Thread(target=lambda: process.stdout.read())  # type: ignore[union-attr]
        reader.start()
        copying.back_up(source, made, nothing_known)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    reader.join()
    process.stdout.close()
    with restore(made, tmp_path / "target") as store:
        store.verify()
        for (kind, number), position in before.items():
            if kind == "event":
                assert len(store.log.read(stream(number))) >= position
            else:
                assert store.outputs.size(writer_process.name(number)) >= position
        for number in range(writer_process.LOGS):
            name = writer_process.name(number)
            end = 0
            for piece in store.outputs.read(name, 0, 1 << 30):
                assert piece.offset == end
                assert piece.data == writer_process.line(number, piece.offset // 1000)
                end += len(piece.data)
            assert end == store.outputs.size(name)


@pytest.mark.parametrize("after", [0.0, 0.05, 0.15, 0.3, 0.5])
def test_a_killed_backup_is_complete_or_refused(tmp_path: Path, after: float) -> None:
    """Whenever it is killed; a second backup uses another directory."""
    source, made = tmp_path / "source", tmp_path / "made"
    fill(source)
    code = (
        "import sys; from pathlib import Path; from waterflowd.store import copying;"
        "print('begin', flush=True);"
        "copying.back_up(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, os.fspath(source), os.fspath(made)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    if not (made / "FORMAT").exists():
        assert not made.exists() or not any(made.glob("log.mdb/*"))
        return
    found = directory.read_format(made)
    assert found is not None
    if found.state is directory.State.BACKUP:
        restore(made, tmp_path / "target").close()
        return
    with pytest.raises(Stalled, match="WF313"):
        restore(made, tmp_path / "target")
    with pytest.raises(Stalled, match="WF313"):
        open_store(made, UNIONS)
    with pytest.raises(Stalled, match=r"unfinished.*WF315"):
        copying.back_up(source, made, nothing_known)


def test_a_damaged_backup_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    """A changed, truncated or missing file of any kind: WF304 that names it, and an empty target for the next try."""
    source, made, target = tmp_path / "source", tmp_path / "made", tmp_path / "target"
    fill(source)
    manifest = copying.back_up(source, made, nothing_known)
    for name in [*(file.path for file in manifest.files), layout.MANIFEST_FILE]:
        content = (made / name).read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        for damaged in (bytes(changed), content[: len(content) // 2], None):
            (made / name).unlink()
            if damaged is not None:
                (made / name).write_bytes(damaged)
            elif name.endswith(layout.LOG_FILE):
                with pytest.raises(Stalled, match="WF312"):
                    restore(made, target)
                (made / name).write_bytes(content)
                continue
            with pytest.raises(Stalled, match="WF304"):
                restore(made, target)
            assert not target.exists() or not any(target.iterdir())
            with pytest.raises(Stalled, match="WF304"):
                examine(made)
            (made / name).write_bytes(content)
    restore(made, target).close()


def test_a_damaged_log_is_not_backed_up(tmp_path: Path) -> None:
    """WF304, and nothing in the target: such a backup could not be restored."""
    source, made = tmp_path / "source", tmp_path / "made"
    fill(source)
    file = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    content = file.read_bytes()
    file.write_bytes(content.replace(text(2, 7).encode(), text(2, 7).encode().swapcase()))
    with pytest.raises(Stalled, match="WF304"):
        copying.back_up(source, made, nothing_known)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(Stalled, match="WF304"):
        copying.back_up(source, made, nothing_known)
    assert not any(made.iterdir())


def test_a_restore_needs_an_empty_directory(tmp_path: Path) -> None:
    """Existing data is never overwritten, and a clock behind the backup could repeat generations that agents know."""
    source, made = tmp_path / "source", tmp_path / "made"
    fill(source)
    copying.back_up(source, made, nothing_known)
    before = snapshot(source)
    with pytest.raises(Stalled, match="WF315"):
        restore(made, source)
    with pytest.raises(Stalled, match="WF315"):
        copying.back_up(source, made, nothing_known)
    assert snapshot(source) == before
    manifest = (made / layout.MANIFEST_FILE).read_text()
    at = next(line for line in manifest.splitlines() if "made_at" in line)
    (made / layout.MANIFEST_FILE).write_text(manifest.replace(at, '"made_at": 32503680000000,'))
    with pytest.raises(Stalled, match=r"clock.*WF316"):
        restore(made, tmp_path / "target")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_copy_to_a_full_disk_fails_with_a_clear_message_and_leaves_nothing(tmp_path: Path) -> None:
    """Backup, restore and salvage alike: WF315, and no partial copy."""
    source, made, small = tmp_path / "source", tmp_path / "made", tmp_path / "small"
    fill(source, rounds=80)
    copying.back_up(source, made, nothing_known)
    small.mkdir()
    with mounted(small, "-t", "tmpfs", "-o", "size=400k", "tmpfs"):
        with pytest.raises(Stalled, match="WF315"):
            copying.back_up(source, small, nothing_known)
        assert not any(small.iterdir())
        with pytest.raises(Stalled, match="WF315"):
            restore(made, small)
        assert not any(small.iterdir())
        with pytest.raises(Stalled, match="WF315"), salvage.salvage_directory(source, small):
            pass
        assert not any(small.iterdir())


# What counts as damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [("SIGKILL", "WF306"), ("SIGTERM", "WF306"), ("SIGBUS", "WF304"), ("SIGSEGV", "WF304")]
)
def test_a_killed_check_does_not_report_damage(tmp_path: Path, number: str, code: str) -> None:
    """The kernel's out-of-memory killer does not mean damage; signals that a bad file causes do."""
    kill = f"import os, signal; os.kill(os.getpid(), signal.{number})"
    child = subprocess.run([sys.executable, "-c", kill], capture_output=True, check=False)
    with pytest.raises(Stalled, match=code):
        check.judge(tmp_path / layout.LOG_FILE, child)


def test_a_check_without_memory_does_not_report_damage(tmp_path: Path) -> None:
    """As under a memory limit of its service."""
    child = subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], capture_output=True, check=False)
    with pytest.raises(Stalled, match=r"memory.*WF306"):
        check.judge(tmp_path / layout.LOG_FILE, child)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_lost_log_is_never_replaced_by_an_empty_one(tmp_path: Path, what: str) -> None:
    """`FORMAT` says that there was one: WF312 suggests restore, and nothing is created."""
    fill(tmp_path)
    shutil.rmtree(tmp_path / layout.ENVIRONMENT_DIRECTORY)
    if what == "file":
        (tmp_path / layout.ENVIRONMENT_DIRECTORY).mkdir()
    for _ in range(2):
        with pytest.raises(Stalled, match=r"restore.*WF312"):
            open_store(tmp_path, UNIONS)
    assert not (tmp_path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists()


def test_a_first_start_that_was_killed_between_format_and_log_starts_again(tmp_path: Path) -> None:
    """`FORMAT` says that no log exists yet."""
    directory.write_format(tmp_path, directory.State.EMPTY)
    open_store(tmp_path, UNIONS).close()
    found = directory.read_format(tmp_path)
    assert found is not None
    assert found.state is directory.State.DATA
