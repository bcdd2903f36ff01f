"""Inputs of a manual start."""

from __future__ import annotations

from typing import Any

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.model.inputs import check_start
from waterflowd.model.plan import InputSpec, InputType

SPECS = (
    InputSpec(name="who", required=True, pattern="[a-z]+"),
    InputSpec(name="count", type=InputType.NUMBER, default=3),
    InputSpec(name="loud", type=InputType.BOOLEAN),
    InputSpec(name="place", type=InputType.CHOICE, options=("dev", "prod")),
    InputSpec(name="more", type=InputType.JSON),
)


def test_text_from_the_command_line_is_converted_by_type() -> None:
    """The CLI sends text; a run gets numbers, booleans and JSON."""
    values = {"who": "bob", "count": "2.5", "loud": "TRUE", "place": "prod", "more": '{"a": [1, null]}'}
    assert check_start(SPECS, values) == {
        "who": "bob",
        "count": 2.5,
        "loud": True,
        "place": "prod",
        "more": {"a": [1, None]},
    }


def test_typed_values_are_kept_unchanged() -> None:
    """The API sends JSON, which is kept unchanged."""
    values = {"who": "bob", "count": 7, "loud": False, "place": "dev", "more": [1]}
    assert check_start(SPECS, values) == values


def test_an_omitted_input_has_its_default_or_is_empty() -> None:
    """As on GitHub, the defaults are false, the first option, and null for JSON."""
    assert check_start(SPECS, {"who": "bob"}) == {
        "who": "bob",
        "count": 3,
        "loud": False,
        "place": "dev",
        "more": None,
    }


def test_an_integer_stays_an_integer() -> None:
    """The number `3` stays 3, and a 64-bit id keeps its digits."""
    specs = (InputSpec(name="n", type=InputType.NUMBER),)
    for text in ("3", "9007199254740993"):
        value = check_start(specs, {"n": text})["n"]
        assert value == int(text)
        assert isinstance(value, int)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({}, "who"),
        ({"who": None}, "who"),
        ({"who": "BOB"}, "who"),
        ({"who": "bob\nx"}, "who"),
        ({"who": ["bob"]}, "who"),
        ({"who": "bob", "count": "many"}, "count"),
        ({"who": "bob", "count": True}, "count"),
        ({"who": "bob", "count": "nan"}, "count"),
        ({"who": "bob", "count": float("inf")}, "count"),
        ({"who": "bob", "count": "9" * 5_000}, "count"),
        ({"who": "bob", "count": 2**70}, "count"),
        ({"who": "bob", "loud": "yes"}, "loud"),
        ({"who": "bob", "loud": 1}, "loud"),
        ({"who": "bob", "place": "prd"}, "place"),
        ({"who": "bob", "more": "{bad"}, "more"),
        ({"who": "bob", "more": "[NaN]"}, "more"),
        ({"who": "bob", "more": "[" * 5_000}, "more"),
        ({"who": "bob", "more": "[" * 100 + "]" * 100}, "more"),
        ({"who": "bob", "whom": "x"}, "whom"),
    ],
)
def test_a_wrong_input_is_rejected_by_name(values: dict[str, Any], where: str) -> None:
    """WF110 names the input both in `where` and in the message."""
    with pytest.raises(Rejected) as caught:
        check_start(SPECS, values)
    assert caught.value.code == "WF110"
    assert caught.value.where == where
    assert where in caught.value.text


def test_a_misspelt_input_gets_a_suggestion() -> None:
    """The message contains the most similar name."""
    with pytest.raises(Rejected, match='did you mean "count"'):
        check_start(SPECS, {"who": "bob", "cuont": 1})


def test_too_many_bytes_are_rejected() -> None:
    """The total size of all inputs is limited."""
    with pytest.raises(Rejected, match="more than 65,535 bytes"):
        check_start((InputSpec(name="a"),), {"a": "x" * 70_000})


def test_a_hostile_pattern_takes_linear_time() -> None:
    """Patterns are matched without backtracking."""
    specs = (InputSpec(name="a", pattern="(a+)+"),)
    with pytest.raises(Rejected):
        check_start(specs, {"a": "a" * 50_000 + "!"})
