"""The refs that a remote advertises."""

from __future__ import annotations

import pytest
from dulwich.objects import ObjectID
from dulwich.refs import Ref

from waterflowd.gitsource.remote import remote_refs
from waterflowd.gitsource.remote.fetch_errors import FetchError

A, B = "a" * 40, "b" * 40


def advertised(**refs: str) -> dict[Ref, ObjectID]:
    return {Ref(name.replace("__", "/").encode()): ObjectID(object_id.encode()) for name, object_id in refs.items()}


def test_only_branches_and_tags_are_read() -> None:
    """Peeled tags, pull requests, and names that are not UTF-8 are ignored."""
    refs = advertised(HEAD=A, refs__heads__main=A, refs__tags__v1=B, refs__pull__1__head=B)
    refs[Ref(b"refs/tags/v1^{}")] = ObjectID(A.encode())
    refs[Ref(b"refs/heads/\xff")] = ObjectID(A.encode())
    assert remote_refs.object_ids(refs) == {"refs/heads/main": A, "refs/tags/v1": B}


@pytest.mark.parametrize(
    ("object_id", "words"), [("a" * 64, "SHA-256"), ("../x", "invalid object ids"), ("", "invalid object ids")]
)
def test_an_invalid_object_id_fails_the_fetch(object_id: str, words: str) -> None:
    """It fails before the id becomes part of a path."""
    with pytest.raises(FetchError, match=words):
        remote_refs.object_ids(advertised(refs__heads__main=object_id))


def test_without_patterns_the_object_of_head_is_fetched() -> None:
    """The name of its branch does not matter; if HEAD names no branch, the only branch is used."""
    refs = advertised(HEAD=B, refs__heads__main=A)
    assert remote_refs.watched_ids(refs, remote_refs.object_ids(refs), ()) == [B, A]
    refs = advertised(HEAD=B, refs__heads__main=A, refs__heads__trunk=B)
    assert remote_refs.watched_ids(refs, remote_refs.object_ids(refs), ()) == [B]
    refs = advertised(refs__heads__main=A)
    assert remote_refs.watched_ids(refs, remote_refs.object_ids(refs), ()) == [A]


def test_patterns_select_the_refs_to_fetch() -> None:
    """They have the same meaning as for a local repository."""
    refs = advertised(HEAD=A, refs__heads__main=A, refs__heads__x=B, refs__tags__v1=B)
    assert remote_refs.watched_ids(refs, remote_refs.object_ids(refs), ("tags/v*",)) == [B]


@pytest.mark.parametrize(
    ("symbolic", "refs", "expected"),
    [
        ({Ref(b"HEAD"): Ref(b"refs/heads/trunk")}, advertised(HEAD=A, refs__heads__main=A), "refs/heads/trunk"),
        ({}, advertised(HEAD=A, refs__heads__x=A, refs__heads__main=A), "refs/heads/main"),
        ({}, advertised(HEAD=A, refs__heads__x=A, refs__heads__y=B), "refs/heads/x"),
        ({}, advertised(HEAD=A, refs__heads__x=A, refs__heads__y=A), None),
        ({}, advertised(HEAD=A, refs__heads__y=B), None),
        ({}, {}, None),
    ],
)
def test_the_default_branch_is_the_one_of_head(
    symbolic: dict[Ref, Ref], refs: dict[Ref, ObjectID], expected: str | None
) -> None:
    """The server names it; otherwise it is guessed as Git does."""
    assert remote_refs.head_ref(symbolic, dict(refs)) == expected
