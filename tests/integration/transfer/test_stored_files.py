"""`file/list` and `file/prune` on this server, in S3 and on an SFTP server, and transfers of several sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.remote import git_servers
from tests.integration.transfer.test_s3 import KEYS, Bucket, bucket, moto  # noqa: F401
from tests.integration.transfer.transfer_harness import ENVIRONMENT, transfer
from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import local, stored_files
from waterflow_agent.testing import NodeRun, run_node

DAY_S = 86_400
#: A day apart, the oldest first, in July 2024.
NAMES = ["shop-1.sql", "shop-2.sql", "shop-3.sql", "shop-4.sql"]


class Place:
    """Where files are: the address of a folder, and the parameters that reach it."""

    def __init__(self, address: str, access: dict[str, Any], names: Callable[[], list[str]]) -> None:
        self.address = address
        self.access = access
        self.names = names

    def run(self, node: str, pattern: str, directory: Path, **parameters: Any) -> NodeRun:
        params = {"path": f"{self.address}/{pattern}", **self.access, **parameters}
        return run_node(
            node,
            {name.replace("_", "-"): value for name, value in params.items()},
            directory=directory,
            env=ENVIRONMENT,
        )


def dated(folder: Path) -> None:
    """Creates the files, a day apart."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_text("x" * (number + 1))
        os.utime(folder / name, (1_720_000_000 + number * DAY_S,) * 2)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _below_db(key: str) -> str:
    return key.removeprefix("db/")


@contextmanager
def at_sftp(tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "far"
    dated(folder)
    with git_servers.sshd(tmp_path / "ssh") as server:
        with server.configuration.open("a") as file:
            file.write("Subsystem sftp internal-sftp\n")
        access = {"private-key": str(server.key), "known-hosts": str(server.known_hosts)}
        url = f"sftp://{server.user}@127.0.0.1:{server.port}{folder}"
        yield Place(url, access, lambda: names_in(folder))


@pytest.fixture(params=["local", "sftp", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        dated(tmp_path / "here")
        yield Place(str(tmp_path / "here"), {}, lambda: names_in(tmp_path / "here"))
    elif request.param == "sftp":
        with at_sftp(tmp_path) as found:
            yield found
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        for number, name in enumerate(NAMES):
            bucket.put(f"db/{name}", b"x" * (number + 1))
        yield Place("s3://bucket/db", {"endpoint": bucket.endpoint, **KEYS}, lambda: [*map(_below_db, bucket.keys())])


def test_files_are_listed_with_size_and_time(place: Place, tmp_path: Path) -> None:
    """Sorted by name; the log has a line for each."""
    ended = place.run("file/list", "*.sql", tmp_path)
    assert ended.outcome is Outcome.SUCCESS, ended
    files = ended.outputs["files"]
    assert [(file["name"], file["size"]) for file in files] == [(name, n + 1) for n, name in enumerate(NAMES)]
    assert all(len(file["modified"]) == 20 and file["modified"].endswith("Z") for file in files)
    assert (ended.outputs["count"], ended.outputs["bytes"]) == (4, 10)
    if not place.address.startswith("s3:"):
        assert files[0]["modified"] == "2024-07-03T09:46:40Z"
    assert place.run("file/list", "none-*", tmp_path).outputs == {"files": [], "count": 0, "bytes": 0}


def test_the_last_files_are_kept(place: Place, tmp_path: Path) -> None:
    """By name, which works everywhere; other files of the folder are not touched, and a second time nothing is left to do."""
    shown = place.run("file/prune", "shop-*.sql", tmp_path, keep_last=2, by="name", dry_run=True)
    assert shown.outputs == {"deleted": 2, "kept": 2, "bytes": 3}, shown
    assert place.names() == NAMES
    ended = place.run("file/prune", "shop-*.sql", tmp_path, keep_last=2, by="name")
    assert ended.outputs == {"deleted": 2, "kept": 2, "bytes": 3}, ended
    assert place.names() == NAMES[2:]
    assert place.run("file/prune", "shop-*.sql", tmp_path, keep_last=2, by="name").outputs["deleted"] == 0
    assert place.run("file/prune", "other-*", tmp_path, keep_last=0).outputs == {"deleted": 0, "kept": 0, "bytes": 0}


def test_files_of_a_server_are_kept_by_age(tmp_path: Path) -> None:
    """A name says nothing about the time: the order of the times counts."""
    folder = tmp_path / "here"
    dated(folder)
    os.utime(folder / "shop-1.sql", None)
    ended = run_node("file/prune", {"path": str(folder), "keep-last": 2}, directory=tmp_path, env=ENVIRONMENT)
    assert (ended.outputs["deleted"], names_in(folder)) == (2, ["shop-1.sql", "shop-4.sql"])
    params = {"path": f"{folder}/", "older-than": "30d", "keep-last": 0}
    assert run_node("file/prune", params, directory=tmp_path, env=ENVIRONMENT).outputs["deleted"] == 1
    assert names_in(folder) == ["shop-1.sql"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"path": "here/*"}, "set keep-last, older-than or both"),
        ({"path": "here/shop-1.sql", "keep-last": 1}, "is a single file; expected a folder or a pattern"),
        ({"path": "https://example.org/*", "keep-last": 1}, "http servers have no lists of files"),
        ({"path": "here/*", "older-than": "soon"}, "older-than: expected a duration"),
        ({"path": "nothing/*", "keep-last": 1}, "No such file or directory"),
    ],
)
def test_a_prune_that_makes_no_sense_deletes_nothing(tmp_path: Path, parameters: dict[str, Any], text: str) -> None:
    """The error says what was expected."""
    dated(tmp_path / "here")
    ended = run_node("file/prune", parameters, directory=tmp_path, env=ENVIRONMENT)
    assert (ended.outcome, text in ended.text) == (Outcome.FAILURE, True), ended
    assert names_in(tmp_path / "here") == NAMES


