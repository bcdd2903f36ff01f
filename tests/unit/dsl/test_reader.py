"""Reading files: the core schema of YAML 1.2, and a limit or an error for every hostile file."""

from __future__ import annotations

import time

import pytest

from waterflowd.dsl import compile_workflow
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.dsl.reporting.report import DiagnosticReport


def read(text: str) -> object:
    report = DiagnosticReport()
    document = reader.read(reader.decode(text.encode(), report), report)
    assert not report
    return plain(to_json(document.root))


def errors_of(content: str | bytes) -> list[Diagnostic]:
    compiled = compile_workflow("w.yml", content.encode() if isinstance(content, str) else content)
    assert compiled.plan is None
    assert compiled.diagnostics
    return compiled.diagnostics


def codes_of(content: str | bytes) -> list[str]:
    return [diagnostic.code for diagnostic in errors_of(content)]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("012", 12),
        ("0o17", 15),
        ("0xff", 255),
        ("-7", -7),
        ("1.20", 1.2),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("12:30:45", "12:30:45"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("=", "="),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_plain_scalars_follow_yaml_1_2(written: str, value: object) -> None:
    """For example, `on` and `yes` are text, `012` is twelve, and a time of day is not a number."""
    result = read(f"key: {written}")
    assert result == {"key": value}
    assert type(result["key"]) is type(value)


def test_the_key_on_is_text() -> None:
    """The triggers of a file are found under the text `on`, not under true."""
    assert read("on: push") == {"on": "push"}


def test_merge_keys_add_only_missing_keys() -> None:
    """Own keys override merged ones, and in a list of mappings the first one wins."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 0}"
    result = read(text)
    assert isinstance(result, dict)
    assert result["c"] == {"x": 0, "y": 1, "z": 2}


def test_a_byte_order_mark_is_accepted() -> None:
    """A mark at the start changes neither the content nor the columns."""
    assert read("\ufeffa: 1") == {"a": 1}
    assert errors_of(b"\xef\xbb\xbfnme: x\njobs: {}")[0].column == 1


def test_a_number_keeps_its_spelling_in_the_environment() -> None:
    """The values `1.20` and `0755` in `env` keep exactly this text."""
    content = b"env: {A: 1.20, B: 0755, C: true, D: }\njobs: {j: {runs-on: g, steps: [{run: x}]}}"
    compiled = compile_workflow("w.yml", content)
    assert compiled.plan is not None
    assert b"1.20" in compiled.plan
    assert b"0755" in compiled.plan


@pytest.mark.parametrize(
    ("content", "code", "location"),
    [
        (b"\xff\xfej\x00o\x00b\x00s\x00", "WF100", (1, 1)),
        (b"j\x00o\x00b\x00s\x00", "WF100", (1, 1)),
        (b"a: 1\nb: \xe9\n", "WF100", (2, 4)),
        (b"a: 1\nb: x\x00y\n", "WF100", (2, 5)),
        (b"a: \x1b[31m\n", "WF100", (1, 4)),
        (b'a: "x\\0y"\n', "WF100", (1, 4)),
        (b"a: b: c\n", "WF101", (1, 5)),
        (b"a: [1, 2\n", "WF101", (2, 1)),
        (b"a: *nobody\n", "WF101", (1, 4)),
        (b"", "WF101", (1, 1)),
        (b"# nothing\n", "WF101", (1, 1)),
        (b"- a\n", "WF101", (1, 1)),
        (b"hello\n", "WF101", (1, 1)),
        (b"a:\n\tb: 1\n", "WF131", (2, 1)),
        (b"a:\n  b: 1\n \tc: 2\n", "WF131", (3, 2)),
        (b"a: 1\nb: 2\na: 3\n", "WF107", (3, 1)),
        (b"a: !!python/object:os.system x\n", "WF118", (1, 4)),
        (b"a: !mine {b: 1}\n", "WF118", (1, 4)),
        (b"a: !!binary aGk=\n", "WF118", (1, 4)),
        (b"a: 1\n---\nb: 2\n", "WF118", (2, 1)),
        (b"1: x\n", "WF118", (1, 1)),
        (b"true: x\n", "WF118", (1, 1)),
        (b"? [a]\n: x\n", "WF118", (1, 3)),
        (b"a: &a [*a]\n", "WF118", (1, 8)),
        (b"a: &a {b: *a}\n", "WF118", (1, 11)),
        (b"a: {<<: 5}\n", "WF118", (1, 9)),
        (b"a: .inf\n", "WF106", (1, 4)),
        (b"a: 18446744073709551616\n", "WF106", (1, 4)),
        (b"a: !!int x\n", "WF106", (1, 4)),
    ],
)
def test_an_unreadable_file_has_a_code_and_a_location(content: bytes, code: str, location: tuple[int, int]) -> None:
    """Each kind of unreadable file has its own code, and the error has a location."""
    found = [(error.code, (error.line, error.column)) for error in errors_of(content)]
    assert (code, location) in found


def test_a_duplicate_key_names_both_locations() -> None:
    """The error points at the second key and says where the first one is."""
    (error,) = (e for e in errors_of("a: 1\nb:\n  c: 1\n  c: 2\n") if e.code == "WF107")
    assert (error.line, error.column) == (4, 3)
    assert "line 3, column 3" in error.message


def test_tabs_inside_a_script_are_text() -> None:
    """Tabs are forbidden only in indentation."""
    assert read("a: |\n  x\n  \ty\n") == {"a": "x\n\ty\n"}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"a: " + b"{a: " * 30_000,
        b"\n".join(b" " * level + b"a:" for level in range(1_000)),
        b"- " * 100_000,
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        b"x: [" + b"a," * 60_000 + b"]",
        b"x: &x [a]\ny: [" + b"*x," * 101 + b"]",
        b"x: &x " + b"a" * 20_000 + b"\ny: [" + b"*x," * 99 + b"]",
        b"a: " + b"x" * 1_100_000,
    ],
    ids=["flow", "maps", "block", "dashes", "bomb", "nodes", "aliases", "text", "size"],
)
def test_a_hostile_file_exceeds_a_limit(content: bytes) -> None:
    """Depth, nodes, aliases and their expansion are limited, and exceeding a limit is a single error."""
    assert codes_of(content)[0] == "WF102"


def test_a_merge_bomb_exceeds_a_limit() -> None:
    """Merged keys count as if they were written out."""
    lines = ["a: &a {" + ", ".join(f"k{i}: 1" for i in range(100)) + "}"]
    lines += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}' if i else '*a'] * 9)}]}}" for i in range(9)]
    assert "WF102" in codes_of("\n".join(lines))


def test_a_number_of_200_000_digits_is_an_error_at_once() -> None:
    """No quadratic conversion is done, and Python's own limit is not reached."""
    before = time.process_time()
    error = errors_of(b"a: " + b"9" * 200_000)[-1]
    assert error.code == "WF106"
    assert len(error.snippet) < 200
    assert time.process_time() - before < 5


@pytest.mark.parametrize("separator", [" ", ""])
def test_a_file_without_newlines_has_its_own_error(separator: str) -> None:
    """`curl -d @file` and `tr` produce such files, so the mistake has its own code."""
    lines = ["name: hello", "jobs:", "  greet:", "    runs-on: web", "    steps:", "      - run: echo hi", ""]
    errors = errors_of(separator.join(lines))
    assert [error.code for error in errors] == ["WF133"]
    assert "newlines were lost" in errors[0].message
    assert "--data-binary" in errors[0].suggestion


def test_escaped_newlines_are_noticed_too() -> None:
    """JSON text that was escaped twice is not YAML either."""
    errors = errors_of("name: x\\njobs:\\n  a:\\n    runs-on: b\\n    steps: []")
    assert [error.code for error in errors] == ["WF133"]


def test_a_workflow_in_one_line_of_yaml_is_valid() -> None:
    """Flow style needs no newlines."""
    content = b"{name: x, jobs: {a: {runs-on: g, steps: [{run: echo hi}]}}}"
    assert compile_workflow("w.yml", content).plan is not None


def test_lines_are_counted_as_editors_count_them() -> None:
    """A next-line or line-separator character is ordinary text; \\r and \\r\\n end lines."""
    error = errors_of("name: 'a\u2028b\x85'\r\njobs: {}\rnope: 1\n")[-1]
    assert (error.line, error.column) == (3, 1)
