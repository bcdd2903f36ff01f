"""What a composite step does with values of its caller that only the server knows, such as secrets.

Its file is compiled without its callers. So where a caller passes such a value, as an input or in its environment, the steps of
the file are searched for expressions that would compute with it, or that the daemon would record.

Rules of this file: for each input and variable inside the file, it is known which values of the caller it contains (its
sources). Sources follow values through `env`, and through the inputs of composite steps that the file uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from waterflow_agent.nodes import schema
from waterflowd import expr
from waterflowd.dsl.building import server_values
from waterflowd.dsl.building.block_scope import COMPOSITE
from waterflowd.dsl.building.contexts import ServerValue
from waterflowd.dsl.building.embedded_expressions import condition_nodes, embedded
from waterflowd.model.plan import Json, StepPlan

#: The context and the name by which the caller has passed a value; the name is in lower case.
Source = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class CallerValues:
    """The names that contain values that only the server knows, in lower case, with their sources."""

    inputs: Mapping[str, frozenset[Source]] = field(default_factory=dict)
    env: Mapping[str, frozenset[Source]] = field(default_factory=dict)

    def sources(self, context: str, name: str) -> frozenset[Source]:
        """The sources of a use; an empty name stands for all names of the context."""
        names = self.inputs if context == "inputs" else self.env if context == "env" else {}
        return names.get(name.lower(), frozenset()) if name else frozenset().union(*names.values())


def values_of_caller(arguments: Mapping[str, Json], variables: Mapping[str, ServerValue]) -> CallerValues:
    """The values that a step with these arguments and variables passes on."""
    texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
    inputs = server_values.variables_with(texts, variables)
    return CallerValues(
        inputs={name.lower(): frozenset({("inputs", name.lower())}) for name in texts if name.lower() in inputs},
        env={name: frozenset({("env", name)}) for name in variables},
    )


def computed(steps: Iterable[StepPlan], outputs: Mapping[str, Json], values: CallerValues) -> set[Source]:
    """The values with which the steps compute, or that the outputs would record."""
    if not values.inputs and not values.env:
        return set()
    found = {source for step in steps for source in _of_step(step, values)}
    return found | set(_of_texts(outputs, values, is_sent=False))


def _of_step(step: StepPlan, outer: CallerValues) -> Iterator[Source]:
    yield from _of_texts(dict(step.env), outer, is_sent=True)
    values = replace(outer, env=_with_layer(outer.env, step.env, outer))
    yield from _of_condition(step.condition, values)
    is_sent = (step.node == COMPOSITE or _is_sent(step.node)) and not step.is_unsafe
    yield from _of_texts([step.name, step.timeout_minutes, step.continue_on_error], values, is_sent=False)
    yield from _of_texts([step.params, step.working_directory], values, is_sent=is_sent)
    for key in ("if", "while"):
        if not is_sent and isinstance(condition := step.params.get(key), str):
            yield from _of_condition(condition, values)
    inside = values
    if step.node == COMPOSITE:
        inside = replace(values, inputs=_with_layer({}, step.params, values))
        yield from _of_texts(step.outputs, inside, is_sent=False)
    for block in step.blocks:
        yield from (source for inner in block.steps for source in _of_step(inner, inside))


def _is_sent(node: str) -> bool:
    known = schema.find(node)
    return known is None or known.runs_in is not schema.RunsIn.ENGINE


def _with_layer(
    below: Mapping[str, frozenset[Source]], layer: Mapping[str, Json], values: CallerValues
) -> Mapping[str, frozenset[Source]]:
    """The names with sources after a layer over those below."""
    found = dict(below)
    for name, value in layer.items():
        sources = frozenset(
            source for use in _uses(embedded(value), values) for source in values.sources(use.context, use.name)
        )
        if sources:
            found[name.lower()] = sources
        else:
            found.pop(name.lower(), None)
    return found


def _of_condition(condition: str | None, values: CallerValues) -> Iterator[Source]:
    yield from _sources(condition_nodes(condition), values, is_sent=False)


def _of_texts(value: object, values: CallerValues, *, is_sent: bool) -> Iterator[Source]:
    yield from _sources(embedded(value), values, is_sent=is_sent)


def _sources(nodes: Iterable[expr.Node], values: CallerValues, *, is_sent: bool) -> Iterator[Source]:
    for use in _uses(nodes, values):
        if use.is_computed or not is_sent:
            yield from values.sources(use.context, use.name)


def _uses(nodes: Iterable[expr.Node], values: CallerValues) -> Iterator[server_values.Use]:
    inputs, env = (dict.fromkeys(names, ServerValue.SECRET) for names in (values.inputs, values.env))
    for node in nodes:
        yield from server_values.uses(node, env, inputs)
