"""Mutants: the product broken in many small ways. The simulator must notice each of them, or it checks nothing.

A mutant replaces a piece of one function's source; the new code is put into the same function object, so every module
that has imported the function gets the mutant. `python -m tests.mutation.mutants` runs simulations under each mutant until one
breaks a promise, and prints the table. A mutant that no simulation can notice by design (a second line of defence behind a
first) names the test that must notice it.
"""

from __future__ import annotations
import __future__

import asyncio
import contextlib
import functools
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.mutation import child_run_mutants, lease_mutants, shell_mutants, trigger_mutants
from tests.mutation.mutant import Mutant
from tests.simulator import simulate

#: Maximum number of simulations to try per mutant.
SEEDS_MAX = 2_500


_DECIDE, _AFFECTED = "waterflowd.engine.decide", "waterflowd.engine.moves.affected_parts"
_EVOLVE_JOBS, _EVOLVE_STEPS = "waterflowd.engine.fold.evolve_jobs", "waterflowd.engine.fold.evolve_steps"
_JOBS, _CHILDREN = "waterflowd.engine.moves.job_moves", "waterflowd.engine.moves.child_moves"
_STEPS, _BLOCKS, _APPROVALS = (
    "waterflowd.engine.moves.step_moves",
    "waterflowd.engine.moves.block_moves",
    "waterflowd.engine.rules.approvals",
)
_LOCKS, _RERUN = "waterflowd.fleet.locks", "waterflowd.engine.rules.rerun"
_STEP, _OUTSTANDING, _RETRY = "waterflowd.engine.step", "waterflowd.engine.outstanding", "waterflowd.engine.rules.retry"
_DRIVER, _BATCH, _AGENTS = "waterflowd.host.driver", "waterflowd.host.batch", "waterflowd.host.agents.handler"
_TURN, _ANSWERS = "waterflowd.host.turn", "waterflowd.host.answers"
_RECOVERY, _LIVE_STATE = "waterflowd.host.recovery", "waterflowd.host.live_state"
_TIMERS, _OUTPUTS = "waterflowd.host.timers", "waterflowd.host.agents.outputs"
_PLACEMENT, _SESSIONS = "waterflowd.fleet.placement", "waterflowd.dispatch.sessions"
_LEDGER, _EXECUTOR, _OUTPUT_SENDER = (
    "waterflow_agent.state.ledger.ledger",
    "waterflow_agent.execution.attempt_executor",
    "waterflow_agent.execution.output",
)
_LOOP, _TRIGGERS = "waterflowd.reconcile.loop.repository", "waterflowd.reconcile.triggers"
_LIVE = "waterflowd.reconcile.loop.live_repository"
_SESSION, _RUNNER_CLIENT = "waterflow_agent.wire.session", "waterflow_agent.execution.runner_client"

