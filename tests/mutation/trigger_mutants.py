"""Mutants of schedules, webhooks and workflow_run triggers; see mutants.py."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_SCHEDULES, _SCHEDULER = "waterflowd.reconcile.schedules", "waterflowd.reconcile.loop.scheduler"
_WORKFLOW_RUN, _WORKFLOW_RUN_TRIGGERS = (
    "waterflowd.reconcile.workflow_run",
    "waterflowd.reconcile.loop.workflow_run_triggers",
)
_WEBHOOKS, _REGISTRY = "waterflowd.reconcile.webhooks", "waterflowd.reconcile.loop.webhook_registry"
_STATE = "waterflowd.reconcile.state"

MUTANTS: tuple[Mutant, ...] = (
    # Schedules.
    Mutant(
        f"{_SCHEDULER}:Scheduler._start",
        "await self._repository.apply(decision.facts, (request,))",
        "await self._repository.apply(decision.facts, ()); await self._ports.runs.start(request)",
        "a due time and its run are two transactions",
    ),
    Mutant(
        f"{_SCHEDULER}:Scheduler._tick",
        "for number, schedule in enumerate(list(state.schedules.values()), start=1):",
        "for number, schedule in enumerate(list(state.schedules.values())[:1], start=1):",
        "only one of several schedules is considered",
    ),
    Mutant(
        f"{_SCHEDULER}:Scheduler._tick",
        "if state.is_suspended:\n            # It was suspended",
        "if False:\n            # It was suspended",
        "a schedule is decided after its repository was suspended",
    ),
    Mutant(
        f"{_SCHEDULER}:Scheduler._compare",
        "if facts:",
        "if facts and not self._repository.state.schedules:",
        "changed schedules are ignored",
    ),
    Mutant(
        f"{_SCHEDULER}:Scheduler._decide",
        "if decision.is_cancelling:",
        "if False:",
        "a run is not cancelled for a newer due time",
    ),
    Mutant(
        f"{_STATE}:_evolve_schedules",
        "schedule.handled_at = max(schedule.handled_at, fact.due_at)",
        "pass",
        "a due time is decided again",
    ),
    Mutant(
        f"{_SCHEDULES}:changes",
        "before.handled_at if before is not None else wall_at",
        "wall_at - 60_000",
        "a new schedule catches up earlier times",
    ),
    Mutant(f"{_SCHEDULES}:went_back", "> CLOCK_BACK_MAX_MS", "> 10**12", "a corrected clock stops a schedule"),
    Mutant(f"{_SCHEDULES}:is_due", "or bool(schedule.queued)", "", "a queued due time waits for the next one"),
    Mutant(
        f"{_SCHEDULES}:decide",
        "for due_at in to_start:",
        "for due_at in to_start[-1:]:",
        "only the newest of several due times is decided",
    ),
    Mutant(f"{_SCHEDULES}:_Decider.take_queued", "and not self.is_busy", "", "two runs of a schedule are open"),
    # Workflow_run triggers.
    Mutant(
        f"{_WORKFLOW_RUN_TRIGGERS}:WorkflowRunTriggers._start",
        "await self._repository.apply([self._handled(record.seq)], starts)",
        "await self._repository.apply([self._handled(record.seq)], ()); [await self._ports.runs.start(one) for one in starts]",
        "triggered runs are started after the record",
    ),
    Mutant(
        f"{_WORKFLOW_RUN_TRIGGERS}:WorkflowRunTriggers._start",
        "await self._repository.apply([self._handled(record.seq)], starts)",
        "await self._repository.apply([self._handled(record.seq)], starts[:1])",
        "only one of several triggered files is started",
    ),
    Mutant(
        f"{_WORKFLOW_RUN_TRIGGERS}:WorkflowRunTriggers._tick",
        "max(self._repository.state.handled_runs_seq, first)",
        "self._ends.last_seq",
        "runs completed while the daemon was down trigger nothing",
    ),
    Mutant(
        f"{_WORKFLOW_RUN_TRIGGERS}:WorkflowRunTriggers._completed",
        "if depth > workflow_run.CHAIN_MAX:",
        "if False:",
        "a chain of triggered runs has no limit",
    ),
    Mutant(
        f"{_WORKFLOW_RUN}:trigger_key",
        'f"workflow-run:{run}"',
        '"workflow-run"',
        "a file is triggered by one run only",
    ),
    Mutant(
        f"{_WORKFLOW_RUN}:is_triggered",
        "if trigger.conclusions and",
        "if False and",
        "a file is triggered by any conclusion",
    ),
    Mutant(
        f"{_STATE}:_evolve_files",
        "versions = before.workflow_run_versions if before is not None else ()",
        "versions: tuple[TriggerVersion, ...] = ()",
        "a changed file loses pending triggers",
        # Simulations reach this code, but seldom.
        "tests.unit.reconcile.test_state:test_the_trigger_of_a_file_is_known_for_each_position_of_the_log",
    ),
    # Webhooks.
    Mutant(
        f"{_WEBHOOKS}:trigger_key",
        'f"{name}:{delivery_id}"',
        "name",
        "all deliveries of a webhook share a key",
    ),
    Mutant(
        f"{_WEBHOOKS}:start_request",
        "earlier_keys=tuple(earlier)",
        "earlier_keys=()",
        "a repeated delivery starts a second run while the first is pending",
    ),
    Mutant(
        f"{_WEBHOOKS}:delivery",
        ', f"sha256-{digest}-{window + 1}")',
        ",)",
        "a clock set back changes the delivery id",
    ),
    Mutant(
        f"{_WEBHOOKS}:is_genuine",
        "body if timestamp is None else _signed_text(timestamp, headers, body)",
        "body",
        "a request with a timestamp is never genuine",
    ),
    Mutant(
        f"{_REGISTRY}:WebhookRegistry._by_name",
        "if built_from != self._built_from:",
        "if not self._built_from:",
        "changed webhooks are ignored",
    ),
)
