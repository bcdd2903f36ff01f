"""The functions of expressions, each with its name, its number of arguments and its documentation.

Names are case-insensitive. As in GitHub, text functions read any primitive as text (`upper(1.50)` is `1.5`).
A function raises `Problem`; the evaluator adds the position. No function builds more than the size limit of results,
not even temporarily, and the work of each is linear in its arguments and its result.

GitHub does not have `len`, `upper`, `lower`, `trim`, `split`, `replace`, `default`, `range`, `now`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from waterflowd.expr.env import Env, Status
from waterflowd.expr.errors import BOUND, NOT_HERE, WRONG_VALUE
from waterflowd.expr.json_text import RESULT_BYTES_MAX, Problem, bounded, from_json, joined, size_of, to_json, too_large
from waterflowd.expr.values import (
    ARRAY,
    BOOLEAN,
    NULL,
    OBJECT,
    Value,
    equals,
    fold,
    kind_of,
    to_number,
    to_text,
)

Arguments = list[object]
LazyArguments = list[Callable[[], object]]
Implementation = Callable[[list[Any], Env], object]

#: A run has at most 10,000 inner steps, so no loop could process a longer list.
RANGE_ITEMS_MAX = 10_000

#: Same limit as in GitHub Actions.
ARGUMENTS_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function: its signature, its implementation and its documentation."""

    name: str
    least: int
    most: int
    call: Implementation
    #: The possible calls, for the reference.
    usage: str
    description: str
    #: Expressions that the reference shows with their values.
    examples: tuple[str, ...] = ()
    #: Whether the number of arguments must be odd: pairs, and one more.
    is_odd: bool = False
    #: Whether `call` gets functions that compute the arguments, so that it computes only those that it needs.
    is_lazy: bool = False


def _text(name: str, value: Value) -> str:
    if kind_of(value) in (ARRAY, OBJECT):
        raise Problem(WRONG_VALUE, f"{name} needs text, found {kind_of(value)}")
    return to_text(value)


def _contains(arguments: Arguments, env: Env) -> bool:
    searched, item = arguments
    kind = kind_of(searched)
    if kind is ARRAY:
        assert isinstance(searched, list | tuple)
        return any(equals(item, candidate) for candidate in searched)
    if kind is OBJECT or kind_of(item) in (ARRAY, OBJECT):
        return False
    return to_text(item).lower() in to_text(searched).lower()


def _starts_with(arguments: Arguments, env: Env) -> bool:
    if any(kind_of(argument) in (ARRAY, OBJECT) for argument in arguments):
        return False
    return fold(to_text(arguments[0])).startswith(fold(to_text(arguments[1])))


def _ends_with(arguments: Arguments, env: Env) -> bool:
    if any(kind_of(argument) in (ARRAY, OBJECT) for argument in arguments):
        return False
    return fold(to_text(arguments[0])).endswith(fold(to_text(arguments[1])))


_FORMAT_PIECE = re.compile(r"\{\{|\}\}|\{([0-9]+)\}|[{}]|[^{}]+")


def _format(arguments: Arguments, env: Env) -> str:
    pattern = to_text(arguments[0])
    texts = [to_text(argument) for argument in arguments[1:]]

    def piece(match: re.Match[str]) -> str:
        text = match.group()
        if text in ("{{", "}}"):
            return text[0]
        if match.group(1) is not None:
            digits = match.group(1).lstrip("0") or "0"
            if len(digits) > 3 or int(digits) >= len(texts):
                raise Problem(WRONG_VALUE, f"format: no argument for {{{digits[:20]}}}; there are {len(texts)}")
            return texts[int(digits)]
        if text in "{}":
            raise Problem(WRONG_VALUE, f'format: unmatched "{text}"; write {text * 2} for a literal brace')
        return text

    return joined(piece(match) for match in _FORMAT_PIECE.finditer(pattern))


def _join(arguments: Arguments, env: Env) -> str:
    items = arguments[0]
    if kind_of(items) is OBJECT:
        return ""
    if not isinstance(items, list | tuple):
        return to_text(items)
    separator = ","
    if len(arguments) > 1 and kind_of(arguments[1]) not in (ARRAY, OBJECT):
        separator = to_text(arguments[1])
    return joined((to_text(item) for item in items), separator)


def _to_json(arguments: Arguments, env: Env) -> str:
    return to_json(arguments[0])


def _from_json(arguments: Arguments, env: Env) -> Value:
    text = _text("fromJSON", arguments[0])
    if not text.strip():
        raise Problem(WRONG_VALUE, "fromJSON: the text is empty")
    return from_json(text)


def _hash_files(arguments: Arguments, env: Env) -> str:
    if env.hash_files is None:
        raise Problem(NOT_HERE, "hashFiles is not available here")
    return env.hash_files(tuple(_text("hashFiles", argument) for argument in arguments))


def _len(arguments: Arguments, env: Env) -> int:
    value = arguments[0]
    if value is None:
        return 0
    if isinstance(value, str | list | tuple | Mapping):
        return len(value)
    raise Problem(WRONG_VALUE, f"len needs text, an array or an object, found {kind_of(value)}")


