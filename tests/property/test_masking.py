"""Masking a stream: however it is cut, the output equals that of the whole text and that of a naive implementation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from waterflow_agent.execution.masking import MASK, Masks, StreamMasker

#: A small alphabet makes prefixes, overlaps and repetitions frequent.
LETTERS = st.text("abA", max_size=9)
SECRETS = st.lists(st.text("abA", min_size=4, max_size=90) | st.text("ab ='\n\\é", min_size=4, max_size=20), max_size=4)


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Generates secrets, and a text with the secrets, parts of them, and other text."""
    secrets = draw(SECRETS)
    pieces = st.sampled_from(secrets) if secrets else LETTERS
    halves = pieces.flatmap(lambda secret: st.integers(0, len(secret)).map(lambda size: secret[:size]))
    text = "".join(draw(st.lists(pieces | halves | LETTERS, max_size=8)))
    return secrets, text.encode()


def simplest(masks: Masks, text: bytes) -> bytes:
    """Searches for each form at each position."""
    covered = [False] * len(text)
    for form in masks._forms:
        for at in range(len(text)):
            if text.startswith(form, at):
                covered[at : at + len(form)] = [True] * len(form)
    out = b""
    for at, byte in enumerate(text):
        if not covered[at]:
            out += bytes([byte])
        elif at == 0 or not covered[at - 1]:
            out += MASK
    return out


@given(texts())
def test_the_optimized_search_equals_the_simple_one(case: tuple[list[str], bytes]) -> None:
    """The optimized search misses no form."""
    secrets, text = case
    masks = Masks(secrets)
    assert masks.data(text) == simplest(masks, text)


@settings(max_examples=300)
@given(texts(), st.lists(st.integers(0, 700), max_size=8))
def test_the_chunking_does_not_change_the_result(case: tuple[list[str], bytes], cuts: list[int]) -> None:
    """At every point the output depends only on the text so far."""
    secrets, text = case
    masks = Masks(secrets)
    stream = StreamMasker(masks)
    reported, at = b"", 0
    for cut in sorted({min(cut, len(text)) for cut in cuts} | {len(text)}):
        reported += stream.feed(text[at:cut])
        at = cut
        assert reported == StreamMasker(masks).feed(text[:cut])
    assert reported + stream.finish() == _whole(masks, text)


@given(texts())
def test_a_continued_stream_equals_the_whole_text(case: tuple[list[str], bytes]) -> None:
    """When text follows that starts no secret, nothing is held back, and the output equals that of the whole text."""
    secrets, text = case
    masks = Masks(secrets)
    assert StreamMasker(masks).feed(text + b"\0") == masks.data(text + b"\0")


@given(texts())
def test_masking_never_lengthens_text(case: tuple[list[str], bytes]) -> None:
    """The limits on output and outputs therefore hold for masked text too."""
    secrets, text = case
    assert len(Masks(secrets).data(text)) <= len(text)


def _whole(masks: Masks, text: bytes) -> bytes:
    stream = StreamMasker(masks)
    return stream.feed(text) + stream.finish()
