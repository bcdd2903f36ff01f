"""Workflow commands: GitHub's syntax, what each of them prints and masks, and everything that is no command."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from waterflow_agent.display import missing_line
from waterflow_agent.execution.masking import Masks
from waterflow_agent.execution.output import OutputLog
from waterflow_agent.execution.workflow_commands import (
    COMMANDS_MAX,
    LINE_BYTES_MAX,
    MASKS_BYTES_MAX,
    MASKS_MAX,
    Command,
    WorkflowCommands,
    parse,
)
from waterflow_agent.runner.spool import MISSING, PAYLOAD_BYTES_MAX, SpoolChunk, SpoolReader, SpoolWriter


def printed(text: bytes, cuts: tuple[int, ...] = ()) -> bytes:
    """Returns what a stream prints that is cut at these positions; masks are not applied."""
    commands = WorkflowCommands()
    out: list[bytes] = []
    begin = 0
    for cut in (*sorted(cuts), len(text)):
        out += [piece.text for piece in commands.feed(1, text[begin:cut])]
        begin = cut
    return b"".join([*out, *(piece.text for piece in commands.finish(1))])


def logged(path: Path, *writes: tuple[int, bytes], secrets: tuple[str, ...] = ()) -> OutputLog:
    """Returns the log of a step with these writes, read to its end."""
    writer = SpoolWriter(str(path), 1 << 20)
    for at, (stream, text) in enumerate(writes):
        writer.append(stream, memoryview(text), at)
    writer.close(99)
    log = OutputLog(str(path), masks=Masks(secrets) if secrets else None)
    log.size()
    return log


def content(log: OutputLog) -> bytes:
    return b"".join(chunk.data for chunk in log.read(0, 1 << 20, is_complete=True))


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("::notice::hello", Command("notice", {}, "hello")),
        ("  \t::Notice::hello", Command("Notice", {}, "hello")),
        ("::error file=a.py,line=3::no", Command("error", {"file": "a.py", "line": "3"}, "no")),
        ("::error File=a%2Cb%3A%25c%0A::x%0Ay%250A", Command("error", {"file": "a,b:%c\n"}, "x\ny%0A")),
        ("::error   file=a , title=::no", Command("error", {"file": "a "}, "no")),
        ("::error line::a::b", Command("error", {}, "a::b")),
        ("::add-mask::%3A%2C", Command("add-mask", {}, "%3A%2C")),
        ("::group::", Command("group", {}, "")),
        ("::1 localhost", None),
        (":error::x", None),
        ("x ::error::y", None),
        ("", None),
    ],
)
def test_the_syntax_is_that_of_github(line: str, command: Command | None) -> None:
    """Names and keys in any case, escapes, spaces before the first colon, properties without a value are left out."""
    assert parse(line) == command


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"::group::Build\nmake\n::endgroup::\n", b"##[group]Build\nmake\n##[endgroup]\n"),
        (b"::error::broken\n", b"##[error]broken\n"),
        (b"::WARNING file=a.py,line=3,col=7,title=Style::long%0Aline\n", b"##[warning]a.py:3:7: Style: long\nline\n"),
        (b"::notice title=Done::all\r\n", b"##[notice]Done: all\n"),
        (b"::debug::x=1\n", b"##[debug]x=1\n"),
        (b"::error::the last line", b"##[error]the last line"),
        (b"::add-mask::hunter22\n", b"::add-mask::***\n"),
        (b"::set-output name=a::b\n::set-env name=a::b\n", b"::set-output name=a::b\n::set-env name=a::b\n"),
        (b"::1 localhost\nstd::vector\n  ::\n:\n\n ", b"::1 localhost\nstd::vector\n  ::\n:\n\n "),
        (b"x ::error::y\n", b"x ::error::y\n"),
        (
            b"::stop-commands::t0\n::error::x\n::T0::\n::error::y\n",
            b"::stop-commands::t0\n::error::x\n::T0::\n##[error]y\n",
        ),
    ],
)
def test_what_each_line_prints(text: bytes, shown: bytes) -> None:
    """Commands that are for the reader become GitHub's form in a log; everything without an effect stays as it is."""
    assert printed(text) == shown


