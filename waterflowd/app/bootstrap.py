"""The composition root: the only module that names the concrete classes behind the ports and connects the parts."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import waterflowd
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.access import events
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.access.tokens import TokenRegistry
from waterflowd.admin.agents import FleetAgentAdmin
from waterflowd.admin.metrics import DriverMetrics
from waterflowd.admin.repositories import GitRepositoryAdmin
from waterflowd.admin.repository_changes import RepositoryDirector
from waterflowd.admin.retention import LogRetentionAdmin
from waterflowd.admin.runs import LogRunReader
from waterflowd.admin.webhooks import SignedWebhookService
from waterflowd.api.access import quotas
from waterflowd.api.app import Api
from waterflowd.api.server import RESERVED_DESCRIPTORS, ApiServer
from waterflowd.api.services import Services
from waterflowd.app import audit, cluster_check, file_descriptors, former_cluster, logs, workflow_check
from waterflowd.app.artifacts import parts as artifact_parts
from waterflowd.app.audit_export import AuditExport, destinations
from waterflowd.app.config import Config, access_policy, access_rules, repository_limits
from waterflowd.app.config_source import ConfigSource
from waterflowd.app.engines import AccessWriters, Compose, Engine, EngineParts
from waterflowd.app.environments import Environments
from waterflowd.app.notices import Notices
from waterflowd.app.notices import outside as notice_outside
from waterflowd.app.notices import sources as notice_sources
from waterflowd.app.reload import Applier, Reloader
from waterflowd.app.repositories import Repositories
from waterflowd.artifacts.caches.origins import CacheOrigins
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.compiler.process import CompilerProcess
from waterflowd.dispatch import keys, lowering
from waterflowd.dispatch.link import Dispatch
from waterflowd.engine.events import RunEvent
from waterflowd.engine.rules import leases
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.gitsource import repository_opener
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.host.agents.attempts import LiveAttempts
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.file_server import FileServer
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.agents.identities import AgentIdentities
from waterflowd.host.agents.maintenance import AgentMaintenance
from waterflowd.host.agents.output_admission import OutputAdmission
from waterflowd.host.agents.outputs import OutputCollector
from waterflowd.host.child_run_starter import ChildRunStarter
from waterflowd.host.child_runs import ChildRunRegistry
from waterflowd.host.clock import LogClock
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory, LogOutputs
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.host.retention.pruner import Pruner
from waterflowd.host.stream_writer import LogStreamWriter
from waterflowd.host.timers import Timers
from waterflowd.model.ids import AUDIT, FLEET, REPOSITORIES, AgentId
from waterflowd.notices import events as notice_events
from waterflowd.pacing import Pacing
from waterflowd.reconcile import added
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile.loop import LoopPorts, Reconciler
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.secrets import vault_key
from waterflowd.secrets.age import AgeFiles, EncryptedFiles
from waterflowd.secrets.local_sources import LocalSources
from waterflowd.secrets.secret_reader import SecretReader
from waterflowd.secrets.sources import RunRevision, Sources
from waterflowd.store import opening
from waterflowd.store.check import Findings
from waterflowd.time_slices import TimeSlices
from waterflowd.web.files import WebFiles

if TYPE_CHECKING:
    # Importing it takes a tenth of a second, so it is only imported when it is configured.
    from waterflowd.secrets.vault import Vault

#: The events that each kind of stream may hold.
UNIONS = {
    "run": RunEvent,
    "fleet": fleet_events.Fact,
    "repo": repository_events.Fact,
    "repositories": added.AddedFact,
    "notices": notice_events.Fact,
    "audit": events.Fact,
}


class _LateLink:
    """A link whose target is set later: the parts of the host need a link, and the link needs these parts."""

    def __init__(self) -> None:
        self.target: ports.Link | None = None

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """See `ports.Link`. Without a target there are no sessions; messages are sent again when a session begins."""
        if self.target is not None:
            self.target.send(agent, outgoing)

    def revoke(self, agent: AgentId) -> None:
        """See `ports.Link`."""
        if self.target is not None:
            self.target.revoke(agent)

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """See `ports.Link`."""
        if self.target is not None:
            self.target.reject(agent, code, text)


@dataclass(kw_only=True)
class Parts:
    """The connected parts of the daemon, before their start."""

    config: Config
    store: opening.Store
    keys: keys.ServerKeys
    driver: Driver
    #: The engine's own background work, by name.
    tasks: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    #: Awaited before agents and clients may come.
    ready: Callable[[], Awaitable[None]]
    #: Keeps the repositories of the reconciler applied.
    reconcile: Callable[[Reconciler], Coroutine[Any, Any, None]]
    agents: AgentHandler
    outputs: OutputCollector
    files: FileServer
    artifacts: ArtifactServer
    contents: RevisionFileReader
    enrollment: EnrollmentService
    dispatch: Dispatch
    compiler: CompilerProcess
    validator: CompilerProcess
    reconciler: Reconciler
    starter: ChildRunStarter
    api: ApiServer
    secrets: Sources
    notices: Notices | None
    services: Services
    audit_export: AuditExport


def build(
    config: Config, source: ConfigSource, on_poison: Callable[[Stalled], None], compose: Compose | None = None
) -> Parts:
    """Opens the data directory and builds the daemon, with another engine than that of the log if `compose` makes one.

    Raises `Stalled` when that is not possible.
    """
    data_dir = Path(config.data_dir)
    audit_keys = audit.load_keys(config)
    seals = {AUDIT: audit_keys[0]} if audit_keys else {}
    store = opening.open_store(data_dir, UNIONS, on_poison=on_poison, seals=seals)
    try:
        clock = LogClock(data_dir / "clock.json", store.log.last_at)
        audit.begin(store.log, audit_keys, clock)
        if compose is not None:
            _check_no_open_runs(store.log)
        else:
            former_cluster.remove(data_dir)
        return _build(config, source, store, clock, compose or _log_engine)
    except BaseException:
        store.close()
        raise


def _check_no_open_runs(log: ports.Journal) -> None:
    """Raises `Stalled` WF800 for open runs of the log engine, which another engine would leave as they are."""
    count = sum(1 for _ in log.open_runs())
    if count:
        noun = "an open run" if count == 1 else f"{count} open runs"
        raise Stalled(
            "WF800",
            f"the data directory has {noun} of the log engine, which would not continue on another engine;"
            ' next: set engine = "log", let them end or cancel them, then change the engine',
        )


def _build(config: Config, source: ConfigSource, store: opening.Store, clock: LogClock, compose: Compose) -> Parts:
    data_dir = Path(config.data_dir)
    log = store.log
    server_keys = keys.load_server_keys(data_dir)
    registry = Registry.of(record.event for record in log.read(FLEET)) if compose is _log_engine else Registry()
    repositories = Repositories(
        config, [record.event for record in log.read(REPOSITORIES)] if compose is _log_engine else ()
    )
    environments = Environments(config.environments)
    repositories.report()
    secrets, access = _secrets(config, repositories), access_policy(config, repositories.catalog.values())
    repository_quotas = RepositoryQuotas(*repository_limits(config, repositories.catalog.added.values()), log.counter)
    link, feed, queries = _LateLink(), Feed(log), RunQueries(log)
    time_slices = TimeSlices()
    read_secret, missing_secrets = _read_secret(secrets, access), _missing_secrets(secrets)
    state = LiveState(
        runs={},
        stalled={},
        placement=Placement(registry),
        hosts_runs=compose is _log_engine,
        locks=Locks(),
        registry=registry,
        timers=Timers(),
        child_runs=ChildRunRegistry(queries.known),
        fill=partial(lowering.fill, read=read_secret),
        missing_secrets=missing_secrets,
        access=access,
        quotas=repository_quotas,
        policies=environments.policies,
        full_name=repositories.full_name,
        digests=repositories.digests,
        epoch=log.generation,
        lease_ms=leases.lease_ms(config.agents.lost_after_ms),
    )
    driver = Driver(state, log, link, clock, feed, queries)
    log_history = LogHistory(log, feed, time_slices)
    compiler, validator = CompilerProcess(), CompilerProcess(starts_early=False)
    workflows = repositories.child_workflows(compiler)
    engine = compose(
        EngineParts(
            config=config,
            state=state,
            journal=log,
            driver=driver,
            queries=queries,
            history=log_history,
            outputs=LogOutputs(store.outputs),
            feed=feed,
            link=link,
            clock=clock,
            secrets=secrets,
            read_secret=read_secret,
            missing_secrets=missing_secrets,
            workflows=workflows,
            time_slices=time_slices,
        )
    )
    contents = repositories.contents()
    admission = OutputAdmission(state.quotas, engine.outputs, clock, driver.keep_counters)
    outputs = OutputCollector(engine.attempts, admission, engine.outputs, link, feed)
    pacing = Pacing(lambda: driver.metrics.events)
    files = FileServer(engine.attempts, contents, link, pacing)
    # Repositories are watched later; no step asks before.
    origins = CacheOrigins(engine.history, lambda name: reconciler.default_ref(name), repositories.url)
    artifacts = (
        artifact_parts.with_store(
            config,
            engine,
            link,
            clock,
            origins,
            is_run=lambda run: log.run(run) is not None,
            pacing=pacing,
        )
        if compose is _log_engine
        else artifact_parts.without_store(engine, link, clock, origins)
    )
    agents = AgentHandler(
        engine.attempts,
        state.placement,
        registry,
        link,
        clock,
        outputs=outputs,
        files=files,
        artifacts=artifacts.server,
        lost_after_ms=config.agents.lost_after_ms,
    )
    engine.connect(agents)
    tokens = TokenRegistry(_tokens_of(log, has_all=compose is _log_engine), started_at=clock.now())
    writers = engine.access(FleetChanges(registry, driver, agents, link), tokens)
    enrollment = EnrollmentService(registry, writers.fleet, clock)
    writers.connect(enrollment)
    identities = AgentIdentities(registry, state.placement, writers.fleet, clock, server_keys.current.fingerprint)
    maintenance = AgentMaintenance(registry, state.placement, state.started_jobs, writers.fleet, clock)
    dispatch = Dispatch(
        agents,
        enrollment,
        server_keys,
        log.generation,
        enrollment.describe,
        on_clone=identities.clone_found,
        identify=identities.identify,
        blind=writers.blind,
        confirms=engine.attempts.confirms,
        absence=engine.absence,
        wall_ms=clock.now,
    )
    link.target = dispatch
    identities.on_foreign = dispatch.disconnect
    audit_export = AuditExport(
        log, log_history, destinations(config.audit), data_dir, is_sealed=log.seal_key_id(AUDIT) != ""
    )
    pruner = Pruner(config.retention.settings, log, store.outputs, driver, clock)
    loop_ports, reconciler = _reconciling(repositories, engine, compiler, clock, access)
    admin = GitRepositoryAdmin(reconciler, repository_quotas, repositories.catalog)
    director = (
        repositories.director(
            reconciler,
            access,
            repository_quotas,
            source.place_of_repository,
            admin,
            LogStreamWriter(driver, REPOSITORIES, repositories.catalog.apply),
        )
        if compose is _log_engine
        else None
    )
    peers = PeerRoles.of(config.api.socket_role, config.api.socket_users)
    appliers = [_logging_applier(), _socket_applier(peers)]
    if director is not None:
        appliers += [
            _rights_applier(environments, access, repositories),
            _repositories_applier(repositories, director, secrets),
            _retention_applier(pruner),
        ]
    agent_admin = FleetAgentAdmin(
        registry, state.placement, enrollment, identities, maintenance, server_keys.described(), clock
    )
    revisions = repositories.revisions()
    notices = (
        Notices(
            config,
            notice_sources(engine.feed, engine.history, agent_admin, admin),
            engine.runs,
            clock,
            notice_outside(secrets.local, access, reconciler, revisions),
            reconciler,
        )
        if engine.feed is not None
        else None
    )
    if notices is not None:
        appliers.append(Applier(keys=("notify", "notices", "smtp"), apply=notices.configure))
    services = Services(
        history=engine.history,
        generation=log.generation,
        outputs=engine.outputs,
        runs=engine.runs,
        feed=engine.feed,
        compiler=compiler,
        validator=validator,
        reader=engine.reader,
        agents=agent_admin,
        repositories=admin,
        repository_changes=director,
        revisions=revisions,
        notices=notices.service if notices is not None else None,
        access=access,
        audit_admin=audit_export,
        retention=LogRetentionAdmin(pruner, log, time_slices) if compose is _log_engine else None,
        artifacts=artifacts.reader,
        caches=artifacts.caches,
        artifact_deleter=artifacts.deleter,
        artifact_usage=artifacts.usage,
        webhooks=SignedWebhookService(loop_ports, reconciler.loops, secrets.local.get),
        clock=clock,
        time_slices=time_slices,
        tokens=tokens,
        token_writer=writers.tokens,
        blind=writers.blind,
        metrics=DriverMetrics(
            driver,
            lambda: dispatch.counters,
            audit_export,
            server_keys.described(),
            engine.run_figures,
            notices.service if notices is not None else None,
            artifacts.figures,
        ),
        version=waterflowd.__version__,
        started_at=clock.now(),
        peers=peers,
        reloader=Reloader(source, config, appliers, check_before_reload),
        lost_after_ms=config.agents.lost_after_ms,
        requests_per_s=config.api.requests_per_second,
        is_open=config.api.open,
        listen=config.api.listen or None,
        api_url=config.api.url,
        fingerprint=server_keys.current.fingerprint,
        web=WebFiles() if config.api.web and config.api.listen else None,
        payloads=cluster_check.payload_decoder(config),
        temporal_ui=config.temporal.ui,
        is_busy=lambda: driver.is_busy,
    )
    own_tasks = dict(artifacts.tasks)
    if compose is _log_engine:
        own_tasks["retention"] = pruner.run
    api = Api(services)
    dispatch.on_rejection = services.audit.agent_rejected
    agents.on_session = services.audit.agent_session
    identities.on_refused = services.audit.agent_session
    return Parts(
        config=config,
        store=store,
        keys=server_keys,
        driver=driver,
        tasks={**engine.tasks, **own_tasks},
        ready=writers.ready,
        reconcile=engine.reconcile,
        agents=agents,
        outputs=outputs,
        files=files,
        artifacts=artifacts.server,
        contents=contents,
        enrollment=enrollment,
        dispatch=dispatch,
        compiler=compiler,
        validator=validator,
        reconciler=reconciler,
        api=ApiServer(
            api,
            config.api.listen or None,
            Path(config.api.socket) if config.api.socket else None,
            connections_max=file_descriptors.connections_max(
                file_descriptors.raise_limit(), quotas.TCP.connections, RESERVED_DESCRIPTORS
            ),
        ),
        secrets=secrets,
        notices=notices,
        services=services,
        audit_export=audit_export,
        starter=ChildRunStarter(driver, workflows),
    )


def check_before_reload(config: Config) -> None:
    """Raises `Rejected` for a configuration with which the daemon would not start. Blocks."""
    check_access(config)
    check_audit(config)
    check_secrets(config)
    check_repositories(config)


def _logging_applier() -> Applier:
    async def apply(config: Config) -> None:
        logs.configure(config.log.level, config.log.format)

    return Applier(keys=("log",), apply=apply)


def _socket_applier(peers: PeerRoles) -> Applier:
    async def apply(config: Config) -> None:
        peers.replace(PeerRoles.of(config.api.socket_role, config.api.socket_users))

    return Applier(keys=("api.socket-role", "api.socket-users"), apply=apply)


def _rights_applier(environments: Environments, access: AccessPolicy, repositories: Repositories) -> Applier:
    async def apply(config: Config) -> None:
        environments.replace(config.environments)
        access.replace(repositories.catalog.values(), *access_rules(config))

    return Applier(keys=("environments", "secrets.grants"), apply=apply)


def _repositories_applier(repositories: Repositories, director: RepositoryDirector, secrets: Sources) -> Applier:
    async def apply(config: Config) -> None:
        repositories.config = config
        secrets.age.replace(_encrypted_files(config))
        await director.configure(config.repository_settings, allow_loopback=config.added_repositories.loopback)
        repositories.report()

    # Rights and quotas of repositories, and the files that have errors because of them, follow from the same change.
    keys = ("repositories", "added-repositories", "quotas", "environments", "secrets.grants")
    return Applier(keys=keys, apply=apply)


def _retention_applier(pruner: Pruner) -> Applier:
    async def apply(config: Config) -> None:
        pruner.retention = config.retention.settings

    return Applier(keys=("retention",), apply=apply)


def _tokens_of(log: ports.Journal, *, has_all: bool) -> Iterator[events.Fact]:
    """The facts about tokens in the daemon's own log; without `has_all`, only those about sessions of browsers."""
    for record in log.read(AUDIT):
        if has_all or not (isinstance(record.event, events.TokenCreated) and record.event.parent is None):
            yield record.event


