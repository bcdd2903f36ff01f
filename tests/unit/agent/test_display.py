"""How text from outside is displayed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.display import escape_for_display, quote, shorten, single_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
        ('"><script>', '"><script>'),
        ("\N{WOMAN}\u200d\N{PERSONAL COMPUTER}\u00a0", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}\u00a0"),
        ("x" * 300, "x" * 199 + "…"),
        ("\n" * 300, "\\n" * 99 + "\\…"),
    ],
)
def test_unsafe_characters_are_escaped_and_the_length_is_bounded(text: str, expected: str) -> None:
    """The result is one line without terminal codes and direction marks; emoji stay whole, and pages escape HTML themselves."""
    assert escape_for_display(text, 200) == expected


@given(st.text(max_size=2_000))
def test_escaped_text_cannot_control_a_terminal(text: str) -> None:
    """The result is bounded, encodes as UTF-8, and has no control characters; escaping it again changes nothing."""
    displayed = escape_for_display(text)
    assert len(displayed) <= 1_000
    displayed.encode()
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029\u202e" for c in displayed)
    assert escape_for_display(displayed) == displayed


def test_a_quoted_name_is_escaped_and_truncated() -> None:
    """The length of a name in a message is limited."""
    assert quote("x" * 500) == '"' + "x" * 59 + '…"'
    assert quote("a\nb") == '"a\\nb"'


def test_a_single_line_keeps_its_words_apart() -> None:
    """Line breaks become spaces, and the length is bounded."""
    assert single_line("a\nb\x1b", 10) == "a b "
    assert single_line("x" * 20, 10) == shorten("x" * 20, 10) == "x" * 9 + "…"