def _upper(arguments: Arguments, env: Env) -> str:
    return bounded(_text("upper", arguments[0]).upper())


def _lower(arguments: Arguments, env: Env) -> str:
    return bounded(_text("lower", arguments[0]).lower())


def _trim(arguments: Arguments, env: Env) -> str:
    return _text("trim", arguments[0]).strip()


def _split(arguments: Arguments, env: Env) -> list[str]:
    text = bounded(_text("split", arguments[0]))
    separator = _text("split", arguments[1]) if len(arguments) > 1 else ","
    if not separator:
        raise Problem(WRONG_VALUE, "split: the separator is empty")
    # Three bytes for the quotes and the comma around each item of the result.
    if size_of(text) + 3 * text.count(separator) > RESULT_BYTES_MAX:
        raise too_large()
    return text.split(separator) if text else []


def _replace(arguments: Arguments, env: Env) -> str:
    text, old, new = (_text("replace", argument) for argument in arguments)
    if not old:
        raise Problem(WRONG_VALUE, "replace: the text to look for is empty")
    if len(text) + text.count(old) * (len(new) - len(old)) > RESULT_BYTES_MAX:
        raise too_large()
    return bounded(text.replace(old, new))


def _default(arguments: Arguments, env: Env) -> Value:
    return next((argument for argument in arguments if argument is not None and argument != ""), arguments[-1])


def _range(arguments: Arguments, env: Env) -> list[int]:
    numbers = [_integer(argument) for argument in arguments]
    if len(numbers) == 3 and numbers[2] == 0:
        raise Problem(WRONG_VALUE, "range: the step is 0")
    result = range(*numbers)
    # Not len(): it fails for ranges longer than the machine's integers.
    if result and abs(result[-1] - result.start) // abs(result.step) >= RANGE_ITEMS_MAX:
        raise Problem(BOUND, f"range: at most {RANGE_ITEMS_MAX} items")
    return list(result)


def _integer(value: Value) -> int:
    if kind_of(value) in (NULL, BOOLEAN, ARRAY, OBJECT):
        raise Problem(WRONG_VALUE, f"range needs whole numbers, found {kind_of(value)}")
    number = to_number(value)
    if isinstance(number, float) and (not math.isfinite(number) or not number.is_integer()):
        raise Problem(WRONG_VALUE, f"range needs whole numbers, found {to_text(number)}")
    return int(number)


def _now(arguments: Arguments, env: Env) -> int:
    if env.now_at is None:
        raise Problem(NOT_HERE, "now is not available here")
    return env.now_at


def _status(env: Env, name: str) -> Status:
    if env.status is None:
        raise Problem(NOT_HERE, f"{name}() is only available in `if`")
    return env.status


def _success(arguments: Arguments, env: Env) -> bool:
    return _status(env, "success").success


def _failure(arguments: Arguments, env: Env) -> bool:
    return _status(env, "failure").failure


def _cancelled(arguments: Arguments, env: Env) -> bool:
    return _status(env, "cancelled").cancelled


def _always(arguments: Arguments, env: Env) -> bool:
    return _status(env, "always").always


def _case(arguments: LazyArguments, env: Env) -> Value:
    *pairs, otherwise = arguments
    for predicate, value in zip(pairs[::2], pairs[1::2], strict=True):
        decides = predicate()
        if kind_of(decides) is not BOOLEAN:
            raise Problem(WRONG_VALUE, f"case needs conditions that are true or false, found {kind_of(decides)}")
        if decides:
            return value()
    return otherwise()


def _table(*functions: Function) -> dict[str, Function]:
    return {function.name.lower(): function for function in functions}


_STATUS = _table(
    Function(
        name="success",
        least=0,
        most=0,
        call=_success,
        usage="success()",
        description="Only in `if`: whether nothing before has failed or was cancelled.",
    ),
    Function(
        name="failure",
        least=0,
        most=0,
        call=_failure,
        usage="failure()",
        description="Only in `if`: whether something before ended as `failure`, `timed-out` or `lost`.",
    ),
    Function(
        name="cancelled",
        least=0,
        most=0,
        call=_cancelled,
        usage="cancelled()",
        description="Only in `if`: whether the run was cancelled.",
    ),
    Function(
        name="always",
        least=0,
        most=0,
        call=_always,
        usage="always()",
        description="Only in `if`: true, whatever happened before.",
    ),
)

