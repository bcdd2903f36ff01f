"""GitHub's filter patterns: the documented table, lists with `!`, and hostile patterns."""

from __future__ import annotations

import pytest

from waterflowd.reconcile import globs

#: The cheat sheet of the GitHub Actions documentation: pattern, what it matches, what it does not.
BRANCHES = [
    ("feature/*", ["feature/my-branch", "feature/your-branch"], ["feature/a/b", "feature", "features/x"]),
    ("feature/**", ["feature/beta-a/my-branch", "feature/your-branch", "feature/mona/the/octocat"], ["feature"]),
    ("main", ["main"], ["main2", "a/main", "Main"]),
    ("releases/mona-the-octocat", ["releases/mona-the-octocat"], ["releases/mona"]),
    ("*", ["main", "releases"], ["all/the/branches"]),
    ("**", ["all/the/branches", "every/tag", "main"], []),
    ("*feature", ["mona-feature", "feature", "ver-10-feature"], ["feature-x", "a/feature"]),
    ("v2*", ["v2", "v2.0", "v2.9"], ["v1.0", "v2/x"]),
    ("v[12].[0-9]+.[0-9]+", ["v1.10.1", "v2.0.0"], ["v3.0.0", "v1.0", "v1..1"]),
]
PATHS = [
    ("*", ["README.md", "server.rb"], ["docs/README.md"]),
    ("*.jsx?", ["page.js", "page.jsx"], ["page.jsxx", "src/page.js"]),
    ("**", ["all/the/files.md"], []),
    ("*.js", ["app.js", "index.js"], ["js/index.js"]),
    ("**.js", ["index.js", "js/index.js", "src/js/app.js"], ["index.ts"]),
    ("docs/*", ["docs/README.md", "docs/file.txt"], ["docs/mona/octocat.txt"]),
    ("docs/**", ["docs/README.md", "docs/mona/octocat.txt"], ["doc/README.md"]),
    ("docs/**/*.md", ["docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"], ["docs/a.txt"]),
    ("**/docs/**", ["docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"], ["mydocs/hello.md"]),
    ("**/README.md", ["README.md", "js/README.md"], ["xREADME.md", "js/xREADME.md"]),
    ("**/*src/**", ["a/src/app.js", "my-src/code/js/app.js"], ["srcs/app.js"]),
    ("**/*-post.md", ["my-post.md", "path/their-post.md"], ["post.md"]),
    ("**/migrate-*.sql", ["migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"], ["migrate.sql"]),
]


@pytest.mark.parametrize(("pattern", "matching", "other"), BRANCHES + PATHS)
def test_the_documented_patterns_match_as_documented(pattern: str, matching: list[str], other: list[str]) -> None:
    """Each example in GitHub's table matches or does not match as documented."""
    assert [text for text in matching if not globs.is_match(pattern, text)] == []
    assert [text for text in other if globs.is_match(pattern, text)] == []


@pytest.mark.parametrize(
    ("patterns", "selected", "other"),
    [
        (["*.md", "!README.md"], ["hello.md"], ["README.md", "docs/hello.md"]),
        (["*.md", "!README.md", "README*"], ["hello.md", "README.md", "README.doc"], ["a.txt"]),
        (["releases/**", "!releases/**-alpha"], ["releases/10", "releases/a/b"], ["releases/10-alpha", "main"]),
        (["!main"], [], ["main", "other"]),
        ([], [], ["main"]),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], selected: list[str], other: list[str]) -> None:
    """`!` excludes what an earlier pattern selected, a later pattern may select it again, and `!` alone selects nothing."""
    assert [text for text in selected if not globs.selects(patterns, text)] == []
    assert [text for text in other if globs.selects(patterns, text)] == []


@pytest.mark.parametrize(
    ("pattern", "text", "is_matching"),
    [
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("a\\?", "a?", True),
        ("[]", "[]", True),
        ("[", "[", True),
        ("a[b-]c", "a-c", True),
        ("a+", "aaa", True),
        ("a+b", "b", False),
        ("/+*", "/x/x", False),
        ("*?", "", True),
        ("+", "+", True),
        ("ü*", "über/x", False),
        ("x$(id)", "x$(id)", True),
        ("", "", True),
        ("", "a", False),
        ("a\\", "a\\", True),
    ],
)
def test_edge_cases_are_literal_text(pattern: str, text: str, is_matching: bool) -> None:
    """Escapes, odd brackets, quantifiers at the edge and hostile names are literal text where no rule applies."""
    assert globs.is_match(pattern, text) is is_matching


def test_a_pattern_that_is_exponential_for_backtracking_matchers_is_fast() -> None:
    """Thirty wildcards over a long text would exceed the test's timeout with backtracking."""
    assert not globs.is_match("*a" * 30 + "b", "a" * 4_000)
    assert not globs.is_match("**a" * 30 + "b", "a/" * 2_000)


def test_a_pattern_beyond_the_limit_matches_nothing() -> None:
    """A pattern of a megabyte is not compiled."""
    assert not globs.is_match("a" * (globs.PATTERN_LENGTH_MAX + 1), "a" * (globs.PATTERN_LENGTH_MAX + 1))
