"""A matrix compared with a second, straightforward implementation of GitHub's rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.errors import Rejected
from waterflowd.engine.rules import matrix
from waterflowd.model.matrix import instances

_VALUES = st.sampled_from([1, 2, "a", "b", True, None, 1.5])
_ENTRIES = st.lists(st.dictionaries(st.sampled_from("xyzw"), _VALUES, max_size=3), max_size=4)


def by_hand(dimensions: dict[str, list[Any]], include: list[dict[str, Any]], exclude: list[dict[str, Any]]) -> Any:
    """Expands one dimension after the other, applies `exclude`, and then places each entry of `include`."""
    many: list[dict[str, Any]] = [{}] if dimensions else []
    for name, values in dimensions.items():
        many = [{**one, name: value} for one in many for value in values]
    many = [one for one in many if not any(entry.items() <= one.items() for entry in exclude)]
    combinations = [(dict(one), one) for one in many]
    for entry in include:
        has_place = False
        for original, one in combinations:
            changes = [name for name in entry if name in original and original[name] != entry[name]]
            if not changes:
                one.update(entry)
                has_place = True
        if not has_place:
            many.append(dict(entry))
    return many


@given(
    dimensions=st.dictionaries(st.sampled_from("xyz"), st.lists(_VALUES, max_size=3), max_size=3),
    include=_ENTRIES,
    exclude=_ENTRIES,
)
def test_matrix_instances_match_github(
    dimensions: dict[str, list[Any]], include: list[dict[str, Any]], exclude: list[dict[str, Any]]
) -> None:
    """The order is product, `exclude`, `include`; an empty matrix is refused; keys are unique and short."""
    expected = by_hand(dimensions, include, exclude)
    if not expected:
        with pytest.raises(Rejected, match="no instance"):
            instances(dimensions, include, exclude)
        return
    found = instances(dimensions, include, exclude)
    assert found == expected
    keys = matrix.keys(found)
    assert len(set(keys)) == len(keys) == len(found)
    assert all(0 < len(key) <= matrix.KEY_LENGTH_MAX + 5 and "/" not in key for key in keys)


@given(values=st.lists(st.text(max_size=80), min_size=1, max_size=12))
def test_keys_of_any_texts_are_unique_names(values: list[str]) -> None:
    """Keys become parts of job ids, so they must be valid for any values."""
    keys = matrix.keys([{"x": value} for value in values])
    assert len(set(keys)) == len(values)
    assert not any(character in key for key in keys for character in "/[] \n")


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    total=st.integers(1, 200),
)
def test_batches_cover_all_servers_in_order(sizes: list[int], total: int) -> None:
    """The sizes are used one after the other, and the last one is repeated."""
    ends = matrix.batches(sizes, total)
    assert ends[-1] == total
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    expected = [*sizes, *[sizes[-1]] * total]
    assert lengths[:-1] == expected[: len(lengths) - 1]
    assert 1 <= lengths[-1] <= expected[len(lengths) - 1]


@given(share=st.integers(0, 100), total=st.integers(0, 4096))
def test_shares_are_rounded_exactly(share: int, total: int) -> None:
    """Batches are rounded up and failures down, without floating-point errors."""
    assert matrix.size(f"{share}%", total, "batch", is_rounded_up=True) == -(-total * share // 100)
    assert matrix.size(f"{share}%", total, "max-failures", is_rounded_up=False) == total * share // 100