def _reconciling(
    repositories: Repositories,
    engine: Engine,
    compiler: CompilerProcess,
    clock: LogClock,
    access: AccessPolicy,
) -> tuple[LoopPorts, Reconciler]:
    loop_ports = LoopPorts(
        history=engine.history,
        runs=engine.runs,
        compiler=compiler,
        clock=clock,
        plans=PlanCache(engine.history),
        random=random.random,
        ends_of=engine.ends_of,
        ask_leader=engine.ask_leader,
        access=access,
    )
    return loop_ports, Reconciler(repositories.catalog.values(), repositories.open, loop_ports)


def _log_engine(parts: EngineParts) -> Engine:
    """The log engine: the driver hosts the runs."""
    parts.secrets.reader.changed = parts.driver.secrets_read
    return Engine(
        runs=parts.driver,
        history=parts.history,
        outputs=parts.outputs,
        reader=LogRunReader(parts.queries, parts.driver, parts.time_slices),
        attempts=LiveAttempts(parts.driver, parts.queries),
        access=lambda changes, tokens: AccessWriters(
            fleet=LogStreamWriter(parts.driver, FLEET, changes.apply),
            tokens=LogStreamWriter(parts.driver, AUDIT, tokens.apply),
        ),
        feed=parts.feed,
        ends_of=lambda name: parts.feed,
    )


