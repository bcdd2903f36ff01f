"""Every input, command and draft is read as it was stored, whatever its fields contain."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from waterflowd.dispatch import lowering
from waterflowd.engine import commands, inputs
from waterflowd.model.codec import ValueCodec

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_integers = st.integers(-(2**63), 2**64 - 1)
_json = st.recursive(
    st.none() | st.booleans() | _integers | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Returns values of a type, with and without their optional parts."""
    match kind:
        case inspect.StructType():
            fields = {field.name: values_of(field.type) for field in kind.fields if field.required}
            optional = {field.name: values_of(field.type) for field in kind.fields if not field.required}
            return st.fixed_dictionaries(fields, optional=optional).map(lambda found: kind.cls(**found))
        case inspect.UnionType():
            return st.one_of(*map(values_of, kind.types))
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType():
            assert issubclass(kind.cls, enum.Enum)
            return st.sampled_from(kind.cls)
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return _integers
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.StrType():
            return _texts
        case inspect.DictType():
            return st.dictionaries(values_of(kind.key_type), values_of(kind.value_type), max_size=3)
        case inspect.ListType():
            return st.lists(values_of(kind.item_type), max_size=3)
        case inspect.VarTupleType():
            return st.lists(values_of(kind.item_type), max_size=3).map(tuple)
        case inspect.TupleType():
            return st.tuples(*map(values_of, kind.item_types))
        case inspect.AnyType():
            return _json
        case _:
            raise TypeError(f"no values for {kind}")


UNIONS: dict[str, Any] = {"input": inputs.RunInput, "command": commands.RunCommand, "draft": lowering.Draft}
STRATEGIES = {kind: values_of(inspect.type_info(union)) for kind, union in UNIONS.items()}


@pytest.mark.parametrize("kind", UNIONS)
@given(data=st.data())
def test_every_value_is_read_as_it_was_stored(kind: str, data: st.DataObject) -> None:
    """The same type with the same fields; a value that has its default takes no bytes."""
    codec = ValueCodec(kind, UNIONS[kind])
    value = data.draw(STRATEGIES[kind])

    body = codec.encode(value)

    assert codec.decode(codec.schema, body) == value
    stored = msgspec.msgpack.decode(body)
    assert stored.get("type") == type(value).__struct_config__.tag
    defaults = {
        field.encode_name: field for field in msgspec.structs.fields(value) if field.default is not msgspec.NODEFAULT
    }
    assert not [
        name for name, field in defaults.items() if name in stored and getattr(value, field.name) == field.default
    ]