async def test_a_file_that_was_replaced_meanwhile_stays(tmp_path: Path) -> None:
    """A backup may be written under an old name."""
    dated(tmp_path / "here")
    source = local.LocalSource(Context(directory=tmp_path, workspace=tmp_path, env={}), tmp_path / "here")
    found = (await source.list_files()).entries
    (tmp_path / "here/shop-1.sql").write_text("new")
    with pytest.raises(NodeFailure, match=r"shop-1.sql has changed since it was listed; it was not deleted"):
        await source.delete(found[0])
    (tmp_path / "here/shop-2.sql").unlink()
    await source.delete(found[1])
    assert names_in(tmp_path / "here") == ["shop-1.sql", "shop-3.sql", "shop-4.sql"]


async def test_a_list_that_is_too_long_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs of a job are limited; a pattern selects fewer files."""
    dated(tmp_path / "here")
    monkeypatch.setattr(stored_files, "LISTED_MAX", 3)
    context = Context(directory=tmp_path, workspace=tmp_path, env={})
    with pytest.raises(NodeFailure, match="has 4 files; the limit is 3: narrow the pattern"):
        await stored_files.FileListNode().run(context, schema.FileList(path=str(tmp_path / "here")))


def test_several_sources_go_into_one_folder(bucket: Bucket, tmp_path: Path) -> None:  # noqa: F811
    """Files, patterns and objects; each keeps its name."""
    dated(tmp_path / "here")
    bucket.put("notes/CHANGES", b"new")
    access = {"endpoint": bucket.endpoint, **KEYS}
    sources = ["here/shop-1.sql", "here/shop-[34].sql", "s3://bucket/notes/CHANGES"]
    ended = run_node(
        "file/transfer", {"source": sources, "destination": "out", **access}, directory=tmp_path, env=ENVIRONMENT
    )
    assert (ended.outcome, ended.outputs["files"]) == (Outcome.SUCCESS, 4), ended
    assert names_in(tmp_path / "out") == ["CHANGES", "shop-1.sql", "shop-3.sql", "shop-4.sql"]


def test_several_sources_with_the_same_name_are_refused(tmp_path: Path) -> None:
    """Nothing is written, and one source that is missing fails all."""
    dated(tmp_path / "a")
    dated(tmp_path / "b")
    for sources, text in ((["a/shop-1.sql", "b/*"], "both have a file 'shop-1.sql'"), (["a/*", "b/none"], "none")):
        ended = run_node(
            "file/transfer", {"source": sources, "destination": "out"}, directory=tmp_path, env=ENVIRONMENT
        )
        assert (ended.outcome, text in ended.text) == (Outcome.FAILURE, True), ended
        assert not (tmp_path / "out").exists()


def test_a_single_source_in_a_list_goes_into_the_destination(tmp_path: Path) -> None:
    """As without the list: the destination is the file."""
    dated(tmp_path / "a")
    ended = transfer(tmp_path, "a/shop-1.sql", "one")
    assert ended.outcome is Outcome.SUCCESS
    params = {"source": ["a/shop-1.sql"], "destination": "two"}
    assert run_node("file/transfer", params, directory=tmp_path, env=ENVIRONMENT).outcome is Outcome.SUCCESS
    assert (tmp_path / "two").read_text() == (tmp_path / "one").read_text()
