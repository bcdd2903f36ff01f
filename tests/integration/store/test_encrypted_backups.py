"""Encrypted backups on real disks: nothing in the clear, nothing false accepted, nothing left behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from tests.integration.store import writer_process
from tests.integration.store.test_rescue import (
    RUNS,
    UNIONS,
    fill,
    nothing_known,
    print_output,
    snapshot,
    stream,
    text,
    truth,
)
from tests.integration.store.test_store import mounted
from waterflow_agent.errors import Rejected, Stalled
from waterflowd.dispatch.keys import load_server_keys
from waterflowd.rescue import archive, encryption
from waterflowd.store import copying, directory, layout
from waterflowd.store.opening import Store, examine, open_store

#: Encrypted blocks of age, including their tags.
BLOCK_BYTES = (64 << 10) + 16
#: Memory of the whole process, in which the interpreter and the libraries take about 80 MiB; the output has 120 MiB.
MEMORY_BYTES_MAX = 140 << 20


@pytest.fixture(scope="module")
def identity() -> pyrage.x25519.Identity:
    """Returns the identity of the person who restores backups."""
    return pyrage.x25519.Identity.generate()


def back_up(source: Path, target: Path, *identities: pyrage.x25519.Identity) -> archive.EncryptedBackup:
    return archive.back_up(source, target, [one.to_public() for one in identities], nothing_known)


def check(file: Path, *identities: pyrage.x25519.Identity) -> int:
    return archive.examine(file, identities, named="key.txt").records


def restore(file: Path, target: Path, *identities: pyrage.x25519.Identity) -> Store:
    with (
        copying.restored(file, target, lambda made: archive.extract(file, identities, made, named="key.txt")),
        open_store(target, UNIONS, is_rescue=True),
    ):
        pass
    return open_store(target, UNIONS)


def test_nothing_of_an_encrypted_backup_is_in_the_clear(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """Neither the server's key, nor events, output, or names: not in the file, and in no other file beside the data."""
    source, places = tmp_path / "source", tmp_path / "places"
    places.mkdir()
    keys = load_server_keys(source)
    (source / "keys" / "server.key").rename(tmp_path / "server.key")
    (source / "keys").rmdir()
    fill(source)
    (tmp_path / "server.key").rename(source / "keys" / "server.key")
    secrets = [
        keys.current.secret.encode(),
        keys.public.encode(),
        text(2, 7).encode(),
        b"A" * 100,
        writer_process.run(0).encode(),
        b"server.key",
        b"output/",
    ]

    def seen(file: Path) -> list[bytes]:
        content = file.read_bytes()
        return [secret for secret in secrets if secret in content]

    copying.back_up(source, tmp_path / "clear", nothing_known)
    assert seen(tmp_path / "clear" / "keys" / "server.key"), "a backup without encryption has the key, as documented"
    made = back_up(source, places / "made.age", identity)
    assert [file.name for file in places.rglob("*")] == ["made.age"]
    assert seen(places / "made.age") == []
    assert (places / "made.age").stat().st_mode & 0o777 == 0o600
    assert made.archive_bytes == (places / "made.age").stat().st_size
    assert not (source / layout.SNAPSHOT_DIRECTORY).exists()


