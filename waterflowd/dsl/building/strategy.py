"""`strategy`: builds a matrix, and checks the parts of it that are static.

Rules of this file: the semantics are GitHub's. Dimensions multiply, `exclude` removes combinations, `include` extends matching
combinations or adds new ones. Each of them, or the whole matrix, may be an expression, which is evaluated in the run.
Numbers that would be rendered differently stay as they are written: `1.20` is the text `1.20`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Sequence

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.contexts import Availability, Instances
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.reading.tree import Path, WrittenFloat, WrittenInt, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import describe, has_expression
from waterflowd.model.matrix import INSTANCES_MAX
from waterflowd.model.plan import Json, MatrixPlan, StrategyPlan
from waterflowd.model.wording import did_you_mean

#: Combinations that are counted one by one; more are always too many, in the engine as well.
_COUNTED_MAX = 16 * INSTANCES_MAX

#: Entries of `include` and of `exclude`.
_ENTRIES_MAX = 256

_LISTS = ("include", "exclude")


class StrategyBuilder:
    """Builds the strategies of one file."""

    def __init__(self, source: SourceFile, expressions: ExpressionChecker) -> None:
        self._source = source
        self._expressions = expressions

    def build(self, path: Path, job: models.Job, available: Availability) -> tuple[StrategyPlan | None, Instances]:
        """The strategy of the job at `path`, and the names that it defines."""
        is_each = job.runs_on is not None and (job.runs_on.target == "each" or job.runs_on.group == "all-servers")
        if job.strategy is None:
            return None, Instances(is_each=is_each)
        model, at = job.strategy, (*path, "strategy")
        for key in ("max-parallel", "fail-fast"):
            value = getattr(model, key.replace("-", "_"))
            self._expressions.value((*at, key), value, available)
        if not model.has("matrix"):
            hint = "write max-parallel under runs-on" if is_each else "add matrix with a list of values, or remove it"
            self._source.warn_key(at, codes.NO_EFFECT, "strategy has no effect without matrix", hint)
            return None, Instances(is_each=is_each)
        if is_each:
            self._check_each(at, job, model)
        self._expressions.value((*at, "matrix"), model.matrix, available)
        matrix = self._matrix((*at, "matrix"), model.matrix)
        plan = StrategyPlan(matrix=matrix, max_parallel=model.max_parallel, fail_fast=model.fail_fast)
        return plan, Instances(has_matrix=True, is_each=is_each, matrix=matrix)

    def _check_each(self, at: Path, job: models.Job, model: models.Strategy) -> None:
        if model.has("fail_fast"):
            text = "fail-fast is not valid with target: each; use max-failures under runs-on"
            self._source.at_key((*at, "fail-fast"), codes.EXCLUSIVE_KEYS, text, "remove it")
        if model.max_parallel is not None and job.runs_on is not None and job.runs_on.max_parallel is not None:
            text = "max-parallel is given twice: here and under runs-on"
            self._source.at_key((*at, "max-parallel"), codes.EXCLUSIVE_KEYS, text, "remove one of them")

    def _matrix(self, at: Path, value: Json) -> MatrixPlan:
        if has_expression(value):
            if isinstance(value, str) and _is_single(value):
                return MatrixPlan(expression=value)
            self._wrong(at, "expected a mapping or a single expression", "remove the text around ${{ }}")
        elif not isinstance(value, dict) or not value:
            self._wrong(at, f"expected a mapping of names to lists, found {describe(value)}")
        else:
            return self._mapping(at, value)
        return MatrixPlan()

    def _mapping(self, at: Path, value: dict[str, Json]) -> MatrixPlan:
        ids = Ids("matrix dimension", self._source.report)
        dimensions: dict[str, Json] = {}
        for name, items in value.items():
            if name in _LISTS:
                continue
            ids.take(name, self._source.document.key_start((*at, name)))
            dimensions[name] = self._list((*at, name), name, items)
        lists = {name: self._combinations((*at, name), name, value, dimensions) for name in _LISTS}
        plan = MatrixPlan(dimensions=dimensions, include=lists["include"], exclude=lists["exclude"])
        self._check_count(at, plan)
        return plan

    def _list(self, at: Path, name: str, items: Json) -> Json:
        """A dimension: a list, or an expression that yields one."""
        if isinstance(items, list):
            if not items:
                self._wrong(at, f"{quote(name)}: expected at least one value")
            written = [_written(item) for item in items]
            self._warn_duplicates(at, name, written)
            return written
        if not has_expression(items):
            hint = "write it as a list" if not isinstance(items, dict) else ""
            self._wrong(at, f"{quote(name)}: expected a list or an expression; found {describe(items)}", hint)
        return plain(items)

    def _warn_duplicates(self, at: Path, name: str, values: list[Json]) -> None:
        seen: set[Hashable] = set()
        for position, value in enumerate(values):
            # True and 1 are equal in Python, but not in a matrix.
            key = (type(value), _hashable(value))
            if key in seen:
                text = f"{quote(name)} has this value twice, so the same instances run twice"
                self._source.warn_value((*at, position), codes.NO_EFFECT, text, "remove one of them")
            seen.add(key)

    def _combinations(self, at: Path, name: str, matrix: dict[str, Json], dimensions: Collection[str]) -> Json:
        """`include` or `exclude`: a list of mappings, or an expression that yields one."""
        items = matrix.get(name)
        if items is None:
            return ()
        if has_expression(items):
            return items
        if not isinstance(items, list):
            self._wrong(at, f"{name}: expected a list of mappings or an expression; found {describe(items)}")
            return ()
        if len(items) > _ENTRIES_MAX:
            text = f"{name} has {len(items):,} entries; the limit is {_ENTRIES_MAX}"
            self._source.at_key(at, codes.BOUND, text)
            return ()
        for position, item in enumerate(items):
            if has_expression(item):
                continue
            if not isinstance(item, dict):
                self._wrong((*at, position), f"{name}: expected a mapping, found {describe(item)}")
            elif name == "exclude":
                known = {dimension.lower() for dimension in dimensions}
                for key in item:
                    if key.lower() not in known:
                        text = f"exclude: the matrix has no dimension {quote(key)}"
                        self._source.at_key(
                            (*at, position, key), codes.WRONG_VALUE, text, did_you_mean(key, dimensions)
                        )
        return tuple(_written(item) for item in items)

    def _check_count(self, at: Path, matrix: MatrixPlan) -> None:
        lists = [items for items in matrix.dimensions.values() if isinstance(items, list)]
        excluded = matrix.exclude if isinstance(matrix.exclude, tuple) else None
        included = matrix.include if isinstance(matrix.include, tuple) else None
        if len(lists) < len(matrix.dimensions) or not all(lists):
            return
        at_least = math.prod(len(items) for items in lists) if lists else 0
        is_decided = excluded is not None and included is not None and expr.is_static([lists, excluded, included])
        if at_least <= _COUNTED_MAX and is_decided:
            at_least = self._counted(at, matrix, excluded or (), included or ())
        elif at_least <= _COUNTED_MAX and excluded != ():
            return
        if at_least > INSTANCES_MAX:
            text = f"the matrix creates {at_least:,} instances; the limit is {INSTANCES_MAX} per job"
            self._source.at_key(at, codes.BOUND, text, "split the job, or loop over one of the dimensions in a step")

    def _counted(self, at: Path, matrix: MatrixPlan, excluded: Sequence[Json], included: Sequence[Json]) -> int:
        """The number of instances; reports an empty matrix, and exclusions that match nothing."""
        names = list(matrix.dimensions)
        all_of_them = [
            dict(zip(names, values, strict=True)) for values in itertools.product(*matrix.dimensions.values())
        ]
        if not names:
            all_of_them = []
        exclusions = _Exclusions(excluded)
        left = [combination for combination in all_of_them if not exclusions.match(combination)]
        for position in exclusions.unused():
            text = "no combination of the matrix matches this entry, so it excludes nothing"
            self._source.warn_value((*at, "exclude", position), codes.NO_EFFECT, text)
        values: dict[tuple[str, ...], set[Hashable]] = {}
        new = 0
        for item in included:
            if isinstance(item, dict):
                # An entry that agrees with a combination in the keys that both have is added to it.
                keys = tuple(key for key in names if key in item)
                if keys not in values:
                    values[keys] = {_values(combination, keys) for combination in left}
                new += _values(item, keys) not in values[keys]
        if not left and not new:
            self._wrong(at, "the matrix has no combinations: it is empty, or exclude removes all of them")
        return len(left) + new

    def _wrong(self, at: Path, message: str, suggestion: str = "") -> None:
        self._source.at_value(at, codes.WRONG_VALUE, f"matrix: {message}", suggestion)


def _is_single(text: str) -> bool:
    try:
        return expr.parse_template(text).single is not None
    except expr.ExpressionError:
        # The error has been reported by the expression checker.
        return True


class _Exclusions:
    """The entries of `exclude`, found by their keys and values: comparing each with each combination would take minutes."""

    def __init__(self, entries: Sequence[Json]) -> None:
        #: Positions of entries by their values, by their keys.
        self._by_keys: dict[tuple[str, ...], dict[Hashable, list[int]]] = {}
        self._positions = {position for position, entry in enumerate(entries) if isinstance(entry, dict)}
        self._used: set[int] = set()
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                keys = tuple(sorted(entry))
                self._by_keys.setdefault(keys, {}).setdefault(_values(entry, keys), []).append(position)

    def match(self, combination: dict[str, Json]) -> bool:
        """Whether an entry excludes the combination; all that do are used."""
        found = False
        for keys, by_values in self._by_keys.items():
            if positions := by_values.get(_values(combination, keys)):
                self._used.update(positions)
                found = True
        return found

    def unused(self) -> list[int]:
        """The entries that no combination matched."""
        return sorted(self._positions - self._used)


def _values(item: dict[str, Json], keys: tuple[str, ...]) -> Hashable:
    return tuple([_hashable(item.get(key)) for key in keys])


def _hashable(value: Json) -> Hashable:
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    found: Hashable = value
    return found


def _written(value: Json) -> Json:
    """The value as JSON; a number that JSON would write differently becomes text as written."""
    match value:
        case dict():
            return {key: _written(item) for key, item in value.items()}
        case list():
            return [_written(item) for item in value]
        case WrittenInt() | WrittenFloat():
            number = plain(value)
            return number if expr.to_text(number) == value.text else value.text
    return value
