"""`uses: actions/cache` is a step that restores, and one at the end that saves, as on GitHub.

Rules of this file: the files are saved if everything before has succeeded, and no entry had the key. The second step has the
key that the first one has evaluated. It is the last of the block: of the job, or of the composite step that uses the action.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from waterflowd.dsl import models
from waterflowd.model.ids import StepId
from waterflowd.model.plan import StepPlan

_ACTION = re.compile(r"actions/cache@[A-Za-z0-9._/-]+")
_RESTORE, _SAVE = "cache/restore", "cache/save"
#: Parameters that both steps have.
_SHARED = ("path", "scope")


def is_cache(step: models.Step) -> bool:
    """Whether a step uses GitHub's action, which also saves."""
    return step.uses is not None and _ACTION.fullmatch(step.uses) is not None


def with_saves(steps: Sequence[StepPlan], restoring: set[StepId], count: int) -> tuple[StepPlan, ...]:
    """The steps of a block, with those at its end that save; `count` is the number of steps that the file has."""
    if not restoring:
        return tuple(steps)
    # The conditions refer to the steps, which need not have a name.
    named = [msgspec.structs.replace(step, is_named=True) if step.id in restoring else step for step in steps]
    chosen = [step for step in named if step.id in restoring and step.node == _RESTORE]
    # As GitHub does: the one that restored last saves first.
    saves = (_save(step, count + number) for number, step in enumerate(reversed(chosen), 1))
    return (*named, *saves)


def _save(restore: StepPlan, number: int) -> StepPlan:
    step = f"steps['{restore.id}']"
    params = {name: value for name, value in restore.params.items() if name in _SHARED}
    return msgspec.structs.replace(
        restore,
        id=StepId(str(number)),
        is_named=False,
        name=f"Post {restore.name}",
        node=_SAVE,
        params={"key": f"${{{{ {step}.outputs.cache-primary-key }}}}", **params},
        condition=f"success() && {step}.outcome == 'success' && {step}.outputs.cache-hit != 'true'",
        continue_on_error=True,
    )
