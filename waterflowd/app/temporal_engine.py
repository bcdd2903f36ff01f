"""Composes the engine on Temporal. Imported only for that engine, because Temporal's client is an extra.

Rules of this file: runs, repositories, agents and tokens are on Temporal. Each daemon has its own audit trail, in its own log.
Output is in the object store, if one is configured.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import ChainMap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from waterflow_agent import addresses
from waterflow_agent.errors import Stalled
from waterflowd.access.tokens import TokenRegistry
from waterflowd.admin.metrics import RunFigures
from waterflowd.app import former_cluster
from waterflowd.app.cluster_check import connection
from waterflowd.app.config import Config
from waterflowd.app.engines import AccessWriters, Compose, Engine, EngineParts
from waterflowd.dispatch import lowering
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.secret_uses import secret_uses
from waterflowd.model.ids import AUDIT, FLEET, AgentId, repository_stream
from waterflowd.objects.opening import open_objects
from waterflowd.objects.outputs import ObjectOutputLogs
from waterflowd.ports import Clock, Journal
from waterflowd.reconcile.events import FilesApplied, RevisionApplied
from waterflowd.temporal import check, cluster, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.coordination.child_run_activities import ChildRunActivities
from waterflowd.temporal.coordination.lock_activities import LockActivities
from waterflowd.temporal.coordination.lock_turns import LockTurns
from waterflowd.temporal.gateway.gateway import Gateway
from waterflowd.temporal.gateway.secret_reader import Secrets
from waterflowd.temporal.own_slots import LeaseTerms
from waterflowd.temporal.reading.history import TemporalHistory
from waterflowd.temporal.reading.run_reader import TemporalRunReader
from waterflowd.temporal.reading.run_watch import RunWatch
from waterflowd.temporal.repositories import ledger, repository_turns
from waterflowd.temporal.repositories.leadership import Leadership
from waterflowd.temporal.repositories.repository_turns import RepositoryTurns
from waterflowd.temporal.repositories.streams import EndedRuns, RepositoryStreams
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.runs import TemporalRuns
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.shared_streams import fleet
from waterflowd.temporal.shared_streams.fleet import AuditedWriter, FleetStream
from waterflowd.temporal.streams import StreamTurns, take_turns

logger = logging.getLogger("waterflow.temporal")

#: How long the daemon waits before it tries again to reach a cluster, at its start.
RETRY_S = 2.0
_UNREACHABLE = "WF802"


async def connect(config: Config) -> Compose:
    """Waits until the cluster can be reached.

    Raises `Stalled` with what it lacks, WF815 while runs of the data directory are open in another namespace, and what
    `connection` and `open_objects` raise.
    """
    settings, keys, identity = connection(config)
    objects = open_objects(config.temporal.objects, os.environ) if config.temporal.objects else None
    data_converter = converter.data_converter(keys)
    while True:
        report = await check.check(settings, data_converter, identity)
        if not report.findings:
            break
        first = report.findings[0]
        if first.code != _UNREACHABLE:
            raise Stalled(first.code, "; ".join(finding.text for finding in report.findings))
        logger.warning("%s [%s]; trying again in %g s", first.text, first.code, RETRY_S)
        await asyncio.sleep(RETRY_S)
    await former_cluster.check_left(config, report.namespace_id)
    client = await cluster.connect(settings, data_converter, identity)
    #: What people call this daemon.
    daemon = identity.partition("/")[0]

    def compose(parts: EngineParts) -> Engine:
        former_cluster.write(Path(config.data_dir), report.namespace_id, config.temporal)
        state = parts.state
        state.placement.daemon = daemon
        terms = LeaseTerms(epoch=state.epoch, lease_ms=state.lease_ms)
        turns = RunTurns(
            state.registry, state.placement, state.access, lost_after_ms=config.agents.lost_after_ms, terms=terms
        )
        repositories = RepositoryStreams(
            client,
            [settings.name for settings in config.repository_settings],
            parts.clock,
            partial(_former_facts, parts.journal, parts.clock),
        )
        history = TemporalHistory(client, parts.history, repositories)

        async def record_secret_use(draft: lowering.Draft, agent: AgentId) -> None:
            entry = state.registry.agents.get(agent)
            found = secret_uses(draft, agent, entry.name if entry is not None else "", parts.clock.now())
            if found:
                await parts.driver.record(AUDIT, found)

        gateway = Gateway(
            client,
            state.placement,
            state.registry,
            parts.link,
            parts.clock,
            terms=terms,
            secrets=Secrets(read=parts.read_secret, missing=parts.missing_secrets, record_use=record_secret_use),
            changed_lists=turns.changed_lists,
            has_others=len(addresses.split(config.agents.address)) > 1,
        )
        parts.secrets.reader.changed = gateway.secrets_read

        def connect_agents(agents: AgentHandler) -> None:
            gateway.attempts.arrived = agents.arrived

        fleet_stream = FleetStream(client, parts.history, parts.clock)

        async def record_token(facts: Sequence[Any]) -> None:
            await parts.driver.record(AUDIT, facts)

        def access(changes: FleetChanges, tokens: TokenRegistry) -> AccessWriters:
            fleet_stream.connect(changes, tokens)
            return AccessWriters(
                fleet=fleet_stream.writer,
                tokens=AuditedWriter(fleet_stream.writer, record_token),
                blind=fleet_stream.blind,
                connect=fleet_stream.connect_enrollment,
                ready=fleet_stream.ready,
            )

        runs = TemporalRuns(client, parts.driver, history, repositories)
        watch = RunWatch(client)
        reader = TemporalRunReader(
            history.streams, ChainMap(watch.reasons, turns.failing), lambda: parts.driver.refusal
        )
        coordination = [
            *LockActivities(client).all,
            *ChildRunActivities(client, runs, reader, parts.workflows).all,
        ]
        return Engine(
            runs=runs,
            history=history,
            outputs=ObjectOutputLogs(objects) if objects is not None else parts.outputs,
            reader=reader,
            attempts=gateway.attempts,
            run_figures=lambda: RunFigures(watch.open, watch.stalled, turns.metrics.started, turns.metrics.completed),
            absence=gateway.absence,
            access=access,
            tasks={
                "turns of streams": lambda: take_turns(
                    client,
                    StreamTurns(
                        {
                            run_turns.PREFIX: turns,
                            lock_turns.PREFIX: LockTurns(),
                            repository_turns.PREFIX: RepositoryTurns(),
                            FLEET: fleet.append_turns(),
                        }
                    ),
                    coordination,
                    gateway.in_progress,
                ),
                "gateway": gateway.run,
                "open runs": watch.run,
                "streams of repositories": repositories.run,
                "agents and tokens": fleet_stream.run,
            },
            ends_of=lambda repository: EndedRuns(repositories.of(repository)),
            reconcile=lambda reconciler: Leadership(client, repositories, reconciler, daemon, runs.start_decided).run(),
            ask_leader=lambda repository: repositories.of(repository).request_reconciliation(daemon),
            connect=connect_agents,
        )

    return compose


def _former_facts(journal: Journal, clock: Clock, repository: str) -> list[bytes]:
    """What the stream of a repository begins with: its facts and run numbers in the daemon's own log, from the log engine."""
    records = journal.read(repository_stream(repository)) if repository else []
    paths = {
        file.path
        for record in records
        if isinstance(record.event, RevisionApplied | FilesApplied)
        for file in record.event.files
    }
    numbers = {path: number for path in paths if (number := journal.counter(f"{repository}:{path}"))}
    return ledger.seed(repository, records, numbers, clock.now())
