"""Evaluation: errors with positions, limits, lazy contexts, and the functions that GitHub does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import pytest

from waterflowd import expr
from waterflowd.expr import errors

CONTEXTS: dict[str, object] = {
    "in": {"list": ["a", "b"], "text": "Some Text", "n": 3, "none": None, "empty": "", "false": False, "obj": {"k": 1}},
}


def evaluated(source: str, **more: object) -> object:
    return expr.evaluate(expr.parse(source), expr.Env(contexts=CONTEXTS, **more))  # type: ignore[arg-type]


def failure(source: str, **more: object) -> expr.ExpressionError:
    with pytest.raises(expr.ExpressionError) as caught:
        evaluated(source, **more)
    return caught.value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("len('häß')", 3),
        ("len(in.list)", 2),
        ("len(in.obj)", 1),
        ("len(in.nope)", 0),
        ("upper('straße')", "STRASSE"),
        ("lower('ÄB')", "äb"),
        ("upper(1.50)", "1.5"),
        ("trim('  a b\n')", "a b"),
        ("split('a,b,,c')", ["a", "b", "", "c"]),
        ("split('a::b', '::')", ["a", "b"]),
        ("split('')", []),
        ("join(split('x y', ' '), '-')", "x-y"),
        ("replace('a.b.c', '.', '')", "abc"),
        ("replace('aA', 'a', 'b')", "bA"),
        ("default(in.none, 'x')", "x"),
        ("default(in.empty, in.none, 'x')", "x"),
        ("default(in.false, 'x')", False),
        ("default(0, 'x')", 0),
        ("default(in.none, in.empty)", ""),
        ("range(3)", [0, 1, 2]),
        ("range(1, 4)", [1, 2, 3]),
        ("range(4, 0, -2)", [4, 2]),
        ("range('2')", [0, 1]),
        ("range(0)", []),
        ("len(range(10000))", 10000),
        ("LEN('a')", 1),
    ],
)
def test_functions_beyond_github_match_their_documentation(source: str, value: object) -> None:
    """Each promise of the module's documentation has one line here."""
    found = evaluated(source)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "code", "offset"),
    [
        ("case(true, 1)", errors.WRONG_ARITY, 0),
        ("case(true, 1, false, 2)", errors.WRONG_ARITY, 0),
        ("1 == case('x', 1, 2)", errors.WRONG_VALUE, 5),
        ("case(false, 1, 0, 2, 3)", errors.WRONG_VALUE, 0),
        ("case(1 / 0 == 1, 1, 2)", errors.WRONG_VALUE, 7),
        ("1 + 'a'", errors.WRONG_VALUE, 2),
        ("1 + true", errors.WRONG_VALUE, 2),
        ("in.list * 2", errors.WRONG_VALUE, 8),
        ("1 / 0", errors.WRONG_VALUE, 2),
        ("1 % (1 - 1)", errors.WRONG_VALUE, 2),
        ("1.5 / 0.0", errors.WRONG_VALUE, 4),
        ("x.y", errors.UNKNOWN_CONTEXT, 0),
        ("1 == nope()", errors.UNKNOWN_FUNCTION, 5),
        ("len()", errors.WRONG_ARITY, 0),
        ("len(1)", errors.WRONG_VALUE, 0),
        ("upper(in.list)", errors.WRONG_VALUE, 0),
        ("split('a', '')", errors.WRONG_VALUE, 0),
        ("replace('a', '', 'b')", errors.WRONG_VALUE, 0),
        ("range(1.5)", errors.WRONG_VALUE, 0),
        ("range('x')", errors.WRONG_VALUE, 0),
        ("range(null)", errors.WRONG_VALUE, 0),
        ("range(1, 2, 0)", errors.WRONG_VALUE, 0),
        ("range(10001)", errors.BOUND, 0),
        ("range(100000000000000000000)", errors.BOUND, 0),
        ("fromJSON('{')", errors.WRONG_VALUE, 0),
        ("fromJSON('\"\\ud800\"')", errors.WRONG_VALUE, 0),
        ("now()", errors.NOT_HERE, 0),
        ("hashFiles('x')", errors.NOT_HERE, 0),
        ("true && success()", errors.NOT_HERE, 8),
    ],
)
def test_an_undefined_operation_is_an_error_with_its_location(source: str, code: str, offset: int) -> None:
    """The error points at the operator or the function."""
    error = failure(source)

    assert (error.code, error.offset) == (code, offset)


