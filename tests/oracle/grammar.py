"""Generates expressions and contexts of the grammar that GitHub and we share, to compare both evaluators.

It leaves out our extensions (arithmetic and additional functions) and the differences listed in `test_github.py`, as far as
the text shows them.
"""

from __future__ import annotations

import json
import math

from hypothesis import strategies as st

#: Characters whose case is special: sharp s, dotted and dotless i, ligatures, title case, sigma, the Kelvin sign.
_LETTERS = "abcXYZ019 _-.,{}'\"\\/\n\tßıİiIﬁǅΣσςKé€😀\u00a0\ufeff"


def _words(text: str, separator: str | None = None) -> st.SearchStrategy[str]:
    """Returns one of the words of a text."""
    return st.sampled_from(text.split(separator))


NAMES = st.sampled_from(
    ["a", "A", "b", "k", "K", "name", "Name", "h-y", "_x", "x1", "true", "null", "NaN", "len", "ß", ""]
)
NUMBERS = (
    st.integers(-3, 20)
    | st.integers(-(2**53), 2**53)
    | st.floats().filter(lambda number: abs(number) < 2**53 or not math.isfinite(number) or abs(number) >= 1e21)
    | st.sampled_from([0.1, 1.005, 4.35, 1e-7, 1e-16, 5e-324, 1.7976931348623157e308, 1e21, -0.0, 2.5, 123456.789])
)
NUMBER_TEXTS = _words(
    "0 1 +1 -1 1. .5 -.5 1e3 1E-2 0x1F 0X1f 0o17 0b101 -0x1 0x Infinity -Infinity +Infinity infinity NaN 1_000 1,5 00 007 "
    "1e400 １ true True null --1 1e e1 . + 0b2 0o8 123456789012345678901234567890"
) | st.sampled_from(["", " ", " 1 ", "1 2", "\n1\t", "\u00a01\ufeff"])
TEXTS = st.text(alphabet=_LETTERS, max_size=6) | NUMBER_TEXTS | NAMES
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns an object whose keys differ in more than case, with numeric keys first, as JavaScript sorts them."""
    kept: dict[str, tuple[str, object]] = {}
    for key, value in pairs:
        kept.setdefault(key.lower(), (key, value))
    return dict(sorted(kept.values(), key=lambda pair: (0, int(pair[0])) if pair[0] in "0123" and pair[0] else (1, 0)))


KEYS = NAMES | st.sampled_from(["0", "1", "2", "3"]) | st.text(alphabet="abßıİΣς €", max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(st.tuples(KEYS, inner), max_size=4).map(lambda pairs: _object(pairs))
    ),
    max_leaves=10,
)
OBJECTS = st.lists(st.tuples(KEYS, VALUES), max_size=5).map(_object)
#: `a` has a member of every kind, so that most expressions find a value; `b`, `c` and `o` are arbitrary.
CONTEXTS = st.fixed_dictionaries(
    {
        "a": st.fixed_dictionaries(
            {
                "list": st.lists(SCALARS, max_size=4),
                "lists": st.lists(st.lists(SCALARS, max_size=3) | OBJECTS, max_size=3),
                "Text": TEXTS,
                "number": NUMBERS,
                "flag": st.booleans(),
                "none": st.none(),
                "o": OBJECTS,
                "objects": st.lists(st.fixed_dictionaries({"k": VALUES, "Name": SCALARS}), max_size=3),
            }
        ),
        "b": st.lists(VALUES, max_size=4),
        "c": SCALARS,
        "o": OBJECTS,
    }
)


def quoted(text: str) -> str:
    """Returns a text as a string literal, with at most one quote in it (see the differences)."""
    first, quote, rest = text.partition("'")
    return f"'{first}{quote * 2}{rest.replace(chr(39), '')}'"


def _number_literal(number: float) -> str:
    return (
        ("NaN" if number != number else "Infinity" if number > 0 else "-Infinity")
        if not math.isfinite(number)
        else repr(number)
    )


_NUMBER_LITERALS = NUMBERS.map(_number_literal) | st.sampled_from(
    ["1.", ".5", "-.5", "+5", "0x1F", "0o17", "0b101", "1e3", "1E+3", "-0", "00", "007", "1.50"]
)
_FORMAT_PIECES = st.sampled_from(["{0}", "{1}", "{2}", "{{", "}}", "x", " ", "é", "{00}", "{0}{0}", "{{{1}}}"])
_BROKEN_PIECES = st.sampled_from(["{", "}", "{ 0}", "{-1}", "{}", "{999}", "{0", "{a}", "{{{", "}}}"])
_FORMATS = st.lists(_FORMAT_PIECES, max_size=5).map(lambda pieces: f"'{''.join(pieces)}'")
_BROKEN_FORMATS = st.lists(_FORMAT_PIECES | _BROKEN_PIECES, max_size=4).map(lambda pieces: f"'{''.join(pieces)}'")


def _finite(value: object) -> object:
    """Returns a value that JSON can represent."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {key: _finite(item) for key, item in value.items()} if isinstance(value, dict) else value


