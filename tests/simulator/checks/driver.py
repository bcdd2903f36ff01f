"""What the driver keeps in memory, compared with the log (G2).

Rules of this file: right after each commit, the driver's run equals its shadow, and what the driver keeps for the run
(timers, slots, slot requests, locks, child runs) is exactly what that state needs.
"""

from __future__ import annotations

from tests.simulator.checks import oracle
from tests.simulator.checks.child_runs import ChildRunChecker
from tests.simulator.checks.gates import GateChecker
from tests.simulator.environment import Environment
from waterflowd.engine import Run
from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.engine.state.runs import Job
from waterflowd.model.ids import AttemptId
from waterflowd.model.statuses import AttemptStatus, Status
from waterflowd.testing.scenario import dump


class DriverChecker:
    """The checker of the daemon's live state."""

    def __init__(self, environment: Environment, gates: GateChecker, child_runs: ChildRunChecker) -> None:
        self._environment = environment
        self._gates = gates
        self._child_runs = child_runs

    def check(self, touched: list[Run]) -> None:
        """Compares the driver with the shadow runs, right after a commit."""
        if self._environment.daemon is None:
            return
        live_state = self._environment.daemon.live_state
        for server in live_state.placement.servers.values():
            if server.slots and len(server.taken) > server.slots:
                self._environment.fail(f"{server.agent} has {len(server.taken)} attempts in {server.slots} slots")
        taken: dict[str, set[AttemptId]] = {}
        for server in live_state.placement.servers.values():
            for key in server.taken:
                taken.setdefault(key.run, set()).add(key)
        requests: dict[str, set[AttemptId]] = {}
        for key in live_state.placement._requests:
            requests.setdefault(key.run, set()).add(key)
        for shadow in touched:
            live = live_state.runs.get(shadow.id)
            if shadow.is_completed and live is None:
                continue
            self.check_run(live, shadow)
            armed = set(live_state.timers._armed.get(shadow.id, {}))
            self._check_outstanding(shadow, armed, requests.get(shadow.id, set()), taken.get(shadow.id, set()))
            parents = live_state.child_runs._of_run.get(shadow.id, {})
            all_watched = live_state.child_runs._watched
            watched = {parent: all_watched[parent] for parent in parents if parent in all_watched}
            self._child_runs.check_host(shadow, set(parents) - set(watched), watched)
            lists = set(live_state.placement._list_requests.get(shadow.id, {}))
            self._gates.check_host(shadow, live_state.locks, lists)
        self._gates.check_groups()

    def check_queue(self) -> None:
        """Checks right before a commit that no attempt waits for a slot that is free."""
        if self._environment.daemon is None:
            return
        placement, registry = (
            self._environment.daemon.live_state.placement,
            self._environment.daemon.live_state.registry,
        )
        for request in placement._requests.values():
            agents = registry.group(request.group) if request.agent is None else (request.agent,)
            for agent in agents:
                server = placement.servers.get(agent)
                is_free = server is not None and request.node in server.nodes and server.free > 0
                if server is not None and is_free and agent in registry.agents:
                    self._environment.fail(f"{request.attempt} waits, and {agent} has {server.free} free slots")

    def check_run(self, live: Run | None, shadow: Run) -> None:
        """The driver's run is the fold of the log (G2)."""
        if live is None:
            self._environment.fail(f"G2: the driver has dropped {shadow.id}, which is open")
        elif live.seq != shadow.seq or dump(live) != dump(shadow):
            self._environment.fail(
                f"G2: the driver's {shadow.id} at {live.seq} is not the fold of its log at {shadow.seq}"
            )

    def _check_outstanding(
        self, shadow: Run, timers: set[Timer], requests: set[AttemptId], taken: set[AttemptId]
    ) -> None:
        """Timers, slot requests and slots of a run are exactly what its state needs; each open job has an owner."""
        expected_timers: set[Timer] = set()
        expected_requests: set[AttemptId] = set()
        expected_slots: set[AttemptId] = set()
        if not shadow.is_completed and not shadow.is_timed_out:
            expected_timers.add(Timer(kind=TimerKind.RUN_TIMEOUT, due_at=shadow.deadline_at))
        for job in shadow.jobs:
            if job.status is Status.QUEUED:
                is_next = not shadow.is_completed and oracle.is_next(shadow, job)
                self._environment.expect(not is_next, f"nothing starts job {job.id} of {shadow.id}")
            if shadow.is_completed or job.status in (Status.QUEUED, Status.COMPLETED):
                continue
            expected_timers |= oracle.timers(job)
            owner = oracle.owner(job)
            self._environment.expect(owner != "", f"no owner for job {job.id} of {shadow.id}")
            if owner is None:
                self._check_steps(shadow, job, expected_requests, expected_slots)
        for what, has, expected in (("timers", timers, expected_timers), ("requests", requests, expected_requests)):
            self._environment.expect(
                has == expected, f"{what} of {shadow.id}: {has - expected} too many, {expected - has} missing"
            )
        self._environment.expect(
            taken == expected_slots,
            f"slots of {shadow.id}: {taken - expected_slots} too many, {expected_slots - taken} missing",
        )

    def _check_steps(self, shadow: Run, job: Job, requests: set[AttemptId], slots: set[AttemptId]) -> None:
        """Each current step has an owner; adds what its attempts request and hold."""
        steps = list(oracle.at_work(job.root))
        self._environment.expect(steps, f"no owner for job {job.id} of {shadow.id}")
        for step in steps:
            name = f"step {job.id}/{step.id} of {shadow.id}"
            attempt = step.last
            if step.status is Status.QUEUED:
                self._environment.fail(f"nothing starts {name}")
            elif step.has_blocks:
                is_open = any(block.current is not None for block in step.blocks)
                self._environment.expect(is_open, f"no owner for {name}")
                open_blocks = sum(block.current is not None for block in step.blocks)
                self._environment.expect(open_blocks <= step.max_parallel, f"{open_blocks} at a time in {name}")
            elif step.is_child_run and attempt is not None and attempt.status is AttemptStatus.PENDING:
                # Another checker looks at who holds it.
                pass
            elif attempt is not None and attempt.status is not AttemptStatus.FINISHED:
                key = AttemptId(shadow.id, job.id, step.id, attempt.number)
                (requests if attempt.status is AttemptStatus.PENDING else slots).add(key)
            elif step.approval is not None:
                self._environment.expect(step.approval.rejected_by is None, f"no owner for {name}")
            elif not step.is_held and step.retry_at is None and step.due_at is None:
                self._environment.fail(f"no owner for {name}")
