"""`runs-on`, `concurrency` and `environment` as a plan has them."""

from __future__ import annotations

import re

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import ConcurrencyPlan, EnvironmentPlan, Offline, Queue, TargetPlan

#: The built-in group of every server; a job that names it runs on each of them.
ALL_SERVERS = "all-servers"

_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAME_CHARACTERS_MAX = 200
#: Keys of `runs-on` that only apply to a job on every server.
_EACH_KEYS = ("batch", "max-parallel", "max-failures", "pause", "offline", "wait-minutes")


#: GitHub's words for what happens to those that wait.
_QUEUES_OF_GITHUB = {"max": Queue.FIFO.value, "single": Queue.LATEST.value}


class PlacementBuilder:
    """Builds where and when the jobs of one file run."""

    def __init__(self, source: SourceFile, expressions: ExpressionChecker) -> None:
        self._source = source
        self._expressions = expressions

    def target(self, path: Path, runs_on: models.RunsOn, available: Availability) -> TargetPlan | None:
        """Checks `runs-on` at `path`; the plan of `target: each`, None for one server."""
        self._group(path, runs_on.group, available)
        for key, value in (
            ("labels", dict(runs_on.labels)),
            ("batch", runs_on.batch),
            ("max-parallel", runs_on.max_parallel),
            ("max-failures", runs_on.max_failures),
        ):
            self._expressions.value((*path, key), value, available)
        if runs_on.target is None and runs_on.group != ALL_SERVERS:
            for key in runs_on.present_keys():
                if key in _EACH_KEYS:
                    text = f"{key} is only valid with target: each"
                    self._source.at_key((*path, key), codes.EXCLUSIVE_KEYS, text, "add target: each, or remove it")
            return None
        if runs_on.has("wait_minutes") and runs_on.offline != "wait":
            text = "wait-minutes is only valid with offline: wait"
            self._source.at_key((*path, "wait-minutes"), codes.EXCLUSIVE_KEYS, text, "add offline: wait, or remove it")
        if runs_on.pause and runs_on.batch is None:
            text = "pause is the time between batches, but there is only one batch"
            self._source.at_key((*path, "pause"), codes.EXCLUSIVE_KEYS, text, "add batch, such as batch: 25%")
        return TargetPlan(
            batch=tuple(runs_on.batch or ()),
            max_parallel=runs_on.max_parallel,
            max_failures=runs_on.max_failures,
            pause_ms=runs_on.pause,
            offline=Offline(runs_on.offline),
            wait_ms=round(runs_on.wait_minutes * 60_000),
        )

    def _group(self, path: Path, group: str, available: Availability) -> None:
        at: Path = (*path, "group")
        if not expr.is_static(group):
            self._expressions.text(at, group, available)
        elif not _GROUP.fullmatch(group):
            text = f"{quote(group)} is not a valid group name: use letters, digits, _, - and ., at most 100 characters"
            self._source.at_value(at, codes.WRONG_VALUE, text)

    def concurrency(
        self, path: Path, model: models.Concurrency | None, available: Availability
    ) -> ConcurrencyPlan | None:
        """The plan of the `concurrency` at `path`."""
        if model is None:
            return None
        self._expressions.text((*path, "group"), model.group, available)
        self._expressions.value((*path, "cancel-in-progress"), model.cancel_in_progress, available)
        self._check_name((*path, "group"), "concurrency", model.group)
        if model.cancel_in_progress is True and model.queue == "reject":
            text = "cancel-in-progress: true and queue: reject contradict each other"
            self._source.at_key((*path, "cancel-in-progress"), codes.EXCLUSIVE_KEYS, text, "remove one of them")
        return ConcurrencyPlan(
            group=model.group,
            limit=model.limit,
            queue=Queue(_QUEUES_OF_GITHUB.get(model.queue, model.queue)),
            cancel_in_progress=model.cancel_in_progress,
        )

    def environment(
        self, path: Path, model: models.DeploymentEnvironment | None, available: Availability
    ) -> EnvironmentPlan | None:
        """The plan of the `environment` at `path`."""
        if model is None:
            return None
        self._expressions.text((*path, "name"), model.name, available)
        self._check_name((*path, "name"), "environment", model.name)
        self._expressions.value((*path, "deployment"), model.deployment, available)
        minimum = model.minimum if model.minimum is not None else 1 if model.approvers else 0
        if model.approvers and minimum > len(set(model.approvers)):
            text = f"minimum: {minimum} approvals are required, but `approvers` lists only {len(set(model.approvers))}"
            self._source.at_value((*path, "minimum"), codes.WRONG_VALUE, text)
        return EnvironmentPlan(
            name=model.name,
            approvers=tuple(dict.fromkeys(model.approvers)),
            minimum=minimum,
            may_approve_own=model.may_approve_own,
        )

    def _check_name(self, at: Path, what: str, name: str) -> None:
        if len(name) > _NAME_CHARACTERS_MAX:
            text = f"{what}: the name has {len(name):,} characters; the limit is {_NAME_CHARACTERS_MAX}"
            self._source.at_value(at, codes.BOUND, text)
        elif not name.isprintable():
            self._source.at_value(at, codes.WRONG_VALUE, f"{what}: the name {quote(name)} contains control characters")
