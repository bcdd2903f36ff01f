"""Files that scripts write: entries, limits, and entries that are dropped."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.masking import Masks
from waterflow_agent.nodes import step_files
from waterflow_agent.nodes.outcome import NodeResult, masked
from waterflow_agent.nodes.step_files import StepFileContents, StepFiles, Summary
from waterflow_agent.wire.messages import SUMMARY_BYTES_MAX


@pytest.fixture
def files(tmp_path: Path) -> StepFiles:
    return step_files.create(str(tmp_path))


def collected(files: StepFiles, output: bytes = b"", env: bytes = b"") -> StepFileContents:
    Path(files.output).write_bytes(output)
    Path(files.env).write_bytes(env)
    return step_files.collect(files)


@pytest.mark.parametrize(
    ("content", "outputs"),
    [
        (b"", {}),
        (b"\n\n", {}),
        (b"a=1", {"a": "1"}),
        (b"a=1\nb=2\n", {"a": "1", "b": "2"}),
        (b"a=1\na=2\n", {"a": "2"}),
        (b"a=\n", {"a": ""}),
        (b"a=b=c<<d\n", {"a": "b=c<<d"}),
        (b"a=1\r\nb=2\r\n", {"a": "1", "b": "2"}),
        (b"a<<E\none\ntwo\nE\nb=2\n", {"a": "one\ntwo", "b": "2"}),
        (b"a<<E\nE\n", {"a": ""}),
        (b"a<<E\n\n\nE\n", {"a": "\n"}),
        (b"a<<E\nx E\n E\nE\n", {"a": "x E\n E"}),
        (b"a<<E=F\nb=1\nE=F", {"a": "b=1"}),
        ("wörter=no\n".encode(), None),
        ("word=größe\u2028x\n".encode(), {"word": "größe\u2028x"}),
        (b"my-output_2=x", {"my-output_2": "x"}),
    ],
)
def test_step_file_entries_are_parsed(files: StepFiles, content: bytes, outputs: dict[str, str] | None) -> None:
    """`name=value` and blocks are parsed as documented."""
    if outputs is None:
        with pytest.raises(Rejected, match="line 1"):
            collected(files, content)
    else:
        assert collected(files, content).outputs == outputs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just words", "line 1: expected name=value"),
        (b"ok=1\n=x", "line 2: expected name=value"),
        (b"1a=x", "line 1: expected"),
        (b"a b=x", "line 1: expected"),
        (b"a<b=c", "line 1: expected"),
        (b"a<<\nx\n", "missing delimiter"),
        (b"a<<E\nx\n", "closing delimiter is missing"),
        (b"ok=1\na=\xff", "line 2: invalid UTF-8"),
        (b"a=x\0y", "NUL byte"),
        (b"".join(b"a%d=1\n" % number for number in range(6000)), "more than 5000 names"),
    ],
)
def test_malformed_entry_names_its_line(files: StepFiles, content: bytes, message: str) -> None:
    """The error names the line and never quotes the content, which may be a secret."""
    with pytest.raises(Rejected, match=message) as caught:
        collected(files, content)

    assert "x" not in caught.value.text.removeprefix("WATERFLOW_OUTPUT").replace("expected", "")


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS"),
        *("GIT_SSH_COMMAND", "WF_EXPR_1", "WATERFLOW_RUN_ID", "GITHUB_OUTPUT", "IFS", "PS4", "SHELLOPTS"),
    ],
)
def test_variables_that_control_programs_are_dropped(files: StepFiles, name: str) -> None:
    """In any spelling they are dropped with a message; as outputs they are harmless."""
    content = f"{name}=evil\nGOOD=yes\n".encode()
    written = collected(files, content, content)

    assert written.env == {"GOOD": "yes"}
    assert written.denied == [name]
    assert written.outputs[name] == "evil"


def test_both_files_share_one_limit(files: StepFiles) -> None:
    """Together they may have 1 MiB, and one more byte fails the step."""
    half = b"a=" + b"x" * ((1 << 19) - 3) + b"\n"

    assert collected(files, half, half).outputs["a"] == "x" * ((1 << 19) - 3)
    with pytest.raises(Rejected, match="too large"):
        collected(files, half, half + b"\n")


def test_missing_files_are_empty(files: StepFiles) -> None:
    """A script may remove them."""
    os.unlink(files.output)
    os.unlink(files.env)

    assert step_files.collect(files) == StepFileContents(
        outputs={}, env={}, denied=[], directories=[], summary=Summary()
    )


def test_directories_for_the_path_are_one_on_each_line(files: StepFiles) -> None:
    """A directory that is added twice counts once, at its last place."""
    Path(files.path).write_text("/opt/a/bin\n\n/opt/b\r\n/opt/a/bin\n")

    assert step_files.collect(files).directories == ["/opt/b", "/opt/a/bin"]


@pytest.mark.parametrize("line", ["bin", "~/bin", "/a:/b", "/a\0"])
def test_a_directory_that_cannot_be_in_the_path_fails_the_step(files: StepFiles, line: str) -> None:
    """A relative one would be found in whatever directory a later step is."""
    Path(files.path).write_text(f"/opt\n{line}\n")

    with pytest.raises(Rejected, match="WATERFLOW_PATH line 2"):
        step_files.collect(files)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,9}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r")),
    )
)
def test_blocks_hold_any_text(values: dict[str, str]) -> None:
    """A value that is written as a block with its own delimiter is read back unchanged."""
    content = "".join(f"{name}<<~END~\n{value}\n~END~\n" for name, value in values.items() if "~END~" not in value)

    parsed = step_files._parse(content.encode(), "WATERFLOW_OUTPUT", step_files._OUTPUT_NAME)

    assert parsed == {name: value for name, value in values.items() if "~END~" not in value}


@given(st.binary())
def test_any_bytes_are_entries_or_an_error(content: bytes) -> None:
    """The parser returns entries or raises its error, and nothing else."""
    with contextlib.suppress(Rejected):
        step_files._parse(content, "WATERFLOW_OUTPUT", step_files._OUTPUT_NAME)


def summarized(files: StepFiles, content: bytes) -> Summary:
    Path(files.summary).write_bytes(content)
    return step_files.collect(files).summary


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", ""),
        (b"# Deployed\n\n| a | b |\n", "# Deployed\n\n| a | b |\n"),
        (b"no end of line", "no end of line"),
        (b"broken \xff and \0", "broken \ufffd and \ufffd"),
        (b"x\n" * (SUMMARY_BYTES_MAX // 2), "x\n" * (SUMMARY_BYTES_MAX // 2)),
        (b"\xff" * (SUMMARY_BYTES_MAX // 3), "\ufffd" * (SUMMARY_BYTES_MAX // 3)),
    ],
    ids=["empty", "markdown", "unfinished", "broken", "full", "growing"],
)
def test_a_summary_is_kept_as_it_is(files: StepFiles, content: bytes, kept: str) -> None:
    """Bytes that are not UTF-8 do not fail the step."""
    assert summarized(files, content).kept() == kept


@pytest.mark.parametrize("size", [1, 500, 3_000, 1_000_000])
@pytest.mark.parametrize("line", [b"a line\n", b"x", "größe ".encode()])
def test_a_long_summary_is_cut_with_a_note(files: StepFiles, line: bytes, size: int) -> None:
    """After a whole line if there is one. The note has the whole size."""
    content = (line * 2 * SUMMARY_BYTES_MAX)[: SUMMARY_BYTES_MAX + size]
    kept = summarized(files, content).kept()
    text, _, note = kept.rstrip("\n").rpartition("\n\n")
    assert f"of {len(content):,} bytes" in note
    assert len(text.encode()) <= SUMMARY_BYTES_MAX
    assert len(text.encode()) > SUMMARY_BYTES_MAX - 3_000
    assert content.startswith(text.encode())
    if line.endswith(b"\n"):
        assert text.endswith("a line")


def test_a_short_summary_with_a_secret_is_masked_and_not_cut(files: StepFiles) -> None:
    """A mask is shorter than a secret."""
    result = NodeResult(outcome=Outcome.SUCCESS, summary=summarized(files, b"it is hunter2!\n"))
    assert masked(result, Masks(["hunter2"])).summary.kept() == "it is ***!\n"


@pytest.mark.parametrize("before", range(0, 3_200, 7))
def test_a_secret_at_the_cut_is_masked(files: StepFiles, before: int) -> None:
    """Wherever it is: what is kept of it is a mask, or nothing."""
    secret = "hunter2-and-some-more-characters-of-a-long-secret"
    begin = SUMMARY_BYTES_MAX - 600 + before
    content = (b"." * begin + secret.encode()).ljust(SUMMARY_BYTES_MAX + 9_000, b".")
    result = masked(NodeResult(outcome=Outcome.SUCCESS, summary=summarized(files, content)), Masks([secret]))
    assert "hunter2" not in result.summary.kept()


def test_a_summary_that_is_no_file_is_a_note(files: StepFiles, tmp_path: Path) -> None:
    """A link, a pipe or a directory in its place is not read; the outputs count, and the step does not fail."""
    for make in (
        lambda path: os.symlink("/etc/hostname", path),
        os.mkfifo,
        os.mkdir,
    ):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(files.summary)
        make(files.summary)
        contents = collected(files, b"a=1")
        assert contents.outputs == {"a": "1"}
        assert "WATERFLOW_SUMMARY" in contents.summary.kept()


def test_a_missing_summary_is_empty(files: StepFiles) -> None:
    """A script may remove the file."""
    os.unlink(files.summary)
    assert collected(files).summary.kept() == ""
