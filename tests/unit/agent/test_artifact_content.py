"""What artifacts consist of: which files a step selects, how they become blocks, and what a hostile list may not contain."""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import pytest

from waterflow_agent.artifacts import content, patterns
from waterflow_agent.artifacts.content import ArtifactFile, BlockCutter, BlockTable
from waterflow_agent.errors import Rejected
from waterflow_agent.wire.messages import ARTIFACT_BLOCK_BYTES_MAX

TREE = {
    "dist/a.js": "a",
    "dist/sub/b.js": "b",
    "dist/sub/b.map": "m",
    "dist/.hidden/c": "c",
    "top.txt": "t",
    "other/d": "d",
}


def tree(folder: Path) -> Path:
    for name, text in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "root", "paths"),
    [
        ("dist", "dist", ["a.js", "sub/b.js", "sub/b.map"]),
        ("dist/\n", "dist", ["a.js", "sub/b.js", "sub/b.map"]),
        ("dist/**/*.js", "dist", ["a.js", "sub/b.js"]),
        ("dist/*/b.*", "dist", ["sub/b.js", "sub/b.map"]),
        ("dist\n!dist/**/*.map", "dist", ["a.js", "sub/b.js"]),
        ("dist\n!dist/sub", "dist", ["a.js"]),
        ("dist\n!dist/sub\ndist/sub/b.js", "dist", ["a.js", "sub/b.js"]),
        ("# a comment\n\ntop.txt", ".", ["top.txt"]),
        ("dist/a.js\ntop.txt", ".", ["dist/a.js", "top.txt"]),
        ("dist\nother", ".", ["dist/a.js", "dist/sub/b.js", "dist/sub/b.map", "other/d"]),
        ("./dist/../top.[tu]xt", ".", ["top.txt"]),
        ("nothing", "nothing", []),
        ("top.txt/", ".", []),
    ],
)
def test_patterns_select_files_and_their_common_folder(text: str, root: str, paths: list[str], tmp_path: Path) -> None:
    """As GitHub's action does: paths begin below the deepest folder that all lines have in common."""
    selected = patterns.select(text, tree(tmp_path), home="/root")

    assert selected.paths == paths
    if paths:
        assert Path(selected.root) == (tmp_path / root)


def test_hidden_files_are_selected_only_on_request(tmp_path: Path) -> None:
    """A key or a `.git` must not be published by accident."""
    assert patterns.select("dist", tree(tmp_path), home="/", includes_hidden=True).paths[0] == ".hidden/c"


@pytest.mark.parametrize("name", ["build [1]", "a*b", "what?"])
def test_the_names_of_the_working_directory_and_of_home_are_no_patterns(name: str, tmp_path: Path) -> None:
    """Only what the lines say is one, as in GitHub's action."""
    folder = tree(tmp_path / name)

    assert patterns.select("*.txt", folder, home="/").paths == ["top.txt"]
    assert patterns.select("../*/top.txt", folder / "dist", home="/").paths == []
    assert patterns.select("../*.txt", folder / "dist", home="/").paths == ["top.txt"]
    assert patterns.select("~/other/*", tmp_path, home=str(folder)).paths == ["d"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("dist[!x]a.js", []),
        ("dist[+-9]a.js", []),
        ("dist/[!b].js", ["a.js"]),
        ("dist/[[&&a].js", ["a.js"]),
    ],
)
def test_a_set_of_characters_is_within_one_part_of_a_path(text: str, paths: list[str], tmp_path: Path) -> None:
    """A slash is in no set, and other systems' operators of sets are ordinary characters."""
    assert patterns.select(text, tree(tmp_path), home="/").paths == paths


def test_links_are_followed_but_a_circle_ends(tmp_path: Path) -> None:
    """What a link points to is stored; a folder that links to itself is searched once."""
    folder = tree(tmp_path)
    (folder / "dist/link").symlink_to(folder / "top.txt")
    (folder / "dist/circle").symlink_to(folder / "dist")
    (folder / "dist/broken").symlink_to("nowhere")

    assert patterns.select("dist", folder, home="/").paths == ["a.js", "link", "sub/b.js", "sub/b.map"]