def _json(value: object) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, indent=1)


def _literal_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return texts.filter(lambda text: text.count("'") <= 1).map(quoted)


_BROKEN_JSON = _words(
    """[1,] {a:1} [01] nul "\\x" 'x' [ 1. .5 - +1 NaN [NaN] Infinity [1]] {"a"} {"a":1,} // tru True " 0x10 1e [,]"""
) | st.sampled_from(["", " ", "\n", "1 2", '"\t"', "\ufeff1", "\u00a01"])
_ODD_JSON = st.sampled_from(
    ['{"a":1,"a":2}', '"\\u00e9"', "[1e400]", "-0", "1e5", '  {"a": [1, {"b": "c"}]} ', "\r\n\ttrue", "1.0", "1E2"]
)

_BOOLEAN_LITERALS = st.sampled_from(["true", "false"])
_NAMES = st.sampled_from(
    ["k", "K", "name", "NAME", "h-y", "true", "null", "NaN", "nope", "x1", "toString", "constructor"]
)
_KEYS = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "-1",
        "1.9",
        "'a'",
        "'1'",
        "'ß'",
        "' 1 '",
        "null",
        "true",
        "''",
        "NaN",
        "'k'",
        "'NAME'",
        "'1e0'",
        "99",
    ]
) | st.sampled_from(["c", "a.number", "a.Text", "b", "'__proto__'", "Infinity", "-0", "0.5"])
_STEPS = (
    _NAMES.map(lambda name: f".{name}")
    | _KEYS.map(lambda key: f"[{key}]")
    | st.sampled_from([".*", "[*]", "[ * ]", ". k"])
)
_TAILS = st.lists(_STEPS, max_size=3).map("".join)
_MEMBERS = st.sampled_from(["list", "lists", "Text", "number", "flag", "none", "o", "objects", "LIST", "text", "nope"])
_ROOTS = _MEMBERS.map(lambda name: f"a.{name}") | st.sampled_from(
    ["a", "b", "c", "o", "A", "O", "a['objects']", "(a).o"]
)
_PATHS = st.builds("{}{}".format, _ROOTS, _TAILS)

_OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_SPACES = st.sampled_from([" ", " ", " ", "", "  ", "\n", "\t"])
_WRONG_CALLS = _words(
    "contains({0})|contains({0}, {1}, {0})|join({0}, {1}, {1})|join()|toJSON()|toJSON({0}, {1})|format()|contains {0}|"
    "nope({0})|case({0}, {1})|case(true, {0}, false, {1})|case({0})|CASE({0}, {1}, {1})",
    "|",
)


def numbers(depth: int) -> st.SearchStrategy[str]:
    """Generates expressions that are numbers, or convert to numbers."""
    leaves = _NUMBER_LITERALS | st.sampled_from(["a.number", "a.none", "a.flag"]) | NUMBER_TEXTS.map(quoted)
    return (
        leaves if depth == 0 else leaves | NUMBERS.map(_finite).map(lambda number: f"fromJSON('{json.dumps(number)}')")
    )


def texts(depth: int) -> st.SearchStrategy[str]:
    """Generates expressions that are usually texts."""
    leaves = TEXTS.map(quoted) | st.sampled_from(["a.text", "c"])
    if depth == 0:
        return leaves
    any_inner = anything(depth - 1)
    return st.one_of(
        leaves,
        st.builds("format({}, {}, {}, {})".format, _FORMATS, any_inner, any_inner, any_inner),
        st.builds("format({}, {})".format, _FORMATS | _BROKEN_FORMATS | texts(depth - 1), any_inner),
        st.builds("join({})".format, arrays(depth - 1)),
        st.builds("join({}, {})".format, arrays(depth - 1) | any_inner, texts(depth - 1) | any_inner),
        st.builds("toJSON({})".format, any_inner),
        st.builds("tojson({})".format, arrays(depth - 1)),
    )


