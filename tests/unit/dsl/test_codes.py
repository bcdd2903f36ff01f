"""Error codes: each is documented and has its own meaning."""

from __future__ import annotations

import re
from pathlib import Path

from waterflowd.dsl.reading import size_limit
from waterflowd.dsl.reporting import codes

DOCS = Path(__file__).parents[3] / "docs" / "errors.md"


def test_every_code_of_the_language_is_documented() -> None:
    """docs/errors.md has a row for each, with a cause and a next action."""
    rows = dict(re.findall(r"^\| (WF1\d\d) \| (.+ \| .+) \|$", DOCS.read_text(), re.MULTILINE))
    assert set(rows) == set(codes.CODES)


def test_titles_of_codes_are_unique() -> None:
    """Two codes with the same meaning should be one code."""
    assert len(set(codes.CODES.values())) == len(codes.CODES)


def test_the_size_limit_has_the_code_of_limits() -> None:
    """The diagnostic that is made without reading uses the same code as the reader."""
    assert size_limit.oversized("w.yml", 2_000_000).code == codes.BOUND