def blocks_of(files: dict[str, bytes]) -> list[bytes]:
    cutter = BlockCutter()
    blocks: list[bytes] = []
    for path, data in files.items():
        blocks += cutter.begin_file(len(data))
        blocks += cutter.feed(data)
        blocks += cutter.end_file(path)
    return [*blocks, *cutter.end()]


def test_small_files_share_blocks() -> None:
    """Ten thousand files of a hundred bytes are a handful of blocks, not ten thousand."""
    files = {f"f{number}": b"%099d\n" % number for number in range(10_000)}

    blocks = blocks_of(files)

    assert b"".join(blocks) == b"".join(files.values())
    assert len(blocks) < 20
    assert all(len(block) <= ARTIFACT_BLOCK_BYTES_MAX for block in blocks)


def test_a_changed_file_changes_few_blocks() -> None:
    """Everything else is not sent again."""
    files = {f"f{number}": b"%099d\n" % number for number in range(50_000)}
    before = blocks_of(files)
    files["f25000"] = b"something else, of another size"

    changed = set(blocks_of(files)) - set(before)

    assert 1 <= len(changed) <= 2


def test_a_large_file_has_blocks_of_its_own() -> None:
    """It is stored once even if the files before it change."""
    large = bytes(range(256)) * 4_096

    first = set(blocks_of({"a": b"one", "large": large, "z": b"end"}))
    second = set(blocks_of({"a": b"another beginning", "large": large}))

    assert len(first & second) == len(set(blocks_of({"large": large})))


def test_a_table_finds_the_block_of_an_offset() -> None:
    """Ranges of a download begin anywhere."""
    table = BlockTable(content.encode_table([(b"a" * 32, 10), (b"b" * 32, 5)]))

    assert (table.size, table.find(0), table.find(9), table.find(10), table.find(14)) == (
        15,
        (0, 0),
        (0, 9),
        (1, 0),
        (1, 4),
    )


@pytest.mark.parametrize("blob", [b"x", b"a" * 36, b"\0" * 36])
def test_a_damaged_table_is_refused(blob: bytes) -> None:
    """It may come from a hostile agent."""
    with pytest.raises(Rejected, match="WF762"):
        BlockTable(blob)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../b", "a//b", "", ".", "a/.", "a\nb", "a\0b", "\x1b]0;title\x07", "x/" * 3_000 + "y"],
)
def test_a_listing_cannot_lead_out_of_its_folder(path: str) -> None:
    """Neither at the upload, nor in a list that somebody has made up."""
    with pytest.raises(Rejected, match="WF763"):
        content.check_path(path)
    with pytest.raises(Rejected, match="WF763"):
        content.decode_listing(content.encode_listing([ArtifactFile(path, 1)]), 1)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"not compressed",
        zlib.compress(b"\xc1"),
        content.encode_listing([ArtifactFile("a", 1)])[:-3],
        content.encode_listing([ArtifactFile("a", 1), ArtifactFile("a", 2)]),
        content.encode_listing([ArtifactFile("a", -1)]),
        content.encode_listing([ArtifactFile(name, 1) for name in "abc"]),
        zlib.compress(bytes(content.LISTING_BYTES_MAX + 1)),
    ],
)
def test_a_hostile_listing_is_refused(blob: bytes) -> None:
    """Truncated, repeated, negative, or a small blob that becomes a huge one."""
    with pytest.raises(Rejected, match="WF762"):
        content.decode_listing(blob, 2)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a:b", "a\nb", "x" * 256, 'say "hi"'])
def test_a_name_that_is_no_folder_s_name_is_refused(name: str) -> None:
    """An artifact becomes a folder on any system."""
    with pytest.raises(Rejected, match="WF763"):
        content.check_name(name)


def test_a_listing_keeps_paths_sizes_and_modes() -> None:
    """The list is read as it was written."""
    files = [ArtifactFile("bin/run", 10, True), ArtifactFile("über/x y", 0)]

    assert content.decode_listing(content.encode_listing(files), 2) == files
    assert msgspec.msgpack.decode(zlib.decompress(content.encode_listing(files)))[1][0] == "über/x y"