def arrays(depth: int) -> st.SearchStrategy[str]:
    """Generates expressions that are usually arrays or objects."""
    json_texts = _literal_of((st.lists(VALUES, max_size=4) | OBJECTS).map(_json))
    leaves = st.sampled_from(["a.list", "a.lists", "b", "o", "a.objects", "a"]) | _ROOTS.map(lambda root: f"{root}.*")
    filters = st.builds("{}.*{}".format, _ROOTS, _TAILS) | st.builds("fromJSON({})".format, json_texts)
    if depth == 0:
        return leaves | filters
    inner = arrays(depth - 1)
    return (
        leaves | filters | st.builds("fromJSON(toJSON({}))".format, inner) | st.builds("({}){}".format, inner, _TAILS)
    )


def conditions(depth: int) -> st.SearchStrategy[str]:
    """Generates expressions that are true or false."""
    leaves = _BOOLEAN_LITERALS | st.just("a.flag")
    inner = anything(max(depth - 1, 0))
    words, lists = texts(max(depth - 1, 0)), arrays(max(depth - 1, 0))
    compared = st.builds("{}{}{}{}{}".format, inner, _SPACES, _OPERATORS, _SPACES, inner)
    alike = st.builds("{} {} {}".format, words, _OPERATORS, words) | st.builds(
        "{} {} {}".format, numbers(0), _OPERATORS, numbers(0) | words
    )
    return st.one_of(
        leaves,
        compared,
        compared.map("({})".format),
        alike,
        alike,
        inner.map("!{}".format),
        inner.map("!!({})".format),
        st.builds(
            "{}({}, {})".format, st.sampled_from(["contains", "startsWith", "endsWith", "ENDSWITH"]), words, words
        ),
        st.builds("{}({}, {})".format, st.sampled_from(["contains", "startsWith", "endsWith"]), inner, inner),
        st.builds("contains({}, {})".format, lists, inner),
    )


def anything(depth: int) -> st.SearchStrategy[str]:
    """Generates expressions of every kind."""
    leaves = st.just("null") | _BOOLEAN_LITERALS | numbers(0) | texts(0) | _PATHS
    if depth == 0:
        return leaves
    inner, truth = anything(depth - 1), conditions(depth - 1)
    return st.one_of(
        leaves,
        _PATHS,
        texts(depth),
        arrays(depth),
        truth,
        st.builds("({}){}".format, inner, _TAILS),
        st.builds("{}[{}]".format, _ROOTS, inner),
        st.builds("{}[{}]{}".format, arrays(depth - 1).filter(lambda source: source[0] != "'"), inner, _TAILS),
        st.builds("{} && {}".format, inner, inner),
        st.builds("{} || {}".format, inner, inner),
        st.builds("{} && {} || {}".format, truth, inner, inner),
        st.builds("case({}, {}, {})".format, truth, inner, inner),
        st.builds("case({}, {}, {}, {}, {})".format, truth, inner, truth | inner, inner, inner),
        st.builds(
            "fromJSON({})".format,
            _literal_of(VALUES.map(_json)) | _ODD_JSON.map(quoted) | _literal_of(_BROKEN_JSON) | texts(0),
        ),
        st.builds("fromJSON(toJSON({}))".format, inner),
    )


_TOKENS = _words(
    "a b . .* [ ] ( ) ! == != < > <= >= && || , 1 .5 'x' '' ' true null NaN nope contains toJSON( = & | \" $ # 0x 0x1 1e é "
    "a-b @ { } 0"
) | st.sampled_from(["\u00a0", "\v"])
#: Tokens in any order: most are not valid expressions, and then both sides must say so.
SOUP = st.builds(lambda tokens, space: space.join(tokens), st.lists(_TOKENS, max_size=7), _SPACES)


def _damaged(source: str, offset: int, patch: str) -> str:
    offset %= len(source) + 1
    return source[:offset] + patch + source[offset + (not patch) :]


#: An expression with one character added or removed, and one with the wrong number of arguments.
DAMAGED = st.builds(_damaged, anything(1), st.integers(0, 200), st.sampled_from(["", *"()[]'.,!<=&| x1"]))
MISCALLED = st.builds(
    str.format, _WRONG_CALLS, anything(0).map(lambda source: source.replace("{", "").replace("}", "")), _PATHS
)

_KINDS = [anything(3), anything(2), texts(3), texts(2), arrays(2), conditions(2), DAMAGED, SOUP, MISCALLED]
#: Each kind equally often: about a third is invalid or has no value.
SOURCES = st.sampled_from(_KINDS).flatmap(lambda kind: kind)