MUTANTS: tuple[Mutant, ...] = (
    # The engine.
    Mutant(
        f"{_DECIDE}:_is_lease_holder", "attempt.epoch == input.epoch and ", "", "a report under another epoch counts"
    ),
    Mutant(
        f"{_DECIDE}:_is_lease_holder",
        " and attempt.agent == input.agent",
        "",
        "another agent's report counts",
        # The host refuses such reports before the engine sees them.
        test="tests.unit.engine.test_report:test_a_report_of_another_holder_ends_nothing",
    ),
    Mutant(f"{_DECIDE}:_is_lease_holder", "attempt.is_open and ", "", "an attempt ends twice"),
    Mutant(f"{_EVOLVE_JOBS}:job_completed", "dependent.open_needs -= 1", "pass", "`needs` are never satisfied"),
    Mutant(f"{_EVOLVE_JOBS}:job_completed", "run.open_jobs -= 1", "run.open_jobs -= 2", "a run ends before its jobs"),
    Mutant(f"{_EVOLVE_STEPS}:attempt_queued", "step.retry_at = None", "pass", "a waiting attempt never gets its slot"),
    Mutant(
        f"{_EVOLVE_STEPS}:step_sleeping", "step.due_at = event.due_at", "step.due_at = event.at", "a sleep is too short"
    ),
    Mutant(f"{_JOBS}:of_job", " or job.open_needs", "", "a job does not wait for its needs"),
    Mutant(
        f"{_STEPS}:_after_attempt",
        "if delay_ms is not None:",
        "if False:",
        "no step is retried, not even a refused one",
    ),
    Mutant(f"{_RETRY}:delay_ms", "attempts >= policy.max_attempts or ", "", "a step is retried without limit"),
    Mutant(
        f"{_RETRY}:delay_ms", " and plan.on_lost is OnLost.RETRY", "", "a lost attempt is retried without `on-lost`"
    ),
    Mutant(f"{_RETRY}:delay_ms", " or _matches(policy.never_on, word, exit_code)", "", "`never-on` is ignored"),
    Mutant(
        f"{_OUTSTANDING}:_outstanding_of_step",
        "if step.retry_at is not None:",
        "if False:",
        "no timer for the next attempt",
    ),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_job_alone",
        "elif not job.is_timed_out and not job.open_approvals:",
        "elif False:",
        "no timer for a job's timeout",
    ),
    Mutant(
        "waterflowd.engine.rules.approvals:refusal",
        "by == run.trigger.principal",
        "by == run.trigger.by",
        "approvers are compared with whatever a trigger claims",
        "tests.unit.host.test_four_eyes:test_the_principal_that_started_a_run_may_not_approve_it",
    ),
    Mutant(
        "waterflowd.host.fleet_requests:_secret_refusal",
        "            return refusal",
        "            return None",
        "grants are not checked when a slot is requested",
        "tests.unit.host.test_grants:test_a_group_that_is_known_late_needs_the_grant_too",
    ),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_run", "if not run.is_timed_out:", "if False:", "no timer for a run's timeout"
    ),
    Mutant(f"{_STEP}:_settled", "yield commands.FreeSlot(", "commands.FreeSlot(", "a slot is never freed"),
    Mutant(f"{_STEP}:_settled", "yield commands.DropTimer(timer=timer)", "pass", "a timer is not cancelled"),
    Mutant(
        f"{_STEP}:_settled",
        "yield commands.CancelSlotRequest(",
        "commands.CancelSlotRequest(",
        "a slot request is not cancelled",
    ),
    Mutant(
        f"{_AFFECTED}:_of_job",
        "if kind is events.JobCompleted:",
        "if False:",
        "dependent jobs are not considered",
    ),
    # Expanded jobs.
    Mutant(
        f"{_CHILDREN}:has_turn",
        "and (children.max_parallel is None or children.active < children.max_parallel)",
        "",
        "more instances at a time than `max-parallel`",
    ),
    Mutant(
        f"{_CHILDREN}:has_turn",
        "and (not children.batches or job.position < children.batches[children.batch])",
        "",
        "a batch starts before the previous one has ended",
    ),
    Mutant(f"{_CHILDREN}:has_turn", "and children.resume_at is None", "", "no pause between batches"),
    Mutant(
        f"{_EVOLVE_JOBS}:batch_completed",
        "event.resume_at if event.resume_at > event.at else None",
        "None",
        "a pause between batches ends at once",
    ),
    Mutant(f"{_CHILDREN}:_batch", "or children.active or", "or", "a batch ends while its instances run"),
    Mutant(
        f"{_JOBS}:_ending", " and _reused(run, job) is None", "", "reused instances are lost when the job is halted"
    ),
    Mutant(f"{_CHILDREN}:of_parent", "if children.failures and (", "if False and (", "no failure halts a job"),
    Mutant(f"{_JOBS}:_ending", "if parent.children.halted is not None and", "if False and", "a halted job never ends"),
    Mutant(
        f"{_EVOLVE_JOBS}:job_completed",
        "children.active -= job.is_admitted",
        "pass",
        "a `max-parallel` slot is never released",
    ),
    Mutant(f"{_AFFECTED}:_of_job", "if kind in _TURNS:", "if False:", "the next instance is not considered"),
    Mutant(
        f"{_OUTSTANDING}:_outstanding_of_step",
        "agent=job.required_agent",
        "agent=job.agent",
        "an instance requests any server",
    ),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_job_alone",
        "found.append(_arm(TimerKind.BATCH_PAUSE, job.children.resume_at, job))",
        "pass",
        "no timer for the pause between batches",
    ),
    # Retries of jobs.
    Mutant(f"{_RETRY}:job_delay_ms", "number >= policy.max_attempts or ", "", "a job is retried without limit"),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_job_alone",
        "found.append(_arm(TimerKind.JOB_RETRY, job.retry_at, job))",
        "pass",
        "no timer for the retry of a job",
    ),
    Mutant(
        f"{_EVOLVE_JOBS}:job_restarted",
        "job.agent = None",
        "pass",
        "the retry of a job stays on its server",
        "tests.unit.host.test_gates:test_a_retried_job_avoids_the_server_of_its_last_attempt",
    ),
    Mutant(
        f"{_EVOLVE_JOBS}:job_restarted",
        "job.avoid = (*job.avoid, job.agent)",
        "pass",
        "the retry of a pinned job may use any server",
        "tests.unit.host.test_gates:test_a_retried_job_avoids_the_server_of_its_last_attempt",
    ),
    Mutant(
        f"{_PLACEMENT}:Placement._is_for",
        "if server.agent not in request.avoid or self._best(request) is server:",
        "if True:",
        "an avoided server is used if it becomes free first",
        "tests.unit.fleet.test_placement:test_an_avoided_server_is_used_only_without_an_alternative",
    ),
    Mutant(
        f"{_PLACEMENT}:Placement._take",
        "self._maybe_free |= self._avoided",
        "pass",
        "an avoided server stays idle when the better one is full",
        "tests.unit.fleet.test_placement:test_an_avoided_server_is_used_once_the_better_one_is_full",
    ),
    Mutant(
        f"{_BATCH}:BatchBuilder.assign",
        "placement.changed_lists()",
        "()",
        "a server list request is not repeated",
        "tests.unit.host.test_gates:test_a_job_on_each_server_starts_when_the_first_one_is_enrolled",
    ),
    # Gates.
    Mutant(
        f"{_LOCKS}:_granted",
        "if len(group.holders) >= request.limit:",
        "if False:",
        "a concurrency group exceeds its limit",
    ),
    Mutant(
        f"{_LOCKS}:_granted",
        "next(iter(group.waiting.values()))",
        "next(reversed(group.waiting.values()))",
        "the newest holder is served first",
    ),
    Mutant(f"{_LOCKS}:Locks.release", "self._leave(holder)", "pass", "a lock is never released"),
    Mutant(
        f"{_STEP}:_settled", "yield commands.ReleaseLock(job=job, group=group)", "pass", "no release of a lock is sent"
    ),
    Mutant(f"{_RECOVERY}:resume", "state.locks.hold(", "(", "held locks are free after a restart"),
    Mutant(f"{_RECOVERY}:resume", "state.locks.wait(", "(", "a queue is lost at a restart"),
    Mutant(f"{_JOBS}:_gates", "if not job.lock.is_held:", "if False:", "a job does not wait for its lock"),
    Mutant(
        f"{_ANSWERS}:LiveAnswers._lock",
        "if is_waiting and command.cancel_in_progress:",
        "if False:",
        "`cancel-in-progress` cancels nothing",
        "tests.unit.host.test_gates:test_cancel_in_progress_cancels_the_holder_of_the_lock",
    ),
    Mutant(f"{_APPROVALS}:outcome", ">= approval.minimum", ">= 1", "one approval is enough for a step"),
    Mutant(
        f"{_EVOLVE_JOBS}:approval_decided", ">= approval.minimum", ">= 1", "one approval is enough for an environment"
    ),
    Mutant(f"{_JOBS}:_environment", "if minimum == 0:", "if True:", "an environment needs no approval"),
    Mutant(
        f"{_APPROVALS}:refusal",
        "if approval.approvers and by not in approval.approvers:",
        "if False:",
        "any person may approve",
    ),
    Mutant(
        f"{_APPROVALS}:refusal", "if by in approval.approved_by else", "if False else", "one person may approve twice"
    ),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_block",
        "if step.approval.due_at is not None:",
        "if False:",
        "no timer for an approval",
    ),
    *child_run_mutants.MUTANTS,
    # Blocks.
    Mutant(
        f"{_BLOCKS}:following", "if step.open_blocks >= step.max_parallel:", "if False:", "more iterations at a time"
    ),
    Mutant(
        f"{_BLOCKS}:following",
        "if step.plan.node == LOOP and step.failed_block is not None:",
        "if False:",
        "a loop continues after a failed iteration",
    ),
    Mutant(f"{_BLOCKS}:_has_another_iteration", "if begun >= limit:", "if False:", "a loop has no limit"),
    Mutant(
        f"{_EVOLVE_STEPS}:step_completed", "block.owner.open_blocks -= 1", "pass", "the end of a block is not noticed"
    ),
    Mutant(
        f"{_DECIDE}:_slot_granted",
        "(job.required_agent or input.agent) != input.agent",
        "False",
        "branches run on two servers",
    ),
    Mutant(
        f"{_TURN}:_feed",
        "and not _is_held(run, item)",
        "and commands.SendTask not in map(type, progress.commands)",
        "a branch loses its slot",
    ),
    Mutant(
        f"{_TURN}:_feed",
        "_answer(run, [_free(item)], answers, turn, following)",
        "pass",
        "a slot that no attempt needs stays taken",
        "tests.unit.host.test_turn:test_a_slot_that_comes_too_late_is_freed",
    ),
    Mutant(f"{_TURN}:_answer", "following.extend(answer)", "pass", "an answer that is known at once is dropped"),
    Mutant(
        f"{_OUTSTANDING}:outstanding_of_block",
        "if step.deadline_at is not None:",
        "if False:",
        "no timer for a step with others inside",
    ),
    # Re-runs.
    Mutant(
        f"{_RERUN}:_with_dependents",
        "rerun_jobs |= more",
        "break",
        "a dependant of a repeated part is reused",
        "tests.unit.engine.test_reused:test_dependants_of_a_repeated_part_are_repeated",
    ),
    Mutant(
        f"{_JOBS}:_reused",
        "run.reused.jobs.get(job.id) if run.reused is not None else None",
        "None",
        "a reused part runs again",
    ),
    # The host.
    Mutant(
        f"{_DRIVER}:Driver._make_batch",
        "self.is_ahead = True",
        "self._publish(batch, items)",
        "messages are sent before the commit",
    ),
    Mutant(
        f"{_DRIVER}:Driver._make_batch",
        "await self._undo(batch, items, error)",
        "self._publish(batch, items)",
        "messages are sent although the commit failed",
    ),
    Mutant(f"{_DRIVER}:Driver._undo", "self.state.drop(run_id)", "pass", "a failed batch is not undone"),
    Mutant(
        f"{_DRIVER}:Driver._undo",
        "self._items.extendleft(reversed(kept))",
        "pass",
        "reports of a failed batch are dropped",
    ),
    Mutant(f"{_DRIVER}:Driver._resume", "if run_ids:", "if False:", "no slots are requested after a restart"),
    Mutant(f"{_DRIVER}:Driver._start", "batch.contents.keys[key] = run_id", "pass", "a key starts two runs"),
    Mutant(
        f"{_DRIVER}:Driver.settle",
        "self._submit(lambda batch: batch.settled.add(agent), call)",
        "call()",
        "a session is settled before its commit",
    ),
    Mutant(
        f"{_BATCH}:BatchBuilder.carry_out_deferred",
        "command not in outstanding",
        "False",
        "a request of an ended attempt is sent",
    ),
    Mutant(
        f"{_LIVE_STATE}:LiveState.offer",
        "self.awaiting_secrets.append((draft.task.key.attempt.run, command))",
        "pass",
        "a deferred offer is forgotten",
    ),
    Mutant(
        f"{_BATCH}:BatchBuilder.carry_out_deferred",
        "commands.SendTask | commands.CancelTask",
        "commands.SendTask",
        "a cancel sent before its offer is not repeated",
        test="tests.unit.host.test_secrets:test_a_cancel_before_the_offer_is_repeated_after_it",
    ),
    Mutant(f"{_RECOVERY}:resume", "state.placement.hold(", "(", "held slots are free after a restart"),
    Mutant(f"{_RECOVERY}:resume", "state.timers.arm(run.id, timer)", "pass", "no timer after a restart"),
    Mutant(
        f"{_AGENTS}:AgentHandler._resume",
        "elif attempt.boot_id != self._placement.server(agent).boot_id:",
        "elif False:",
        "a reboot loses nothing",
    ),
    Mutant(
        f"{_AGENTS}:AgentHandler._resume",
        "outgoing.extend(self._attempts.outstanding(agent, _key(attempt), is_held=state is not None))",
        "pass",
        "a lost offer or cancel is not repeated",
    ),
    Mutant(
        f"{_AGENTS}:AgentHandler.received",
        "self._attempts.report(",
        "durable(); self._attempts.report(",
        "a report is acknowledged before its commit",
    ),
    Mutant(
        f"{_AGENTS}:AgentHandler._recorded",
        "self._unacknowledged.add(agent)",
        "pass",
        "a report that stalls its run is acknowledged",
        "tests.unit.host.test_doubt:test_a_report_that_stalls_its_run_is_not_acknowledged",
    ),
    Mutant(
        "waterflowd.host.agents.attempts:LiveAttempts.has_job_ended",
        "job.status is Status.COMPLETED",
        "True",
        "a working directory is removed before its job ends",
    ),
    Mutant(
        f"{_AGENTS}:AgentHandler._give_up",
        "if lost:",
        "if False:",
        "a server offline beyond `lost-after` loses nothing",
    ),
    Mutant(
        f"{_OUTPUTS}:OutputCollector.received",
        "self._add(_Arrival(agent, key, attempt, output))",
        "self._add(_Arrival(agent, key, attempt, output)); "
        "self._link.send(agent, [messages.OutputAck(key, output.offset + size)])",
        "output is acknowledged too early",
    ),
    Mutant(f"{_TIMERS}:Timers.due", "self._heap[0][0] <= now", "self._heap[0][0] <= now + 700", "timers fire early"),
    Mutant(
        f"{_TIMERS}:Timers.due",
        "fired.append((run, timer))",
        "len(self._heap) % 5 and fired.append((run, timer))",
        "a timer in five never fires",
    ),
    Mutant(
        f"{_TIMERS}:Timers.drop_run",
        "self._armed.pop(run, {})",
        "self._armed.get(run, {})",
        "timers of ended runs remain",
    ),
    # The fleet and the link.
    Mutant(f"{_PLACEMENT}:Server.free", "- len(self.taken)", "- len(self.taken) + 1", "a server has one slot too many"),
    Mutant(
        f"{_PLACEMENT}:Placement.assign", "self._take(server, request.attempt)", "pass", "a granted slot is not counted"
    ),
    Mutant(
        f"{_PLACEMENT}:Placement.connect",
        "known.taken if known is not None else {}",
        "{}",
        "a connection frees held slots",
    ),
    Mutant(
        f"{_PLACEMENT}:Placement.free",
        "self._maybe_free[agent] = None",
        "pass",
        "a free slot is not offered to waiting attempts",
    ),
    Mutant(
        f"{_SESSIONS}:Sessions._take_settled",
        "lambda: self._acknowledge(live, number)",
        "self._acknowledge(live, number) or (lambda: None)",
        "a message is acknowledged on arrival",
    ),
    # The agent.
    Mutant(
        f"{_LEDGER}:Ledger._refusal", "if len(self._live) >= self.slots:", "if False:", "an agent exceeds its slots"
    ),
    Mutant(
        f"{_LEDGER}:Ledger._refusal",
        "if live is not None:",
        "if False:",
        "two attempts of one step run at once",
        # No simulation reaches this: the daemon offers the next attempt only to a server that has answered for the previous
        # one.
        "tests.unit.agent.state.test_ledger:test_second_attempt_of_a_step_does_not_start_while_the_first_runs",
    ),
    Mutant(f"{_LEDGER}:Ledger.undelivered", "undelivered.append(entry.result)", "pass", "results are sent once"),
    Mutant(
        f"{_LEDGER}:Ledger.result_acknowledged",
        "if entry.is_output_acknowledged else None",
        "",
        "output is dropped with the result",
    ),
    Mutant(
        f"{_LEDGER}:Ledger.cancel",
        "if not entry.is_handed_over:",
        "if True:",
        "a cancel is confirmed without stopping the process",
    ),
    Mutant(
        f"{_LEDGER}:Ledger.snapshot",
        "kept.append(records.FinishedRecord(entry.result, entry.printed, entry.has_spool, entry.has_secrets))",
        "pass",
        "a new segment forgets results",
    ),
    Mutant(
        f"{_LEDGER}:Ledger.replay",
        "self._entries[record.key] = entry",
        "pass",
        "an accepted attempt is lost at a restart",
    ),
    Mutant(f"{_LEDGER}:_without_runner", "Outcome.LOST", "Outcome.SUCCESS", "an unknown outcome is a success"),
    Mutant(
        f"{_EXECUTOR}:AttemptExecutor.commit",
        "is_written = self._journal.write(written)",
        "is_written = True",
        "the journal is not written",
    ),
    Mutant(
        "waterflow_agent.session.handler:SessionHandler.on_opened",
        "self._executor.send_undelivered()",
        "pass",
        "a new session sends nothing again",
    ),
    Mutant(
        f"{_EXECUTOR}:AttemptExecutor.finish_process",
        "if is_acknowledged:",
        "if False:",
        "an attempt is never released",
    ),
    Mutant(
        f"{_OUTPUT_SENDER}:OutputSender.take",
        "while self._unanswered and now",
        "while False and now",
        "lost output is not sent again",
    ),
    Mutant(
        f"{_OUTPUT_SENDER}:OutputSender.rewind",
        "self._go_back(key, stream)",
        "pass",
        "a new session does not resend output in flight",
        # In a simulation the output arrives later anyway, because what is not acknowledged is sent again.
        "tests.unit.agent.execution.test_output:test_new_session_starts_at_the_last_acknowledgement",
    ),
    Mutant(
        f"{_SESSION}:Session._take_numbered", "if first > self._received + 1:", "if False:", "a gap is not detected"
    ),
    Mutant(
        f"{_SESSION}:Session._due",
        "if self._resend_at is not None and now >= self._resend_at:",
        "if False:",
        "nothing is sent again",
    ),
    Mutant(
        f"{_RUNNER_CLIENT}:RunnerClient._on_connected",
        "*self._starts.values(), ",
        "",
        "a start that never reached the runner is not repeated",
    ),
    Mutant(
        f"{_OUTPUT_SENDER}:OutputSender.take",
        "next(iter(self._unanswered.values()))",
        "max(self._unanswered.values())",
        "acknowledgements of one attempt delay lost output of another",
    ),
    Mutant(
        f"{_OUTPUT_SENDER}:OutputSender.acknowledge",
        "elif offset < stream.acked and stream.rewound_at == _NOT_YET:",
        "elif False:",
        "output is not sent again to a restored daemon",
    ),
    # The repository.
    Mutant(
        f"{_LOOP}:RepositoryLoop._update_ref",
        "object_id == before.object_id",
        "True",
        "a ref that changed is not updated",
    ),
    Mutant(
        f"{_LOOP}:RepositoryLoop._update_ref",
        "recorded.update_number + 1 if recorded",
        "recorded.update_number if recorded",
        "update numbers repeat",
    ),
    Mutant(
        f"{_LIVE}:LiveRepository.apply",
        "await self._ports.runs.apply(self.stream, facts, starts)",
        "await self._ports.runs.record(self.stream, facts); await self._ports.runs.apply(self.stream, (), starts)",
        "a ref update and its runs are two transactions",
    ),
    Mutant(f"{_LOOP}:RepositoryLoop._record_removed", "if removed:", "if False:", "a removed ref is not noticed"),
    Mutant(
        f"{_LOOP}:RepositoryLoop._pause",
        "self._source.wait_for_change(interval_s)",
        "self._source.wait_for_change(86_400.0)",
        "a lost hint is never compensated by polling",
    ),
    Mutant(
        f"{_LOOP}:RepositoryLoop.sync", "await waiter", "waiter.cancel()", "a sync returns before anything was applied"
    ),
    Mutant(
        f"{_LOOP}:RepositoryLoop._repeat",
        "failure or self.repository.suspension()",
        "failure",
        "a sync succeeds although the repository is suspended meanwhile",
    ),
    Mutant(f"{_TRIGGERS}:is_started", "if update.is_first_seen:", "if False:", "existing history starts runs"),
    Mutant(f"{_TRIGGERS}:is_started", "path in update.files", "True", "an unchanged file starts"),
    Mutant(
        f"{_DRIVER}:Driver.apply",
        "self._start_all(batch, requests, lambda: batch.record(stream, facts))",
        "self._start_all(batch, requests[:1], lambda: batch.record(stream, facts))",
        "only one of several files is started",
    ),
    *trigger_mutants.MUTANTS,
    *lease_mutants.MUTANTS,
    *shell_mutants.MUTANTS,
    # People.
    Mutant(
        "waterflowd.fleet.registry:Registry.apply",
        "self._remove(agent)\n            self.revoked[agent] =",
        "self.revoked[agent] =",
        "a revoked agent continues",
    ),
    Mutant(
        "waterflowd.host.agents.enrollment:EnrollmentService.revoke",
        "await self._fleet.append(lambda: [fact] if agent in self._registry.agents else [])",
        "self._registry.apply(fact)",
        "a revocation is not logged",
    ),
    # Files of repositories.
    Mutant(
        f"{_EXECUTOR}:AttemptExecutor._check_out",
        "await self._checkouts.make(task.key, tree, self._steps.account(task))",
        "pass",
        "a step starts without its files",
    ),
    Mutant(
        f"{_EXECUTOR}:AttemptExecutor._stop_waiting",
        "task.cancel()",
        "pass",
        "a cancelled step starts when its files arrive",
        "tests.unit.agent.execution.test_attempt_executor:test_a_step_that_is_cancelled_while_it_waits_for_files_never_starts",
    ),
    Mutant(
        "waterflow_agent.session.request_window:RequestWindow.on_opened",
        "self._send(request)",
        "pass",
        "file requests of an earlier session are not repeated",
        "tests.unit.agent.test_checkout:test_unanswered_requests_are_repeated_in_the_next_session",
    ),
    Mutant(
        "waterflow_agent.checkout.service:CheckoutService._fetch_some",
        "requested = requested[max(len(arrived), 1) :]",
        "requested = []",
        "the rest of a file response is not requested",
        "tests.unit.agent.test_checkout:test_a_checkout_fetches_small_and_large_files",
    ),
    # Backups.
    Mutant(
        "waterflowd.rescue.operations:WorkCloser.end_runs",
        "for run_id in runs:",
        "for run_id in ():",
        "open runs of a restored backup continue",
    ),
    Mutant(
        "waterflowd.rescue.operations:WorkCloser.suspend",
        "for name in dict.fromkeys(names):",
        "for name in ():",
        "a restored repository is read at once",
    ),
)