@pytest.mark.parametrize("token", [b"", b"  ", b"error", b"Add-Mask", b"set-output", b"t" * 1_001])
def test_a_token_that_would_hide_commands_stops_nothing(token: bytes) -> None:
    """Otherwise the next such command would be taken for the end of the pause."""
    assert printed(b"::stop-commands::" + token + b"\n::error::x\n").endswith(
        b"too long or the name of a command\n##[error]x\n"
    )


def test_nothing_is_masked_while_commands_are_stopped() -> None:
    """The same as on GitHub: a script that prints the text of others pauses all commands."""
    commands = WorkflowCommands()
    list(commands.feed(1, b"::stop-commands::t0\n::add-mask::hunter22\n"))
    assert commands.masks == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", b"its value has less than 4 bytes"),
        (b"abc", b"its value has less than 4 bytes"),
        (b"abc\xff", b"its value is not UTF-8"),
        (b"a" * LINE_BYTES_MAX, b"its line has more than 16384 bytes"),
    ],
)
def test_a_value_that_cannot_be_masked_is_not_printed(value: bytes, reason: bytes) -> None:
    """The log says why it is not masked, once, whether its line comes at once or in pieces."""
    text = b"::add-mask::" + value + b"\nnext\n"
    said = b"::add-mask::***\nwaterflow: ::add-mask:: is ignored: " + reason + b"\nnext\n"
    assert printed(text) == said
    assert printed(text, tuple(range(0, len(text), 1_000))) == said


def test_too_many_values_are_named_and_not_printed() -> None:
    """The first ones are masked; of the others, ten have a line that says why they are not."""
    commands = WorkflowCommands()
    lines = b"".join(b"::add-mask::value%d\n" % number for number in range(MASKS_MAX + 200))
    out = b"".join(piece.text for piece in commands.feed(1, lines))
    assert len(commands.masks) == MASKS_MAX
    assert out.count(b"::add-mask:: is ignored: a step may mask 100 values with 64 KiB in total\n") == 10
    assert b"value" not in out.replace(b"values", b"")


def test_too_many_commands_have_no_effect() -> None:
    """One line says so; a value that is not masked any longer is still not printed by its command."""
    text = (
        b"::error::x\n" * (COMMANDS_MAX + 1)
        + b"::add-mask::hunter22\n::stop-commands::t\n"
        + b"::add-mask::"
        + b"s" * 20_000
    )
    out = printed(text)
    assert out.count(b"##[error]x\n") == COMMANDS_MAX
    _, _, rest = out.partition(
        b"\nwaterflow: 10000 workflow commands, the most that a step may print: the others have no effect\n"
    )
    assert rest.startswith(b"::error::x\n::add-mask::***\n::stop-commands::t\n::add-mask::***\nwaterflow: ")
    assert b"sss" not in out
    assert printed(text, (60_000, 110_100, 111_000, len(text) - 15_000)) == out


def test_values_have_a_limit_in_total() -> None:
    """Each is short enough, but together they are too many bytes to search for."""
    commands = WorkflowCommands()
    for number in range(8):
        list(commands.feed(1, b"::add-mask::%d%s\n" % (number, b"x" * 16_000)))
    assert sum(map(len, commands.masks)) <= MASKS_BYTES_MAX
    assert len(commands.masks) == 4


def test_a_mask_holds_from_its_line_on_and_on_both_streams(tmp_path: Path) -> None:
    """What was printed before stays; what is held back of another line is masked, too."""
    log = logged(
        tmp_path / "output",
        (1, b"before hunter22\n"),
        (2, b"on stderr hunt"),
        (1, b"::add-m"),
        (1, b"ask::hunter22\n"),
        (2, b"er22\n"),
        (1, b"hun"),
        (1, b"ter22 ::error::hunter22\n::error::hunter22\n"),
    )
    assert content(log) == (b"before hunter22\non stderr hunt::add-mask::***\ner22\n*** ::error::***\n##[error]***\n")
    assert log.added_masks == ["hunter22"]


