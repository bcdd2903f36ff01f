"""A repository whose files start by schedule, by webhook and after other workflows, and the people who push to it.

Rules of this file: it has one branch, so only what is applied there counts; the other repository covers updates of
other refs. The first word of a text says what starts the file: `tick:every-2000:skip:last`,
`after:workflows/tick.yml:success`, `hook`, `push`, `manual`, `broken`.
"""

from __future__ import annotations

import random

import msgspec

from tests.simulator import plans as rows
from tests.simulator.environment import Environment
from tests.simulator.outside.repository import KINDS, MAIN, SOURCE_FILE, Repository, kind
from waterflowd.model import plan as plans
from waterflowd.model.ids import repository_stream
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger, Triggers, WebhookTrigger, WorkflowRunTrigger
from waterflowd.model.records import Batch
from waterflowd.reconcile.events import RevisionApplied
from waterflowd.reconcile.settings import RepositorySettings

TICK, TOCK = "workflows/tick.yml", "workflows/tock.yml"
HOOK, HOOK_NAME, HOOK_SECRET = "workflows/hook.yml", "deploy", "secret of the hook"
NEXT, LAST = "workflows/next.yml", "workflows/last.yml"
#: How long a run takes: mostly less than the time between two instants, sometimes longer than people wait.
_DURATIONS_MS = (10, 10, 100, 700, 3_000, 12_000)
_PERIODS_MS = (2_000, 3_000, 5_000, 7_000)
_ZONE = "UTC"


class Triggered(Repository):
    """See the file's docstring."""

    paths = (TICK, TOCK, HOOK, NEXT, LAST)

    def __init__(self, environment: Environment, dice: random.Random, groups: tuple[str, ...]) -> None:
        settings = RepositorySettings(name="events", url="", refs=("main",), interval_ms=3_000)
        pushed = rows.make_pushed(dice, groups)
        (job,) = pushed.jobs
        (step,) = job.steps
        step = msgspec.structs.replace(step, params={"run": f"d={dice.choice(_DURATIONS_MS)} p=1 x=0"})
        plan = msgspec.structs.replace(pushed, jobs=(msgspec.structs.replace(job, steps=(step,)),))
        super().__init__(environment, dice, plan, settings)
        files = {path: f"{self._word(path)} first".encode() for path in self.paths if dice.random() < 0.7}
        self._commit(files, (MAIN,))

    def begin(self) -> None:
        """People start to push."""
        for _ in range(self._dice.choice((1, 2, 4, 7))):
            self._environment.loop.outside(self._dice.uniform(0.0, 20.0), self._do_something)

    def triggers(self, path: str, content: bytes) -> Triggers | None:
        """Returns the triggers of a file; None for a broken one."""
        del path
        says = kind(content)
        if says.startswith("tick:"):
            return Triggers(schedules=tuple(_schedule(text) for text in says.split(",")))
        if says.startswith("after:"):
            _, names, conclusions = says.split(":")
            asks = WorkflowRunTrigger(workflows=tuple(names.split(",")), conclusions=_words(conclusions))
            return Triggers(workflow_run=asks)
        if says == "hook":
            return Triggers(webhook=WebhookTrigger(name=HOOK_NAME, secret="HOOK"))
        return KINDS[says]

    def schedules(self, commit: str) -> dict[tuple[str, str], ScheduleTrigger]:
        """Returns the schedules of a commit's files, by path and expression."""
        return {
            (path, schedule.cron): schedule
            for path, text in self.commits[commit].files.items()
            if path in self.paths and (triggers := self.triggers(path, text)) is not None
            for schedule in triggers.schedules
        }

    def is_hooked(self, commit: str) -> bool:
        """Returns whether the commit has a valid file with the webhook."""
        text = self.commits[commit].files.get(HOOK, b"broken")
        triggers = self.triggers(HOOK, text)
        return triggers is not None and triggers.webhook is not None

    def applied(self, batch: Batch) -> str | None:
        """Returns the commit that a transaction records as applied, if it records one."""
        stream = repository_stream(self.settings.name)
        facts = [fact for append in batch.appends if append.stream == stream for fact in append.events]
        return next((fact.commit for fact in reversed(facts) if isinstance(fact, RevisionApplied)), None)

    # People -----------------------------------------------------------------------------------------------------------

    def _do_something(self) -> None:
        action = self._dice.random()
        if action < 0.6:
            self._push_something((MAIN,))
        elif action < 0.75:
            self._move(MAIN, self._dice.choice(list(self.commits)), "is forced to")
        elif action < 0.9:
            self._suspend()
        else:
            self.sync()

    def _path(self) -> str:
        return self._dice.choice((*self.paths, NEXT, LAST, NEXT, LAST, SOURCE_FILE))

    def _word(self, path: str) -> str:
        dice = self._dice
        if dice.random() < 0.2:
            return dice.choice(("push", "manual", "broken"))
        if path == HOOK:
            return "hook"
        if path in (NEXT, LAST):
            others = [other for other in self.paths if other != path]
            names = dice.sample(others, dice.choice((1, 1, 2)))
            if dice.random() < 0.4:
                # Two files that follow each other form a chain.
                names = sorted({*names, LAST if path == NEXT else NEXT})
            return f"after:{','.join(names)}:{dice.choice(('', 'success', 'success,lost', 'failure,lost,cancelled'))}"
        periods = dice.sample(_PERIODS_MS, dice.choice((1, 1, 2)))
        return ",".join(
            f"tick:every-{period}:{dice.choice(list(Overlap)).value}:{dice.choice(list(CatchUp)).value}"
            for period in periods
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _schedule(text: str) -> ScheduleTrigger:
    _, every, overlap, catch_up = text.split(":")
    return plans.ScheduleTrigger(
        cron=every.replace("-", " "), timezone=_ZONE, overlap=Overlap(overlap), catch_up=CatchUp(catch_up)
    )
