"""What the loops of all repositories share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from waterflowd.access.policy import AccessPolicy
from waterflowd.ports import Clock, Compiler, History, RunEnds, Runs
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.loop.webhook_registry import WebhookRegistry


async def no_other_leader(name: str) -> None:
    """This daemon leads all repositories."""


@dataclass(frozen=True, kw_only=True)
class LoopPorts:
    """Ports, caches and clocks of the reconcile loops."""

    history: History
    runs: Runs
    compiler: Compiler
    clock: Clock
    plans: PlanCache
    #: A number from 0 to 1, for jitter.
    random: Callable[[], float]
    #: The names of webhooks, which all repositories share.
    webhooks: WebhookRegistry = field(default_factory=WebhookRegistry)
    #: What the workflows of all repositories may use.
    access: AccessPolicy = field(default_factory=AccessPolicy)
    #: The ends of the runs of a repository, by its name, for `workflow_run` triggers.
    ends_of: Callable[[str], RunEnds | None] = lambda name: None
    #: Tells the daemon that leads a repository, by its name, that there are changes to apply. Without one, this daemon leads.
    ask_leader: Callable[[str], Awaitable[None]] = no_other_leader
    #: The wall clock in ms, used only for schedules and signatures. It may jump.
    wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000
