"""Block scope: the names that the steps of a block can use, what they inherit, and what is visible from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.uses.checkouts import Checkouts
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.reading.tree import Path
from waterflowd.model.plan import StepPlan

#: The node of a composite step.
COMPOSITE = "composite"
#: Nesting of blocks.
DEPTH_MAX = 16


@dataclass(frozen=True, kw_only=True)
class ScriptDefaults:
    """`defaults.run`, workflow and job together."""

    shell: str | None = None
    working_directory: str | None = None

    def over(self, defaults: models.Defaults) -> ScriptDefaults:
        """These defaults, overridden by those of a narrower scope."""
        run = defaults.run
        return ScriptDefaults(
            shell=run.shell or self.shell, working_directory=run.working_directory or self.working_directory
        )


@dataclass(frozen=True, kw_only=True)
class BlockScope:
    """The scope of a block of steps."""

    #: The names that its expressions may use, except for the steps of the block itself.
    available: Availability
    #: Named steps that have run, in this block and the enclosing ones.
    visible: expr.Names = field(default_factory=expr.Names)
    ids: Ids | None = None
    #: Names of the items of the enclosing loops.
    loops: tuple[str, ...] = ()
    depth: int = 1
    #: Secrets in the environments of the enclosing steps, job and workflow.
    secrets: tuple[str, ...] = ()
    defaults: ScriptDefaults = ScriptDefaults()
    #: Collects what steps add to the files of the job's directory; None for the file of a composite step.
    checkouts: Checkouts | None = None
    #: Timeout of the job.
    timeout_minutes: float | str = "unknown"
    #: Names of the environment variables that the workflow and the job set.
    variables: frozenset[str] = frozenset()

    def with_loop(self, contexts: Mapping[str, Any]) -> BlockScope:
        """The scope of a loop's body."""
        names = tuple(name for name in contexts if name != "loop")
        return replace(self, available=self.available.within(contexts), loops=(*self.loops, *names))


#: Builds the steps of the block at a path of the file.
BuildBlock = Callable[[Path, list[models.Step], BlockScope], tuple[StepPlan, ...]]


class UnreachableSteps:
    """Why the other named steps of a block cannot be used: they have not run yet, or they are inside an earlier step."""

    def __init__(self, block: expr.Names, visible: expr.Names) -> None:
        self._block = block
        self._visible = visible
        self._inside: dict[str, str] = {}

    def add_inside(self, plan: StepPlan) -> None:
        """Adds the steps inside a step that was built."""
        self._inside |= _names_run_inside(plan)

    def reason(self, context: str, name: str) -> str | None:
        """See `OutOfReach`."""
        if context != "steps":
            return None
        step = self._block.get(name)
        if step is not None and step not in self._visible:
            return f"the step {quote(step)} has not run yet; only earlier steps can be used"
        return self._inside.get(name)


def _names_run_inside(plan: StepPlan) -> dict[str, str]:
    """Why the steps inside a step cannot be used after it, by name in lower case."""
    if plan.node == COMPOSITE:
        return {}
    hint = "write the value to $WATERFLOW_ENV there, and use env"
    if plan.node == "loop":
        results = f"steps.{plan.id}.outputs.results"
        hint = f"use {results}" if plan.is_named else "give the loop an id, and use steps.<id>.outputs.results"
    sentence = "the step {0} runs inside another step, so it cannot be used after it; {1}"
    return {inner.id.lower(): sentence.format(quote(inner.id), hint) for inner in _all_inner(plan) if inner.is_named}


def _all_inner(plan: StepPlan) -> Iterator[StepPlan]:
    for block in plan.blocks:
        for step in block.steps:
            yield step
            if step.node != COMPOSITE:
                yield from _all_inner(step)


def with_secrets(step: StepPlan, names: tuple[str, ...]) -> StepPlan:
    """The step and all steps inside it, with the secrets of the enclosing environment."""
    if not names:
        return step
    blocks = tuple(
        msgspec.structs.replace(block, steps=tuple(with_secrets(inner, names) for inner in block.steps))
        for block in step.blocks
    )
    return msgspec.structs.replace(step, blocks=blocks, secrets=tuple(dict.fromkeys((*names, *step.secrets))))
