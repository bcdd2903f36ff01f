"""Numbers in JSON, expressions and inputs: one normal form, and one way to write them as text.

Numbers are JavaScript's, with one difference: an integer stays exact while it fits into 64 bits, so an id from a
payload reaches a script unchanged, where GitHub would round it past 2**53. A whole float becomes an int (`1.0` is
`1`, `-0` is `0`), larger integers become floats.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

Number = int | float

#: Integers outside this range are rounded to floats, as all integers are in JavaScript. The log, the wire and workflow files
#: have the same range.
INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**64 - 1

#: Largest float up to which every integer is exactly representable.
_FLOAT_EXACT = 2.0**53

#: `toFixed(15)` of the largest number that it writes out needs 21 digits before the point and 15 after it.
_FIXED = Context(prec=40)
_FIFTEEN_PLACES = Decimal(1).scaleb(-15)


def normal(number: Number) -> Number:
    """Return a number in its normal form: whole floats as int, integers that are too large as float."""
    if isinstance(number, float):
        return int(number) if -_FLOAT_EXACT <= number <= _FLOAT_EXACT and number.is_integer() else number
    if INTEGER_MIN <= number <= INTEGER_MAX:
        return int(number)
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def number_to_text(number: Number) -> str:
    """Return a number as JavaScript writes it after rounding to 15 places, as GitHub does."""
    number = normal(number)
    if isinstance(number, int):
        return str(number)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if abs(number) < 1e21:
        number = float(Decimal(number).quantize(_FIFTEEN_PLACES, ROUND_HALF_UP, _FIXED))
    return shortest(number)


def shortest(number: float) -> str:
    """Return the fewest digits that read back as `number`, laid out as by JavaScript's Number::toString."""
    if number == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0")
    point = len(digits) + exponent
    if 0 < point <= 21:
        body = text.ljust(point, "0") if len(text) <= point else f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        body = "0." + "0" * -point + text
    else:
        mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
        body = f"{mantissa}e{point - 1:+d}"
    return "-" + body if sign else body
