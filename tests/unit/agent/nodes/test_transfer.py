"""`file/transfer` without its endpoints: addresses, names, patterns, progress, and missing libraries."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.display import size_text
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import address, names
from waterflow_agent.nodes.transfer.content import Content, Progress
from waterflow_agent.nodes.transfer.node import FileTransferNode


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(directory=tmp_path, workspace=tmp_path, env={})


@pytest.mark.parametrize(
    ("text", "displayed"),
    [
        ("a b/%20", "a b/%20"),
        ("repo:dist/a", "repo:dist/a"),
        ("s3://bucket/a b/ü?#%20", "s3://bucket/a b/ü?#%20"),
        ("S3://bucket", "s3://bucket/"),
        ("sftp://ann@[::1]:22/a?b#c", "sftp://ann@[::1]:22/a?b#c"),
        ("sftp://host/~/a", "sftp://host/~/a"),
        ("https://ann:hunter2@host:1/a?sig=hunter2#x", "https://host:1/a"),
    ],
)
def test_an_address_is_displayed_without_credentials(text: str, displayed: str) -> None:
    """Credentials are removed, and names are left unchanged."""
    assert str(address.parse(text, "source")) == displayed


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    """The parser returns an address or raises an error with a message, and nothing else."""
    message = "source"
    try:
        address.parse(text, "source")
    except NodeFailure as failure:
        message = failure.text
    assert message.startswith("source")


def test_date_and_time_are_valid_sortable_names() -> None:
    """They contain only characters that are allowed in names."""
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert address.fill("s3://b/{date}/x-{time}-{other}", now) == "s3://b/2026-01-02/x-030405-{other}"


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n ü"), max_size=12) | st.text(max_size=12))
def test_a_checked_name_stays_inside_the_folder(name: str) -> None:
    """Whatever a listing contains, a name is either inside the folder or refused."""
    refusal = None
    try:
        names.checked(name, "the server")
    except NodeFailure as failure:
        refusal = failure.text
    if refusal is not None:
        assert refusal.isprintable()
        return
    assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"


@given(st.lists(st.text(alphabet="abc.*?[]!^-ü", min_size=1, max_size=6), min_size=1, max_size=3))
def test_patterns_match_as_in_the_standard_library(parts: list[str]) -> None:
    """Patterns are matched component by component where no name has a leading dot; an invalid one gives a message."""
    pattern = "/".join(parts)
    if "**" in pattern or any(part.startswith((".", "[")) for part in parts):
        return
    try:
        found = names.compile_pattern(pattern)
    except NodeFailure:
        return
    for name in ("a/b/c", "abc", "a", "b/a", "ü/x", "a-b/c]"):
        with_library = name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern)
        if PurePosixPath(pattern).parts == tuple(parts):
            assert bool(found.fullmatch(name)) == with_library, (pattern, name)


def test_wildcards_do_not_match_separators_and_leading_dots() -> None:
    """Only `**` crosses folders."""
    every = ["a.gz", "x/a.gz", "x/y/a.gz", ".a.gz", ".x/a.gz", "x/.y/a.gz"]
    assert [name for name in every if names.compile_pattern("*.gz").fullmatch(name)] == ["a.gz"]
    assert [name for name in every if names.compile_pattern("**/*.gz").fullmatch(name)] == every[:3]
    assert [name for name in every if names.compile_pattern("**").fullmatch(name)] == every[:3]
    assert [name for name in every if names.compile_pattern(".*/*").fullmatch(name)] == [".x/a.gz"]
    assert names.split("/*.gz") == ("/", "*.gz")
    assert names.split("a/b/*/c") == ("a/b", "*/c")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def test_the_last_chunk_is_held_back_until_the_checksum_is_verified(context: Context) -> None:
    """If the checksum or the size is wrong, the last chunk is never delivered."""
    right = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"

    async def collect(size: int | None, expected: str | None) -> list[bytes]:
        content = Content("x", chunks(b"a", b"b", b"c"), size=size, checksum=expected, progress=Progress(context, 3))
        got: list[bytes] = []
        try:
            async for chunk in content:
                got.append(chunk)
        except NodeFailure as failure:
            got.append(str(failure.may_retry).encode())
        return got

    assert asyncio.run(collect(3, right)) == [b"a", b"b", b"c"]
    assert asyncio.run(collect(None, None)) == [b"a", b"b", b"c"]
    assert asyncio.run(collect(3, "sha256:0")) == [b"a", b"b", b"False"]
    assert asyncio.run(collect(4, right)) == [b"a", b"b", b"True"]


def test_progress_lines_are_rate_limited(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    """The first lines are five seconds apart, and a whole day has fewer than a hundred."""
    now = 0.0
    progress = Progress(context, 86_400 << 20, clock=lambda: now)
    for second in range(1, 86_401):
        now = float(second)
        progress.advance(1 << 20, "dump")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dump: 5.0 MiB of 84.4 GiB (0 %), 1.0 MiB/s"
    assert 20 < len(lines) < 100


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_amounts_have_units(count: int, text: str) -> None:
    """Amounts are shown with units in powers of 1024."""
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("source", "package"), [("s3://b/x", "obstore"), ("sftp://h/x", "asyncssh"), ("http://h/x", "httpx")]
)
def test_a_library_that_is_missing_is_one_clear_error(
    context: Context, monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    """The message contains the command that installs it; other kinds of endpoints work without the library."""
    for name in [*sys.modules]:
        if name.startswith("waterflow_agent.nodes.transfer.") and name.rpartition(".")[2] in (
            "s3",
            "sftp",
            "ssh",
            "web",
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    given = schema.FileTransfer(source=source, destination="x", password="x", access_key="a", secret_key="b")
    with pytest.raises(Rejected, match='pip install "waterflow-agent') as caught:
        asyncio.run(FileTransferNode().run(context, given))
    assert (caught.value.code, package in caught.value.text) == ("WF708", True)
    (context.directory / "a").write_text("x")
    plain = schema.FileTransfer(source="a", destination="b")
    assert asyncio.run(FileTransferNode().run(context, plain))["files"] == 1


def test_too_many_files_are_a_failure(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer fails before anything is written."""
    monkeypatch.setattr(names, "FILES_MAX", 2)
    (context.directory / "in").mkdir()
    for name in ("a", "b", "c"):
        (context.directory / "in" / name).write_text("x")
    given = schema.FileTransfer(source="in", destination="out")
    with pytest.raises(NodeFailure, match="has more than 2 files; transfer it in parts"):
        asyncio.run(FileTransferNode().run(context, given))
    assert not (context.directory / "out").exists()