_PLAIN = _table(
    Function(
        name="contains",
        least=2,
        most=2,
        call=_contains,
        usage="contains(a, b)",
        description="Whether the text `a` contains the text `b`, or the array `a` the item `b`; ignores case.",
        examples=("contains('Waterflow', 'FLOW')", "contains(fromJSON('[1, 2]'), 2)"),
    ),
    Function(
        name="startsWith",
        least=2,
        most=2,
        call=_starts_with,
        usage="startsWith(a, b)",
        description="Whether `a` starts with `b`; ignores case.",
        examples=("startsWith('refs/heads/main', 'refs/')",),
    ),
    Function(
        name="endsWith",
        least=2,
        most=2,
        call=_ends_with,
        usage="endsWith(a, b)",
        description="Whether `a` ends with `b`; ignores case.",
        examples=("endsWith('a.yml', '.YML')",),
    ),
    Function(
        name="format",
        least=1,
        most=ARGUMENTS_MAX,
        call=_format,
        usage="format(text, ...)",
        description="The text with `{0}`, `{1}` and so on replaced by the arguments; `{{` and `}}` are braces.",
        examples=("format('{0}:{1}', 'app', 2)",),
    ),
    Function(
        name="join",
        least=1,
        most=2,
        call=_join,
        usage="join(array, separator)",
        description="The items joined into one text; the default separator is `,`.",
        examples=("join(fromJSON('[1, 2, 3]'), ' ')",),
    ),
    Function(
        name="toJSON",
        least=1,
        most=1,
        call=_to_json,
        usage="toJSON(x)",
        description="The value as JSON text.",
        examples=("toJSON('a \"b\"')",),
    ),
    Function(
        name="fromJSON",
        least=1,
        most=1,
        call=_from_json,
        usage="fromJSON(text)",
        description="The value of a JSON text.",
        examples=("fromJSON('{\"a\": [1]}').a[0]",),
    ),
    Function(
        name="hashFiles",
        least=1,
        most=ARGUMENTS_MAX,
        call=_hash_files,
        usage="hashFiles(pattern, ...)",
        description="A digest of the files that match the patterns.",
    ),
    Function(
        name="len",
        least=1,
        most=1,
        call=_len,
        usage="len(x)",
        description="The number of characters of a text, or of items of an array or object; 0 for null.",
        examples=("len('four')", "len(null)"),
    ),
    Function(
        name="upper",
        least=1,
        most=1,
        call=_upper,
        usage="upper(x)",
        description="The text in upper case.",
        examples=("upper('abc')",),
    ),
    Function(
        name="lower",
        least=1,
        most=1,
        call=_lower,
        usage="lower(x)",
        description="The text in lower case.",
        examples=("lower('ABC')",),
    ),
    Function(
        name="trim",
        least=1,
        most=1,
        call=_trim,
        usage="trim(x)",
        description="The text without leading and trailing white space.",
        examples=("trim('  a ')",),
    ),
    Function(
        name="split",
        least=1,
        most=2,
        call=_split,
        usage="split(text, separator)",
        description="The parts as an array; empty text gives an empty array. The default separator is `,`.",
        examples=("split('a,b')", "split('a b', ' ')"),
    ),
    Function(
        name="replace",
        least=3,
        most=3,
        call=_replace,
        usage="replace(text, old, new)",
        description="The text with every `old` replaced by `new`; respects case.",
        examples=("replace('a/b', '/', '-')",),
    ),
    Function(
        name="default",
        least=2,
        most=ARGUMENTS_MAX,
        call=_default,
        usage="default(x, ...)",
        description="The first argument that is neither null nor empty text, or else the last; `false` and `0` are kept.",
        examples=("default('', 'x')", "default(false, true)"),
    ),
    Function(
        name="range",
        least=1,
        most=3,
        call=_range,
        usage="range(stop), range(start, stop), range(start, stop, step)",
        description="An array of whole numbers, excluding `stop`; at most 10,000.",
        examples=("range(3)", "range(10, 0, -5)"),
    ),
    Function(
        name="now",
        least=0,
        most=0,
        call=_now,
        usage="now()",
        description="The time in milliseconds since 1970, as recorded in the log.",
    ),
    Function(
        name="case",
        least=3,
        most=ARGUMENTS_MAX,
        call=_case,
        is_odd=True,
        is_lazy=True,
        usage="case(condition, value, ..., otherwise)",
        description="The value after the first condition that is true. Conditions must be `true` or `false`. Only the chosen"
        " value is computed.",
        examples=("case(1 > 2, 'a', 2 > 1, 'b', 'c')",),
    ),
)

#: Every function by its lower-case name.
FUNCTIONS: dict[str, Function] = _PLAIN | _STATUS

#: Names, as documented, of the status functions; only an `if` may call them.
STATUS_FUNCTIONS: frozenset[str] = frozenset(function.name for function in _STATUS.values())

#: Names, as documented, of all the others.
PLAIN_FUNCTIONS: frozenset[str] = frozenset(function.name for function in _PLAIN.values())


def arity_text(function: Function) -> str:
    """Return how many arguments a function takes, for an error text."""
    if function.least == function.most:
        return f"{function.least} argument{'' if function.least == 1 else 's'}"
    if function.is_odd:
        return f"an odd number of arguments, at least {function.least}"
    if function.most == ARGUMENTS_MAX:
        return f"at least {function.least} argument{'' if function.least == 1 else 's'}"
    return f"{function.least} to {function.most} arguments"