def _read_secret(secrets: Sources, access: AccessPolicy) -> lowering.ReadSecret:
    """Reads the secrets of attempts. Grants are checked again: the daemon may have another configuration since the dispatch."""

    def read(request: lowering.SecretRequest, name: str) -> str | None:
        refusal = access.secret_refusal(request.origin, request.group, name)
        if refusal is not None:
            raise Rejected(refusal.code, refusal.sentence)
        return secrets.get(name, RunRevision(request.origin.repository, request.revision))

    return read


def _missing_secrets(secrets: Sources) -> lowering.MissingSecrets:
    def missing(request: lowering.SecretRequest) -> list[str]:
        revision = RunRevision(request.origin.repository, request.revision)
        without_value = secrets.missing([name for name in request.names.values() if name is not None], revision)
        return [name for name, outer in request.names.items() if outer is None or outer in without_value]

    return missing


def check_secrets(config: Config) -> None:
    """Raises `Rejected` WF622 for a secrets file or key file that cannot be used."""
    _secrets(config, Repositories(config)).check()


def _secrets(config: Config, repositories: Repositories) -> Sources:
    table, data_dir = config.secrets, Path(config.data_dir)
    file = Path(table.file) if table.file else None
    local = LocalSources(table.env_prefix, file, credential_prefix=table.credential_prefix)
    reader = SecretReader(table.give_up_after_s)
    return Sources(local, reader, _age_files(config, data_dir, repositories), _vault(config, data_dir))


