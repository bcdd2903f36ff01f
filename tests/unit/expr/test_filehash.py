"""`hashFiles`: which files the patterns select, and what the digest depends on."""

from __future__ import annotations

import hashlib

import pytest

from waterflowd.expr import errors
from waterflowd.expr.file_hash import hash_files, matching, patterns_of
from waterflowd.expr.json_text import Problem

TREE = [
    "package-lock.json",
    "a/package-lock.json",
    "a/b/c.py",
    "a/b/.hidden",
    "lib/x.py",
    "lib/y.txt",
    "[odd].py",
    "é.py",
]


def chosen(*texts: str) -> list[str]:
    return matching(patterns_of(texts), TREE)


@pytest.mark.parametrize(
    ("texts", "paths"),
    [
        (["package-lock.json"], ["package-lock.json"]),
        (["**/package-lock.json"], ["a/package-lock.json", "package-lock.json"]),
        (["*.py"], ["[odd].py", "é.py"]),
        (["**/*.py"], ["[odd].py", "a/b/c.py", "lib/x.py", "é.py"]),
        (["a"], ["a/b/.hidden", "a/b/c.py", "a/package-lock.json"]),
        (["a/**"], ["a/b/.hidden", "a/b/c.py", "a/package-lock.json"]),
        (["a/*/c.py"], ["a/b/c.py"]),
        (["a/*.py"], []),
        (["**/b/**/c.py"], ["a/b/c.py"]),
        (["lib/[xz].*"], ["lib/x.py"]),
        (["lib/[!x].*"], ["lib/y.txt"]),
        (["lib/[w-y].py"], ["lib/x.py"]),
        (["lib/?.t*t"], ["lib/y.txt"]),
        (["\\[odd].py"], ["[odd].py"]),
        (["lib", "!**/*.txt"], ["lib/x.py"]),
        (["lib", "!lib", "lib/y.txt"], ["lib/y.txt"]),
        (["# comment\n\n  lib/x.py  \n!!lib/y.txt"], ["lib/x.py", "lib/y.txt"]),
        (["./lib//x.py", "/lib/y.txt"], ["lib/x.py", "lib/y.txt"]),
        (["LIB/x.py"], []),
        ([""], []),
        (["!lib"], []),
        (["**"], sorted(TREE, key=str.encode)),
    ],
)
def test_patterns_select_as_on_github(texts: list[str], paths: list[str]) -> None:
    """Each promise of the module's documentation has one line here."""
    assert chosen(*texts) == paths


def test_the_digest_is_that_of_the_digests_in_the_order_of_the_paths() -> None:
    """The order in which the tree is listed does not matter; without files the result is the empty text."""
    contents = {"b": b"2", "a": b"1"}

    def digest_of(path: str) -> bytes:
        return hashlib.sha256(contents[path]).digest()

    expected = hashlib.sha256(digest_of("a") + digest_of("b")).hexdigest()
    assert hash_files(("*",), ["b", "a"], digest_of) == expected
    assert hash_files(("a", "b"), ["a", "b"], digest_of) == expected
    assert hash_files(("c",), ["a", "b"], digest_of) == ""
    contents["a"] = b"3"
    assert hash_files(("*",), ["a", "b"], digest_of) != expected


@pytest.mark.parametrize(
    ("text", "code"), [("../x", errors.WRONG_VALUE), ("a/../../x", errors.WRONG_VALUE), ("x\n" * 300, errors.BOUND)]
)
def test_an_invalid_pattern_is_a_problem(text: str, code: str) -> None:
    """Patterns cannot select files outside of the repository, and their number is limited."""
    with pytest.raises(Problem) as caught:
        patterns_of([text])
    assert caught.value.code == code


def test_every_pattern_takes_linear_time() -> None:
    """Many wildcards over a path that nearly matches would take a backtracking matcher forever."""
    assert matching(patterns_of(["*a" * 200 + "*b", "**/a/" * 100 + "b"]), ["a" * 2000, "/".join("a" * 1000)]) == []