def test_a_mask_joins_the_secrets_of_the_step(tmp_path: Path) -> None:
    """Both are masked, each line of a value with several, and the encodings of the value."""
    log = logged(
        tmp_path / "output",
        (1, b"::add-mask::first1%0Asecond2\n"),
        (1, b"s3cret first1 second2 Zmlyc3QxCnNlY29uZDI=\n"),
        secrets=("s3cret",),
    )
    assert content(log) == b"::add-mask::***\n*** *** *** ***I=\n"


class _GapReader(SpoolReader):
    """A spool in which ten bytes are missing after the first two."""

    def read(self, from_offset: int, max_bytes: int = PAYLOAD_BYTES_MAX, *, tail: bool = True) -> list[SpoolChunk]:
        rest = b"::error::x\n::error::y\n"
        chunks = [SpoolChunk(0, 1, 1, b"a\n"), SpoolChunk(2, 1, MISSING, b"", 10), SpoolChunk(12, 1, 1, rest)]
        return [chunk for chunk in chunks if chunk.offset >= from_offset]


def test_what_follows_a_gap_is_the_rest_of_a_line() -> None:
    """So it cannot be a command; the next line can."""
    log = OutputLog("output", open_spool=_GapReader)
    assert content(log) == b"a\n" + missing_line(10) + b"::error::x\n##[error]y\n"


LINES = st.sampled_from(
    [
        b"::add-mask::abcd",
        b"::add-mask::dcba%0Aabab",
        b"::add-mask::ab",
        b"::error file=f::abcd",
        b"::group::abcd",
        b"::stop-commands::tok",
        b"::tok::",
        b"  ::debug::x",
        b"abcd",
        b"x dcba x",
        b":",
        b"::",
        b" ",
        b"",
        b"ab::cd",
        b"::unknown::abcd",
        b" " * 300 + b"::error::x",
        b"::error::" + b"y" * LINE_BYTES_MAX,
        b"::add-mask::" + b"z" * LINE_BYTES_MAX,
    ]
)
NEWLINES = st.sampled_from([b"\n", b"\n", b"\r\n", b""])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), LINES, NEWLINES), max_size=10),
    st.lists(st.integers(0, 40_000), max_size=6),
    st.integers(1_000, 40_000),
)
@example([(1, b"::stop-commands::tok", b"\n"), (1, b"::add-mask::" + b"z" * LINE_BYTES_MAX, b"\n")], [16_500], 7_000)
def test_the_log_depends_on_the_text_alone(lines: list[tuple[int, bytes, bytes]], cuts: list[int], size: int) -> None:
    """However writes are cut, and however the log is read, it is the same; sending again from an offset relies on it."""
    with TemporaryDirectory() as folder:
        whole = logged(Path(folder) / "whole", *((stream, line + end) for stream, line, end in lines))
        pieces: list[tuple[int, bytes]] = []
        for stream, line, end in lines:
            text, begin = line + end, 0
            for cut in (*sorted(cut for cut in cuts if cut < len(text)), len(text)):
                pieces.append((stream, text[begin:cut]))
                begin = cut
        cut_up = logged(Path(folder) / "cut", *((stream, text) for stream, text in pieces if text))
        expected = content(whole)
        assert content(cut_up) == expected
        again = OutputLog(str(Path(folder) / "cut"))
        found = b""
        while chunks := again.read(len(found), size, is_complete=True):
            found += b"".join(chunk.data for chunk in chunks)
        assert found == expected
        assert OutputLog(str(Path(folder) / "cut")).size() == len(expected)
        assert again.added_masks == whole.added_masks
