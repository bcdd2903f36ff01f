"""Masking of complete texts and of streams."""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import subprocess
from urllib.parse import quote, quote_plus

import pytest

from waterflow_agent.execution.masking import FORM_BYTES_MAX, MASK, Masks, StreamMasker

SECRET = "p4ss'w0rd/+ \"ü\\ &x"
PEM = (
    "-----BEGIN KEY-----\n"
    + "\n".join(f"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{n:032d}" for n in range(9))
    + "\n-----END KEY-----\n"
)


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "printed",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        shlex.quote(SECRET)[1:-1],
        base64_of(SECRET).rstrip("=")[:-1],
    ],
)
def test_every_encoding_is_masked(printed: str) -> None:
    """Secrets are masked as they are, and in the form used in URLs, JSON, shells and Base64."""
    assert Masks([SECRET]).text(f"a {printed} b") == "a *** b"


@pytest.mark.parametrize("before", ["", "x", "xy", "user:"])
@pytest.mark.parametrize("after", ["", "\n", "@host"])
@pytest.mark.parametrize("urlsafe", [False, True])
def test_base64_is_found_at_every_alignment(before: str, after: str, urlsafe: bool) -> None:
    """This includes secrets that were encoded together with other text."""
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    printed = encode(f"{before}{SECRET}{after}".encode())

    masked = Masks([SECRET]).data(printed)

    assert MASK in masked
    assert len(masked) <= len(printed) - len(base64_of(SECRET)) + 8, "all but the digits that it shares is gone"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_shell_tracing_output_is_masked(shell: str) -> None:
    """Shells differ in how they quote with `set -x`."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    printed = subprocess.run(
        [shell, "-xc", ': "$S" "--p=$S"'], env={"S": SECRET, "LANG": "C.UTF-8"}, capture_output=True, check=True
    ).stderr

    masked = Masks([SECRET]).data(printed)

    assert masked.count(MASK) == 2
    assert b"p4ss" not in masked
    assert b"w0rd" not in masked


def test_each_line_of_a_value_is_masked() -> None:
    """A line of four bytes or more is masked anywhere in the text."""
    masks = Masks(["first line\nno\n  second line\n"])
    assert masks.text("> first line\n> no\n>   second line") == "> ***\n> no\n>   ***"


@pytest.mark.parametrize("width", [0, 64, 76])
def test_wrapped_base64_of_a_long_value_is_masked(width: int) -> None:
    """The forms of `base64` and `openssl base64` are masked; at most the few characters of a short last line remain."""
    printed = base64_of(PEM)
    lines = [printed[at : at + width] for at in range(0, len(printed), width)] if width else [printed]

    masked = Masks([PEM]).text("\n".join(lines))

    assert len(masked.replace("***", "").replace("\n", "")) <= 8


def test_a_long_value_is_masked_as_a_whole() -> None:
    """It is searched in parts, but masked as one."""
    value = "".join(chr(97 + n % 23) + str(n) for n in range(900))
    assert Masks([value]).text(f"[{value}]") == "[***]"


def test_overlapping_secrets_hide_each_other() -> None:
    """Bytes after the end of one are masked when they belong to the other."""
    assert Masks(["abcdef", "defghi"]).text("xabcdefghix") == "x***x"
    assert Masks(["abcd", "abcdefgh"]).text("abcdefgh abcdefg") == "*** ***efg"


def test_short_values_are_not_masked() -> None:
    """Masking values of less than four bytes would hide ordinary text."""
    assert Masks(["abc", "", "\n"]).text("abc") == "abc"
    assert Masks([]).text("abc") == "abc"


def test_values_inside_json_are_masked() -> None:
    """This includes names and lists; values of other types stay unchanged."""
    masks = Masks(["s3cret"])
    original = {"a": ["xs3crety", 1, None, True], "s3cret": {"b": "s3cret"}, "c": "\ud800"}
    assert masks.value(original) == {"a": ["x***y", 1, None, True], "***": {"b": "***"}, "c": "\ud800"}


def test_documented_masking_gaps_remain() -> None:
    """The documented gaps are reversed text, hexadecimal, and spaces between the letters."""
    for printed in (SECRET[::-1], SECRET.encode().hex(), " ".join(SECRET)):
        assert Masks([SECRET]).text(printed) == printed


def test_only_a_possible_secret_prefix_is_held_back() -> None:
    """A prompt without a newline is sent at once; a possible secret is held back, and sent if it turns out not to be one."""
    stream = StreamMasker(Masks(["password1234"]))
    assert stream.feed(b"Continue? ") == b"Continue? "
    assert stream.feed(b"pass") == b""
    assert stream.feed(b"age ") == b"passage "
    assert stream.feed(b"passwo") == b""
    assert stream.feed(b"rd1234") == MASK
    assert stream.feed(b" 1 p") == b" 1 "
    assert stream.finish() == b"p"


def test_the_greater_half_of_a_secret_at_the_end_is_masked() -> None:
    """This happens when a process is killed while it prints."""
    stream = StreamMasker(Masks(["password1234"]))
    assert (stream.feed(b"x password"), stream.finish()) == (b"x ", MASK)
    assert (stream.feed(b"x pass"), stream.finish()) == (b"x ", b"pass")


def test_held_back_text_is_bounded() -> None:
    """A flood of the same letter is not held back."""
    stream = StreamMasker(Masks(["a" * 500, "b" * FORM_BYTES_MAX]))
    output = b"".join(stream.feed(b"a") for _ in range(2_000)) + stream.feed(b"!")
    assert output == b"***!"


def test_the_representation_of_masks_has_no_values() -> None:
    """Their representation does not contain values, not even in a debug log."""
    assert "s3cret" not in repr(Masks(["s3cret"]))