def _age_files(config: Config, data_dir: Path, repositories: Repositories) -> AgeFiles:
    return AgeFiles(_encrypted_files(config), repositories.read, data_dir)


def _encrypted_files(config: Config) -> dict[str, EncryptedFiles]:
    return {
        item.name: EncryptedFiles(files=item.age_files, identity_file=Path(item.age_identity_file))
        for item in config.repositories
        if item.age_files
    }


def _vault(config: Config, data_dir: Path) -> Vault | None:
    table = config.vault
    if not table.address:
        return None
    from waterflowd.secrets.vault import Vault

    kind, file = ("secret-id", table.secret_id_file) if table.role_id else ("token", table.token_file)
    return Vault(table.settings, vault_key.reader(kind, file, os.environ, data_dir))


def check_repositories(config: Config) -> None:
    """Raises `Rejected` WF502 for a repository that cannot be opened with its configuration."""
    for settings in config.repository_settings:
        repository_opener.check(settings)


def check_workflows(config: Config) -> list[workflow_check.RepositoryReport]:
    """Compares what the workflows of all repositories use with the configuration. Remotes are fetched to a temporary folder."""

    async def check(folder: Path) -> list[workflow_check.RepositoryReport]:
        opener, access = (
            repository_opener.RepositoryOpener(folder, os.environ),
            access_policy(config, config.repository_settings),
        )
        async with CompilerProcess() as compiler:
            return [
                await workflow_check.check_repository(settings, opener.open, compiler, access)
                for settings in config.repository_settings
            ]

    with tempfile.TemporaryDirectory(prefix="waterflowd-check-") as folder:
        return asyncio.run(check(Path(folder)))


def check_audit(config: Config) -> None:
    """Raises `Rejected` WF620 for an invalid destination of the audit trail, WF622 or `Stalled` WF320 for an unusable key."""
    destinations(config.audit)
    audit.load_keys(config)


def check_access(config: Config) -> None:
    """Raises `Rejected` WF620 for a role or a user that does not exist."""
    PeerRoles.of(config.api.socket_role, config.api.socket_users)


def examine(config: Config) -> Findings:
    """Checks the whole log of a stopped daemon. Raises `Stalled` for a damaged one, WF321 for a forged audit trail."""
    keys = audit.load_keys(config)
    found = opening.examine(Path(config.data_dir), {AUDIT: keys})
    audit.check_seals(found.seals[AUDIT], keys)
    return found
