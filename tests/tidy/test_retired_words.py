"""Words that the vocabulary replaced do not come back: retired_words.txt lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tidy import sources

LIST = Path(__file__).with_name("retired_words.txt")
#: The changelog tells history.
_NOT_SEARCHED = frozenset({"CHANGELOG.md", "tests/tidy/retired_words.txt"})


def _retired() -> list[tuple[re.Pattern[str], str]]:
    lines = [line for line in LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    rows = [re.split(r" {2,}| (?=AttemptId$)", line, maxsplit=1) for line in lines]
    return [(re.compile(pattern), replacement) for pattern, replacement in rows]


def findings(path: str, text: str) -> list[str]:
    """Each location of a retired word, with the word to use."""
    return [
        f"{path}:{number}: {found.group()!r}; write: {replacement}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, replacement in _retired_patterns
        for found in pattern.finditer(line)
    ]


_retired_patterns = _retired()


def test_no_file_uses_a_retired_word() -> None:
    """Code, messages, documentation and tests use one word per idea."""
    files = [(str(file.relative_to(sources.ROOT)), file) for file in sources.files()]
    found = [
        finding
        for path, file in files
        if path not in _NOT_SEARCHED
        for finding in findings(path, sources.text_of(file))
    ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(("pattern", "replacement"), _retired_patterns, ids=lambda value: str(value)[:30])
def test_every_row_names_its_replacement(pattern: re.Pattern[str], replacement: str) -> None:
    """A row without a replacement would not say what to write."""
    assert pattern.pattern
    assert replacement.strip()


def test_a_retired_word_is_found() -> None:
    """The location and the replacement are reported."""
    word = "sub" + "run"
    assert findings("made/up.py", f"x = 1\na {word} starts") == [
        f"made/up.py:2: {word!r}; write: child run, parent run"
    ]
