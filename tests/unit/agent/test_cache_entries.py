"""What a cache entry consists of: a list that anyone may have made leads out of no folder."""

from __future__ import annotations

import pytest

from waterflow_agent.caches import entries
from waterflow_agent.caches.entries import EntryKind, EntryPath
from waterflow_agent.errors import Rejected

FILE, FOLDER, LINK = EntryKind.FILE, EntryKind.FOLDER, EntryKind.LINK


def test_a_list_is_read_as_it_was_written() -> None:
    """Files, folders and links, in order."""
    paths = [
        EntryPath(0, "", FOLDER, mode=0o755),
        EntryPath(0, "a", FILE, 3, 0o640, 1_700_000_000_000_000_001),
        EntryPath(0, "b/c", LINK, target="../a"),
        EntryPath(1, "", FILE, 4, 0o755),
    ]
    assert entries.decode(entries.encode(paths), 4, 7, 2) == paths


@pytest.mark.parametrize(
    "paths",
    [
        [EntryPath(0, "../x", FILE)],
        [EntryPath(0, "/etc/passwd", FILE)],
        [EntryPath(0, "a/./b", FILE)],
        [EntryPath(0, "a\0b", FILE)],
        [EntryPath(0, "a", FILE), EntryPath(0, "a", FILE)],
        [EntryPath(0, "a", LINK, target="/etc"), EntryPath(0, "a/passwd", FILE)],
        [EntryPath(0, "a/b/passwd", FILE), EntryPath(0, "a", LINK, target="/etc")],
        [EntryPath(0, "", LINK, target="/etc"), EntryPath(0, "passwd", FILE)],
        [EntryPath(0, "a", FILE), EntryPath(0, "a/b", FILE)],
        [EntryPath(0, "a", LINK)],
        [EntryPath(0, "a", LINK, target="x\0y")],
        [EntryPath(2, "a", FILE)],
        [EntryPath(0, "a", FILE, 1)],
    ],
)
def test_a_list_that_leads_elsewhere_or_does_not_fit_is_refused(paths: list[EntryPath]) -> None:
    """By its names, through a link or a file of the list, or with another size or line."""
    with pytest.raises(Rejected, match="WF76"):
        entries.decode(entries.encode(paths), len(paths), 0, 2)


def test_a_list_with_too_many_paths_or_of_other_bytes_is_refused() -> None:
    """A small blob cannot become many objects."""
    blob = entries.encode([EntryPath(0, str(number), FILE) for number in range(10)])
    for content, count in ((blob, 9), (blob, 11), (blob[:-5], 10), (b"?", 1)):
        with pytest.raises(Rejected, match="WF762"):
            entries.decode(content, count, 0, 1)


def test_the_version_depends_on_the_lines_alone() -> None:
    """Not on empty lines, comments and the space around them."""
    assert entries.version_of("a\nb") == entries.version_of("  a \n\n# c\nb\n")
    assert entries.version_of("a\nb") != entries.version_of("b\na")