def test_an_encrypted_backup_is_restored_completely(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """Each of two recipients can restore it; events, plans, output and the key are the same; the backup is unchanged."""
    source, made = tmp_path / "source", tmp_path / "made.age"
    whole = fill(source)
    other = pyrage.x25519.Identity.generate()
    manifest = back_up(source, made, identity, other)
    assert manifest.records == sum(map(len, whole.values()))
    before = made.read_bytes()
    assert check(made, identity) == check(made, other) == manifest.records
    with restore(made, tmp_path / "target", other) as store, open_store(source, UNIONS) as old:
        assert store.verify().records == manifest.records
        assert truth(store) == whole
        assert store.log.generation > old.log.generation + 1_000
        assert store.log.plan("plan-hash") == old.log.plan("plan-hash")
        for number in range(RUNS):
            name = writer_process.name(number)
            assert store.outputs.read(name, 0, 1 << 30) == old.outputs.read(name, 0, 1 << 30)
    assert (tmp_path / "target" / "keys" / "server.key").read_bytes() == b"a key"
    assert (tmp_path / "target" / "keys" / "server.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "target" / layout.MANIFEST_FILE).exists()
    assert made.read_bytes() == before


def test_standard_tools_open_an_encrypted_backup(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """Decrypted and unpacked, it is a backup as `waterflowd backup` creates it without encryption."""
    source, made, unpacked = tmp_path / "source", tmp_path / "made.age", tmp_path / "unpacked"
    fill(source)
    manifest = back_up(source, made, identity)
    unpacked.mkdir()
    plain = pyrage.decrypt(made.read_bytes(), [identity])
    subprocess.run(["tar", "--extract", "--directory", os.fspath(unpacked)], input=plain, check=True)
    assert examine(unpacked).records == manifest.records
    copying.back_up(source, tmp_path / "clear", nothing_known)
    names = {
        os.fspath(file.relative_to(tmp_path / "clear")) for file in (tmp_path / "clear").rglob("*") if file.is_file()
    }
    assert {os.fspath(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()} == names - {
        "log.mdb/lock.mdb"
    }


def test_a_wrong_identity_is_named_and_leaves_nothing(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """WF318, and the target stays empty for the next try."""
    source, made, target = tmp_path / "source", tmp_path / "made.age", tmp_path / "target"
    fill(source)
    back_up(source, made, identity)
    other = pyrage.x25519.Identity.generate()
    with pytest.raises(Stalled, match=r"not encrypted to key\.txt.*WF318"):
        restore(made, target, other)
    assert not any(target.iterdir())
    with pytest.raises(Stalled, match="WF318"):
        check(made, other)
    restore(made, target, other, identity).close()


def _damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    size = len(content)
    payload = content.index(b"\n", content.index(b"\n--- ") + 1) + 1 + 16
    for at in (30, payload - 60, payload - 10, payload + 5, size // 3, size // 2, size - 5):
        yield f"flip at {at}", content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    for length in (30, payload - 30, payload, payload + 100, payload + BLOCK_BYTES, size // 2, size - 1):
        yield f"cut to {length}", content[:length]
    yield "without one block", content[: payload + BLOCK_BYTES] + content[payload + 2 * BLOCK_BYTES :]
    yield "with more at its end", content + b"x"


def test_a_damaged_encrypted_backup_is_refused_and_leaves_no_trace(
    tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    """Cut anywhere, also at the end of a block, or with one changed bit: refused with a code, never restored in part."""
    source, made, target = tmp_path / "source", tmp_path / "made.age", tmp_path / "target"
    fill(source, rounds=40)
    back_up(source, made, identity)
    content = made.read_bytes()
    assert len(content) > 4 * BLOCK_BYTES
    for what, damaged in _damages(content):
        made.write_bytes(damaged)
        for call in (lambda: restore(made, target, identity), lambda: check(made, identity)):
            with pytest.raises(Stalled) as failed:
                call()
            # A changed stanza of a recipient cannot be told from another recipient's.
            assert failed.value.code in ("WF304", "WF318"), what
            assert failed.value.code == "WF304" or "flip" in what, what
        assert not target.exists() or not any(target.iterdir()), what
    made.write_bytes(content)
    restore(made, target, identity).close()


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        for member, content in members:
            member.size = len(content)
            written.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_an_archive_of_a_stranger_writes_nothing_outside_the_target(
    tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    """Anyone can encrypt to a recipient: foreign names, links and other content are refused."""
    made, target, outside = tmp_path / "made.age", tmp_path / "target", tmp_path / "outside"
    backup = directory.encode_format(directory.current_format(directory.State.BACKUP))
    begin = (tarfile.TarInfo(layout.FORMAT_FILE), backup)
    link = tarfile.TarInfo("output/link")
    link.type, link.linkname = tarfile.SYMTYPE, os.fspath(outside)
    newer = directory.encode_format(directory.Format(format=99, lmdb=0, release="9.0", state=directory.State.BACKUP))
    data = directory.encode_format(directory.current_format(directory.State.DATA))
    refused = {
        "WF304": [
            _archive(begin, (tarfile.TarInfo(name), b"x"))
            for name in (os.fspath(outside), "../outside", "output/../../outside", "owner", "output", "FORMAT")
        ]
        + [
            _archive(begin, (link, b"")),
            _archive(begin),
            _archive(begin, (tarfile.TarInfo("backup.json"), b"{}")),
            _archive(begin, (tarfile.TarInfo("clock.json"), b"1"), (tarfile.TarInfo("clock.json"), b"2")),
        ],
        "WF311": [
            b"",
            b"only text",
            _archive((tarfile.TarInfo("clock.json"), b"1")),
            _archive((tarfile.TarInfo(layout.FORMAT_FILE), newer)),
            _archive((tarfile.TarInfo(layout.FORMAT_FILE), data)),
            _archive((tarfile.TarInfo(layout.FORMAT_FILE), b"garbled")),
        ],
    }
    for code, contents in refused.items():
        for content in contents:
            made.write_bytes(pyrage.encrypt(content, [identity.to_public()]))
            with pytest.raises(Stalled, match=code):
                restore(made, target, identity)
            assert not target.exists() or not any(target.iterdir())
            assert not outside.exists()
    made.write_bytes(b"a text")
    with pytest.raises(Stalled, match="WF311"):
        restore(made, target, identity)


def test_an_existing_file_is_never_overwritten(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """WF315 for a file, a directory, a dangling link, a place inside the source, and a backup that is unfinished."""
    source = tmp_path / "source"
    fill(source)
    before = snapshot(source)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "other.partial").write_text("unfinished")
    for name in ("file", "folder", "link", "other", "source", "source/inside", "missing/made.age"):
        with pytest.raises(Stalled, match="WF315"):
            back_up(source, tmp_path / name, identity)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "other.partial").read_text() == "unfinished"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "other.partial", "source"]
    assert snapshot(source) == before
    with pytest.raises(Stalled, match="WF311"):
        back_up(tmp_path / "folder", tmp_path / "made.age", identity)


def test_a_damaged_log_is_not_encrypted(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """WF304, and neither the file nor the snapshot is left."""
    source = tmp_path / "source"
    fill(source)
    file = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    content = file.read_bytes()
    file.write_bytes(content.replace(text(2, 7).encode(), text(2, 7).encode().swapcase()))
    with pytest.raises(Stalled, match="WF304"):
        back_up(source, tmp_path / "made.age", identity)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not (source / layout.SNAPSHOT_DIRECTORY).exists()


@pytest.mark.parametrize("after", [0.0, 0.1, 0.2, 0.35, 0.5])
def test_a_killed_encrypted_backup_is_complete_or_absent(
    tmp_path: Path, identity: pyrage.x25519.Identity, after: float
) -> None:
    """Whenever it is killed; the next one removes the snapshot that it left."""
    source, made = tmp_path / "source", tmp_path / "made.age"
    whole = fill(source, rounds=40)
    code = (
        "import sys; from pathlib import Path; from waterflowd.rescue import archive, encryption;"
        "print('begin', flush=True);"
        "archive.back_up(Path(sys.argv[1]), Path(sys.argv[2]), encryption.parse_recipients(sys.argv[3:]), lambda *_: False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.fspath(source), os.fspath(made), str(identity.to_public())],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    if made.exists():
        restore(made, tmp_path / "target", identity).close()
        return
    open_store(source, UNIONS).close()
    again = back_up(source, tmp_path / "again.age", identity)
    assert not (source / layout.SNAPSHOT_DIRECTORY).exists()
    with restore(tmp_path / "again.age", tmp_path / "target", identity) as store:
        assert truth(store) == whole
        assert again.records == store.verify().records


def test_two_encrypted_backups_at_once_do_not_disturb_each_other(
    tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    """The second one is refused with WF310, and the first one's snapshot is not touched."""
    source = tmp_path / "source"
    fill(source)
    with copying.snapshot_directory(source) as made:
        (made / "mark").touch()
        with pytest.raises(Stalled, match=r"another encrypted backup.*WF310"):
            back_up(source, tmp_path / "made.age", identity)
        assert (made / "mark").exists()
    assert not (tmp_path / "made.age.partial").exists()
    back_up(source, tmp_path / "made.age", identity)


@pytest.mark.slow
def test_a_large_backup_needs_little_memory(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """The log and the output are streamed, in both directions."""
    source, made, key = tmp_path / "source", tmp_path / "made.age", tmp_path / "key.txt"
    with open_store(source, UNIONS) as store:
        for _ in range(120):
            print_output(store, 0, 1 << 20)
    key.touch(mode=0o600)
    key.write_text(f"{identity}\n")
    (tmp_path / "waterflowd.toml").write_text(f'data-dir = "{source}"\n')

    def peak(*arguments: str) -> int:
        code = (
            "import sys\n"
            "from waterflowd.app.cli import main\n"
            "try:\n    main(sys.argv[1:])\n"
            "finally:\n    print(open('/proc/self/status').read(), file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, arguments[0], "--config", str(tmp_path / "waterflowd.toml"), *arguments[1:]],
            capture_output=True,
            text=True,
            check=True,
        )
        # `getrusage` would count what the process that started this one had at that time.
        (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)
        return int(kib) << 10

    peaks = {
        "backup": peak("backup", os.fspath(made), "--encrypt-to", str(identity.to_public())),
        "fsck": peak("fsck", "--data-dir", os.fspath(made), "--identity", os.fspath(key)),
        "restore": peak(
            "restore", os.fspath(made), "--data-dir", os.fspath(tmp_path / "target"), "--identity", os.fspath(key)
        ),
    }
    assert made.stat().st_size > 120 << 20
    assert max(peaks.values()) < MEMORY_BYTES_MAX, peaks


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_disk_leaves_no_encrypted_backup(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    """WF315, where the file goes and where the data directory is; nothing is left on either."""
    source, small = tmp_path / "source", tmp_path / "small"
    small.mkdir()
    fill(source, rounds=80)
    with mounted(small, "-t", "tmpfs", "-o", "size=200k", "tmpfs"):
        with pytest.raises(Stalled, match=r"No space left.*WF315"):
            back_up(source, small / "made.age", identity)
        assert not any(small.iterdir())
    assert not (source / layout.SNAPSHOT_DIRECTORY).exists()
    with mounted(small, "-t", "tmpfs", "-o", "size=60m", "tmpfs"):
        fill(small / "source")
        with pytest.raises(Stalled, match=r"are free.*WF315"):
            back_up(small / "source", tmp_path / "made.age", identity)
        assert not (small / "source" / layout.SNAPSHOT_DIRECTORY).exists()
    assert not list(tmp_path.glob("made.age*"))


def test_recipients_are_checked_and_a_secret_is_never_repeated(identity: pyrage.x25519.Identity) -> None:
    """An identity in the place of a recipient must not appear in a message, nor in a log of one."""
    recipient = str(identity.to_public())
    assert [str(one) for one in encryption.parse_recipients([recipient])] == [recipient]
    for text_ in ("age1nonsense", "", "ssh-ed25519 AAAA"):
        with pytest.raises(Rejected, match=r"not an age recipient.*WF622"):
            encryption.parse_recipients([text_])
    for secret in (str(identity), str(identity).lower()):
        with pytest.raises(Rejected, match="WF622") as failed:
            encryption.parse_recipients([secret])
        assert secret[20:] not in str(failed.value)
    with pytest.raises(Rejected, match=r"at most 20.*WF622"):
        encryption.parse_recipients([recipient] * 21)


def test_events_appended_during_the_backup_are_in_the_next_one(
    tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    """While another process writes as fast as it can, the backup is a prefix."""
    source, made = tmp_path / "source", tmp_path / "made.age"
    process = subprocess.Popen(
        [sys.executable, writer_process.__file__, "append", os.fspath(source)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        acknowledged: dict[tuple[str, int], int] = {}
        process.stdout.readline()
        for _ in range(200):
            kind, number, position = process.stdout.readline().split()
            acknowledged[kind, int(number)] = int(position)
        back_up(source, made, identity)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    with restore(made, tmp_path / "target", identity) as store:
        for (kind, item), count in acknowledged.items():
            if kind == "event":
                assert len(store.log.read(stream(item))) >= count
            else:
                assert store.outputs.size(writer_process.name(item)) >= count
