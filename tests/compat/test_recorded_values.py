"""Inputs, commands, drafts, orders, answers and rows that every release stored are read by this one (G10)."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest

import waterflowd
from tests.compat import record_values
from waterflowd.engine import commands, inputs
from waterflowd.model.codec import UnreadableError, ValueCodec
from waterflowd.temporal import orders

RELEASES = sorted(path.stem for path in record_values.VALUES.glob("*.json"))


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_value_is_read_unchanged(release: str) -> None:
    """This includes every type and every field."""
    codecs = record_values.codecs()
    for recorded in record_values.recorded(release):
        value = codecs[recorded.kind].decode(recorded.schema, bytes.fromhex(recorded.body))

        found = record_values.plain(value)
        assert {name: found[name] for name in recorded.value} == recorded.value


def test_this_release_stores_what_it_has_recorded() -> None:
    """A change of what is stored is visible: the recording is made again in the same commit."""
    assert record_values.recorded(waterflowd.__version__) == record_values.recording()


def _classes(module: ModuleType, base: type) -> set[type]:
    """The classes of a module that derive from `base`, without those that others derive from."""
    found = {item for item in vars(module).values() if isinstance(item, type) and issubclass(item, base)}
    return {each for each in found if not any(each is not other and issubclass(other, each) for other in found)}


@pytest.mark.parametrize(
    ("module", "base", "union"),
    [
        (inputs, inputs.Input, inputs.RunInput),
        (commands, commands.Command, commands.RunCommand),
        (orders, orders.Order, orders.AnyOrder),
    ],
    ids=["inputs", "commands", "orders"],
)
def test_every_class_is_in_the_union_under_a_tag_of_its_name(module: ModuleType, base: type, union: Any) -> None:
    """A class that was forgotten could not be stored, and could not be read again."""
    classes = _classes(module, base)

    assert set(get_args(union)) == classes
    assert {each.__name__: each.__struct_config__.tag for each in classes} == {  # type: ignore[attr-defined]
        each.__name__: re.sub(r"(?<!^)(?=[A-Z])", "-", each.__name__).lower() for each in classes
    }


def test_a_class_outside_of_the_union_is_found() -> None:
    """The test above detects it."""
    module = ModuleType("made_up")

    class Known(inputs.Input, frozen=True, kw_only=True, tag="known"):
        pass

    vars(module).update(Input=inputs.Input, Known=Known)
    assert _classes(module, inputs.Input) == {Known}


@pytest.mark.parametrize("kind", ["input", "command", "order"])
def test_a_type_that_this_release_does_not_know_is_refused(kind: str) -> None:
    """It comes from a newer release; to skip it would lose what happened or what must be done."""
    body = msgspec.msgpack.encode({"type": "made-up"})
    with pytest.raises(UnreadableError, match='its type is "made-up"') as found:
        record_values.codecs()[kind].decode(1, body)
    text = str(found.value.stalled("the input of run X"))
    assert "this release cannot read the input of run X" in text
    assert "upgrade Waterflow" in text
    assert "WF401" in text


def test_a_newer_schema_is_refused_and_an_older_one_is_converted() -> None:
    """The rules of events apply: each version's upcaster runs once, and only for its kind and type."""
    body = msgspec.msgpack.encode({"type": "cancel-run", "who": "ada"})
    upcasters = {
        ("input", "cancel-run", 1): lambda value: {"type": value["type"], "by": value["who"]},
        ("input", "cancel-run", 2): lambda value: value | {"is_forced": True},
        ("command", "cancel-run", 2): lambda value: value | {"by": "another kind"},
    }
    codec = ValueCodec("input", inputs.RunInput, schema=3, upcasters=upcasters)

    assert codec.decode(1, body) == inputs.CancelRun(by="ada", is_forced=True)
    with pytest.raises(UnreadableError, match="it has schema 4; this release knows schemas up to 3"):
        codec.decode(4, body)


@pytest.mark.parametrize("release", RELEASES)
def test_a_packed_value_names_its_schema(release: str) -> None:
    """Where only bytes are stored, they begin with the schema: an array of the schema and the value."""
    codecs = record_values.codecs()
    for recorded in record_values.recorded(release):
        packed = bytes.fromhex(f"92{recorded.schema:02x}{recorded.body}")
        value = codecs[recorded.kind].unpack(packed)
        assert value == codecs[recorded.kind].decode(recorded.schema, bytes.fromhex(recorded.body))
    assert codecs["input"].pack(inputs.CancelRun(by="ada")).hex() == "920182" + (
        b"\xa4type\xaacancel-run\xa2by\xa3ada".hex()
    )


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x92\x02\x81\xa4type\xa1x", b"\x92\x01\x80"])
def test_a_packed_value_that_is_not_understood_is_refused(packed: bytes) -> None:
    """Damaged bytes, a newer schema and an unknown type are errors, never another value."""
    with pytest.raises(UnreadableError):
        record_values.codecs()["input"].unpack(packed)
