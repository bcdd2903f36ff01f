"""Links of a tree: what we predict about them matches a real file system."""

from __future__ import annotations

import errno
import os
import tempfile

from hypothesis import example, given
from hypothesis import strategies as st

from waterflowd.gitsource import links

_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "..", "."]), min_size=1, max_size=5).map("/".join)


@example(made={"b": "a", "a": "a/../.."}, directories=set())
@given(made=st.dictionaries(_PATHS, _TARGETS, max_size=5), directories=st.sets(_PATHS, max_size=3))
def test_a_link_that_leaves_on_a_disk_is_found(made: dict[str, str], directories: set[str]) -> None:
    """Links are created below two folders, and each one not reported as leaving resolves to a path inside, or to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(folder, "outer/root")
        os.makedirs(root)
        for directory in directories:
            os.makedirs(os.path.join(root, directory), exist_ok=True)
        kept = {path: target for path, target in made.items() if _is_made(root, path, target)}
        encoded = {path.encode(): target.encode() for path, target in kept.items()}
        if any(links.leaves(encoded, path) for path in encoded):
            return
        for path in kept:
            if _is_circle(os.path.join(root, path)):
                # `realpath` continues with the names only; the kernel does not.
                continue
            resolved = os.path.realpath(os.path.join(root, path))
            assert resolved == os.path.realpath(root) or resolved.startswith(os.path.realpath(root) + "/"), (kept, path)


def _is_circle(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _is_made(root: str, path: str, target: str) -> bool:
    """Creates a link as a checkout would: its parent is a directory, and no link is part of the path."""
    folder = os.path.dirname(path)
    parts = [part for part in folder.split("/") if part]
    for index in range(len(parts)):
        if os.path.islink(os.path.join(root, *parts[: index + 1])):
            return False
    os.makedirs(os.path.join(root, folder), exist_ok=True)
    if os.path.lexists(os.path.join(root, path)):
        return False
    os.symlink(target, os.path.join(root, path))
    return True


def test_a_chain_of_links_that_leaves_is_found() -> None:
    """Each target stays inside on its own, but the chain leads outside."""
    tree = {b"deep/er/top": b"../..", b"y": b"deep/er/top/../x"}
    assert not links.leaves(tree, b"deep/er/top")
    assert links.leaves(tree, b"y")


def test_link_cycles_and_missing_targets_are_harmless() -> None:
    """The kernel gives up on a cycle, and finds nothing at a missing target."""
    assert not links.leaves({b"a": b"b", b"b": b"a"}, b"a")
    assert not links.leaves({b"a": b"nothing/at/all"}, b"a")
    assert links.leaves({b"a": b"/"}, b"a")
    assert links.leaves({b"a": b".."}, b"a")
