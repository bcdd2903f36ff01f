"""What msgspec says of a wrong value becomes a sentence that a person who has never heard of msgspec understands."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec
import pytest

from waterflow_agent.type_errors import explain


class Color(enum.Enum):
    """An example of an enumeration."""

    RED = "red"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """An example of a table."""

    port: int
    names: list[str] = []
    text: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 1
    label: Annotated[str, msgspec.Meta(min_length=1)] = "a"
    plain: Annotated[str, msgspec.Meta(pattern="^[^,]*$")] = "a"
    color: Color = Color.RED
    either: int | str = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ("expected a mapping, not a list", "")),
        ({}, ('missing key "port"', "")),
        ({"port": 1, "prt": 2}, ('unknown key "prt"', "")),
        ({"port": "x"}, ("expected a whole number, not text", "port")),
        ({"port": None}, ("expected a whole number, not nothing", "port")),
        ({"port": 1, "names": ["a", True]}, ("expected text, not true or false", "names[1]")),
        ({"port": 1, "text": 1.5}, ("expected text, not a number", "text")),
        ({"port": 1, "limit": 0}, ("expected a whole number of at least 1", "limit")),
        ({"port": 1, "label": ""}, ("expected text with a length of at least 1", "label")),
        ({"port": 1, "plain": "a,b"}, ("expected text without a comma", "plain")),
        ({"port": 1, "color": "blue"}, ("unknown value 'blue'", "color")),
        ({"port": 1, "either": []}, ("expected a whole number or text, not a list", "either")),
    ],
)
def test_a_wrong_value_is_explained_in_plain_words(value: Any, expected: tuple[str, str]) -> None:
    """For each kind of error that a file or a setting can cause."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Inner)
    assert explain(caught.value) == expected