@contextlib.contextmanager
def alive(mutant: Mutant) -> Iterator[None]:
    """Makes the product this mutant. Raises `LookupError` if the source no longer contains the piece to replace."""
    function = _function(mutant.where)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise LookupError(f"{mutant.where} has {source.count(mutant.old)} times: {mutant.old}")
    code = _compiled(source.replace(mutant.old, mutant.new), function)
    before = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


def _function(where: str) -> types.FunctionType:
    module, _, name = where.partition(":")
    found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, types.FunctionType), where
    return found


def _compiled(source: str, function: types.FunctionType) -> types.CodeType:
    whole = compile(source, f"<mutant of {function.__qualname__}>", "exec", flags=__future__.annotations.compiler_flag)
    codes = [constant for constant in whole.co_consts if isinstance(constant, types.CodeType)]
    return next(code for code in codes if code.co_name == function.__name__)


def hunt(mutant: Mutant, seeds: int = SEEDS_MAX) -> tuple[int, str] | None:
    """Returns the first seed whose simulation breaks a promise, and which promise; None if the mutant survives."""
    with alive(mutant):
        if mutant.test:
            return _tried(mutant.test)
        for seed in range(seeds):
            try:
                report = simulate(seed)
            except Exception as error:  # noqa: BLE001  a mutant may break anything, and that is noticed too
                return seed, f"the simulation broke: {error!r}"
            if report.violation is not None:
                return seed, report.violation
    return None


def _tried(name: str) -> tuple[int, str] | None:
    """Returns how the test of this name fails."""
    module, _, function = name.partition(":")
    test = getattr(importlib.import_module(module), function)
    try:
        with TemporaryDirectory() as folder:
            result = test(Path(folder)) if "tmp_path" in inspect.signature(test).parameters else test()
            if inspect.iscoroutine(result):
                asyncio.run(result)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  whatever it is, the mutant is noticed
        return 0, f"{function}: {error!r}"
    return None


def main(words: Sequence[str] = ()) -> int:
    """Prints a line for each mutant whose function or meaning contains a word; returns the number of survivors."""
    survivors = 0
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.where + mutant.meaning for word in words)]
    for number, mutant in enumerate(chosen, 1):
        try:
            found = hunt(mutant)
        except LookupError as error:
            print(f"{number:3} OUT OF DATE: {error}", flush=True)
            survivors += 1
            continue
        survivors += found is None
        end = "SURVIVES" if found is None else f"killed by seed {found[0]}: {found[1][:110]}"
        print(f"{number:3} {mutant.where.rpartition('.')[2]:42} {mutant.meaning:52} {end}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants are killed")
    return survivors


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
