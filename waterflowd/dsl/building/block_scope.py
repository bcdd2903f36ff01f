"""What a block of steps stands in: which names it sees, what it takes over, and what is seen of it from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.reading.tree import Path
from waterflowd.model.plan import StepPlan

#: The node of a step that is steps of another file.
COMPOSITE = "composite"
#: Nesting of blocks.
DEPTH_MAX = 16


@dataclass(frozen=True, kw_only=True)
class ScriptDefaults:
    """`defaults.run`, workflow and job together."""

    shell: str | None = None
    working_directory: str | None = None

    def over(self, defaults: models.Defaults) -> ScriptDefaults:
        """These, with what a narrower scope says over them."""
        run = defaults.run
        return ScriptDefaults(
            shell=run.shell or self.shell, working_directory=run.working_directory or self.working_directory
        )


@dataclass(frozen=True, kw_only=True)
class BlockScope:
    """What a block stands in."""

    #: What its expressions may use, but for the steps of the block itself.
    available: Availability
    #: Named steps of the blocks around it that have run.
    visible: tuple[str, ...] = ()
    ids: Ids | None = None
    #: What the loops around it call their items.
    loops: tuple[str, ...] = ()
    depth: int = 1
    #: Secrets in the environment of everything around it.
    secrets: tuple[str, ...] = ()
    defaults: ScriptDefaults = ScriptDefaults()
    #: The job's; None where it is not known.
    timeout_minutes: float | str = "unknown"

    def with_loop(self, contexts: Mapping[str, Any]) -> BlockScope:
        """The surroundings of a loop's body."""
        names = tuple(name for name in contexts if name != "loop")
        return replace(self, available=self.available.within(contexts), loops=(*self.loops, *names))


#: Builds the steps of a block, which stand at a path of the file.
BuildBlock = Callable[[Path, list[models.Step], BlockScope], tuple[StepPlan, ...]]


def names_not_yet_run(names: list[str]) -> dict[tuple[str, str], str]:
    return {
        ("steps", name.lower()): f"the step {quote(name)} has not run yet; only earlier steps can be used"
        for name in names
    }


def names_run_inside(plan: StepPlan) -> dict[tuple[str, str], str]:
    """What is said of the steps inside of a step when somebody after it names them."""
    if plan.node == COMPOSITE:
        return {}
    hint = "write the value to $WATERFLOW_ENV there, and use env"
    if plan.node == "loop":
        results = f"steps.{plan.id}.outputs.results"
        hint = f"use {results}" if plan.is_named else "give the loop an id, and use steps.<id>.outputs.results"
    sentence = "the step {0} runs inside another step, so it cannot be used after it; {1}"
    return {
        ("steps", inner.id.lower()): sentence.format(quote(inner.id), hint)
        for inner in _all_inner(plan)
        if inner.is_named
    }


def _all_inner(plan: StepPlan) -> Iterator[StepPlan]:
    for block in plan.blocks:
        for step in block.steps:
            yield step
            if step.node != COMPOSITE:
                yield from _all_inner(step)


def with_secrets(step: StepPlan, names: tuple[str, ...]) -> StepPlan:
    """The step, and all inside of it, with the secrets of the environment around it."""
    if not names:
        return step
    blocks = tuple(
        msgspec.structs.replace(block, steps=tuple(with_secrets(inner, names) for inner in block.steps))
        for block in step.blocks
    )
    return msgspec.structs.replace(step, blocks=blocks, secrets=tuple(dict.fromkeys((*names, *step.secrets))))