def test_operators_short_circuit() -> None:
    """`&&` and `||` stop at the operand that decides."""
    assert evaluated("false && 1 / 0") is False
    assert evaluated("'x' || 1 / 0") == "x"


def test_time_status_and_hashes_come_from_the_host() -> None:
    """Time, status and file hashes are passed in by the host."""
    seen: list[tuple[str, ...]] = []

    def digest(patterns: tuple[str, ...]) -> str:
        seen.append(patterns)
        return "d1"

    assert evaluated("now()", now_at=1700) == 1700
    assert evaluated("hashFiles('**/a', 'b')", hash_files=digest) == "d1"
    assert seen == [("**/a", "b")]
    status = expr.Status(success=False, failure=True, cancelled=False)
    assert evaluated("format('{0} {1} {2} {3}', success(), failure(), cancelled(), always())", status=status) == (
        "false true false true"
    )


class Lazy(Mapping[str, object]):
    """A mapping that computes its values on access."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def __getitem__(self, key: str) -> object:
        if key not in ("Next", "depth"):
            raise KeyError(key)
        return Lazy(self._depth + 1) if key == "Next" and self._depth < 3 else self._depth

    def __iter__(self) -> Iterator[str]:
        return iter(("Next", "depth"))

    def __len__(self) -> int:
        return 2


def test_contexts_may_be_lazy_mappings() -> None:
    """Any Mapping works, with case-insensitive properties, filters, JSON, and a result of plain dicts."""
    env = expr.Env(contexts={"lazy": Lazy(1)})

    assert expr.evaluate(expr.parse("lazy.next.NEXT.depth"), env) == 3
    assert expr.evaluate(expr.parse("lazy.*.depth"), env) == [2]
    assert type(expr.evaluate(expr.parse("lazy.next"), env)) is dict
    assert expr.evaluate(expr.parse("len(toJSON(lazy)) > 10"), env) is True


def test_a_result_shares_nothing_with_the_contexts() -> None:
    """The host may change its state after the evaluation without changing a recorded result."""
    state: dict[str, object] = {"list": [1, {"k": [2]}]}
    result = expr.evaluate(expr.parse("s.list"), expr.Env(contexts={"s": state}))

    state["list"][1]["k"].append(3)  # type: ignore[index]

    assert result == [1, {"k": [2]}]


def test_an_object_without_that_name_has_the_property_null() -> None:
    """Names with a meaning in Python or JavaScript have none in expressions."""
    for name in ("__class__", "__proto__", "constructor", "toString", "keys", "__init__"):
        assert evaluated(f"in.obj.{name}") is None
        assert evaluated(f"in.list.{name}") is None
        assert evaluated(f"in['{name}']") is None
        assert evaluated(f"in.text.{name}") is None
    assert failure("__class__.x").code == errors.UNKNOWN_CONTEXT
    assert failure("__import__('os')").code == errors.UNKNOWN_FUNCTION


def test_case_evaluates_only_the_chosen_branch() -> None:
    """Like `&&`, `case` can guard the value behind a condition."""
    assert evaluated("case(in.n == 3, 'three', in.n == 4, fromJSON('no'), fromJSON('no'))") == "three"
    assert evaluated("CASE(false, 1 / 0, true, in.list, null)") == ["a", "b"]
    assert evaluated("case(false, 1 / 0, false, 1 / 0, in.none)") is None


def test_integers_stay_exact_where_a_float_would_round_them() -> None:
    """A 64-bit id from a payload keeps all its digits in text and JSON."""
    env = expr.Env(contexts={"event": {"id": 2**63 - 1, "huge": 10**400}})

    assert expr.evaluate(expr.parse("format('{0}', event.id)"), env) == "9223372036854775807"
    assert expr.evaluate(expr.parse("fromJSON(toJSON(event.id))"), env) == 2**63 - 1
    assert expr.evaluate(expr.parse("event.huge"), env) == float("inf")
    assert expr.evaluate(expr.parse("event.huge % 2 == 1"), env) is False


@pytest.mark.parametrize(
    "source",
    [
        "18446744073709551616",
        "id + 1",
        "id * id",
        "0 - id",
        "fromJSON('[18446744073709551616]')[0]",
        "fromJSON('-9223372036854775809')",
        "more",
        "more + 1",
        "0xfffffffffffffffff",
        "range(id - 1, id + 1)[1] + 1",
        "1e300",
        "huge",
    ],
)
def test_a_number_beyond_64_bits_is_rounded(source: str) -> None:
    """The log and the wire hold 64 bits; a larger number becomes a float, like all numbers in JavaScript."""
    env = expr.Env(contexts={"id": 2**64 - 1, "more": 2**64, "huge": 10**400})

    found = expr.evaluate(expr.parse(source), env)

    assert type(found) is float
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found)) == found


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, -(2**63), 2**53 + 1])
def test_a_64_bit_number_stays_exact(number: int) -> None:
    """The number may come from a payload, JSON or text."""
    for source in ("n", "fromJSON(toJSON(n))", "fromJSON(format('{0}', n))", "n + 0"):
        found = expr.evaluate(expr.parse(source), expr.Env(contexts={"n": number}))
        assert (type(found), found) == (int, number)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(found)) == number


BIG = "x" * 1024 * 1024


@pytest.mark.parametrize(
    "source",
    [
        "format('{0}{1}', big.text, 'y')",
        "format('{0}{0}{0}{0}{0}{0}{0}{0}', big.text)",
        "join(big.list, big.text)",
        "replace(big.text, 'x', big.text)",
        "split(big.text, 'x')",
        "toJSON(big.list)",
        "fromJSON(format('{0}', big.quoted))",
        "big.list",
        "upper(big.sharp)",
        "big.wide",
        "big.deep",
        "toJSON(big.deep)",
        "fromJSON(big.nested)",
    ],
)
def test_intermediate_results_are_bounded_too(source: str) -> None:
    """A result that would be larger than 1 MiB or too deep is an error before it is built."""
    deep: object = 1
    for _ in range(500):
        deep = [deep]
    big = {
        "text": BIG,
        "list": [BIG, BIG],
        "quoted": '"' + BIG + '"',
        "sharp": "ß" * 400_000,
        "wide": "€" * 400_000,
        "deep": deep,
        "nested": "[" * 400_000 + "]" * 400_000,
    }
    if source == "upper(big.sharp)":
        big["sharp"] = "\u0390" * 500_000
    with pytest.raises(expr.ExpressionError) as caught:
        expr.evaluate(expr.parse(source), expr.Env(contexts={"big": big}))

    assert caught.value.code == errors.BOUND


def test_brackets_inside_json_strings_do_not_count_as_depth() -> None:
    """Only real nesting is limited."""
    text = '["' + "[" * 1000 + '", "\\"' + "{" * 1000 + '"]'

    assert expr.evaluate(expr.parse("fromJSON(t.x)[0]"), expr.Env(contexts={"t": {"x": text}})) == "[" * 1000


def test_a_condition_is_the_truthiness_of_its_value() -> None:
    """`evaluate_condition` returns the truth of what `evaluate` returns."""
    env = expr.Env(contexts=CONTEXTS)

    assert expr.evaluate_condition(expr.parse("in.list"), env)
    assert not expr.evaluate_condition(expr.parse("in.empty"), env)
    assert not expr.evaluate_condition(expr.parse("NaN"), env)


def test_a_context_that_is_not_json_raises_type_error() -> None:
    """It raises TypeError, because no author can fix it."""
    with pytest.raises(TypeError):
        expr.evaluate(expr.parse("x"), expr.Env(contexts={"x": {1, 2}}))
