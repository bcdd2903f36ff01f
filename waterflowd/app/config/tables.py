"""The tables of the configuration file: every setting, with its default.

Rules of this file: a field is a key in the file (with hyphens) and `WATERFLOWD_<TABLE>_<KEY>` in the environment
(`waterflow_agent.environment_variables`). An unknown key is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from waterflowd.artifacts.caches.store import CacheLimits
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.engine import events
from waterflowd.host.retention.policy import GRACE_MS, Retention
from waterflowd.model import durations
from waterflowd.notices.channels import KINDS, PER_HOUR
from waterflowd.reconcile.settings import (
    DEFAULT_FOLDERS,
    RepositorySettings,
)
from waterflowd.secrets import vault_settings

DEFAULT_FILE = Path("/etc/waterflow/waterflowd.toml")
DEFAULT_AUDIT_KEY_FILE = "/etc/waterflow/audit.key"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
ENGINES = ("log", "temporal")
ENVIRONMENT_PREFIX = "WATERFLOWD_"
#: Variables that are not keys: the file itself, and secrets, which are never in the file.
OTHER_VARIABLES = (
    "WATERFLOWD_CONFIG",
    "WATERFLOWD_VAULT_TOKEN",
    "WATERFLOWD_VAULT_SECRET_ID",
    "WATERFLOWD_GIT_TOKEN_*",
)
#: The least limit for stored output: a quarter of the space of one large log.
OUTPUT_BYTES_MIN = 16 << 20

#: How an environment treats runs without an authenticated starter.
UNATTENDED = tuple(choice.value for choice in events.Unattended)
#: The largest number of approvals that an environment may require.
APPROVALS_MAX = 20


class Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file."""


def fields_of(table: type[Table]) -> dict[str, Any]:
    """The keys of a table as they are in the file, with their types."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(table)}


class ApiTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """How the API is served."""

    #: `host:port`; empty to disable TCP.
    listen: str = "127.0.0.1:8080"
    #: The address at which users reach the API, such as `https://waterflow.internal`, if it is not that of `listen`, for
    #: example that of a proxy. Links contain it, and it counts as this daemon in `Host`.
    url: str = ""
    #: Requests need no token on this address; Host, Origin and content type are still checked.
    open: bool = False
    #: Path of the unix socket; empty for none.
    socket: str = "/run/waterflow/waterflowd.sock"
    #: Role of everyone who may connect to the socket: `viewer`, `runner`, `approver`, `operator`, `admin`, or `none`.
    socket_role: str = "admin"
    #: Roles of individual users: name or uid, and a role or `none`.
    socket_users: dict[str, str] = {}
    #: Rate limit for one principal, or for one address without a principal; 0 for no limit.
    requests_per_second: int = 200
    #: Whether the web pages are served as well.
    web: bool = True


class AgentsTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The ports for agents. Both accept only CURVE connections."""

    #: Address for agents: `tcp://host:port`.
    listen: str = "tcp://0.0.0.0:7233"
    #: Address at which new agents enroll.
    enroll_listen: str = "tcp://0.0.0.0:7234"
    #: How long a server may be disconnected before its running steps count as lost.
    lost_after: str = "10m"
    #: Host names or addresses in join tokens, separated by commas; default: that of `listen`, or the name of this host.
    address: str = ""

    @property
    def lost_after_ms(self) -> int:
        """`lost-after` in milliseconds."""
        return durations.parse(self.lost_after)


class RepositoryTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """One watched repository."""

    #: Letters, digits, dots, `_` and `-`; unique.
    name: str
    #: https, ssh, git, or the absolute path of a local repository, bare or not; without a password.
    url: str
    #: Patterns of branches, or of tags with the prefix `tags/`; empty: the branch that HEAD names.
    refs: tuple[str, ...] = ()
    #: Folders that contain workflows.
    paths: tuple[str, ...] = DEFAULT_FOLDERS
    #: How often the repository is fetched at least.
    interval: str = "1m"
    #: Groups that its workflows may use.
    groups: tuple[str, ...] = ("*",)
    #: Names of the secrets that its webhooks may be signed with. No workflow can read them.
    webhook_keys: tuple[str, ...] = ()
    #: Repositories whose jobs may read the files of this one.
    readable_by: tuple[str, ...] = ()
    #: For https: a file with one line, a token or `user:token`; mode 0600.
    credentials_file: str = ""
    #: Required for ssh: the private key, without a passphrase; mode 0600.
    ssh_key_file: str = ""
    #: Required for ssh: the keys of trusted hosts, as `ssh-keyscan` prints them.
    known_hosts_file: str = ""
    #: CA certificates for https; default: those of the system.
    ca_file: str = ""
    #: Allows http to a server on this machine, for tests.
    allow_http: bool = False
    #: Timeout of one fetch.
    fetch_timeout: str = "2m"
    #: Maximum size of one fetch in bytes.
    fetch_max_bytes: int = 1 << 30
    #: Quotas of this repository that differ from those in `[quotas]`: `runs-per-hour`, `output-bytes-per-hour`.
    quotas: dict[str, int] = {}
    #: Encrypted files in the repository: `NAME.age` holds one secret, `ANYTHING.toml.age` several.
    age_files: tuple[str, ...] = ()
    #: The private keys for them, as written by age-keygen.
    age_identity_file: str = ""


class AddedRepositoriesTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What repositories that are added through the API may use; those of this file may use everything."""

    #: Where the files with their credentials are: keys, tokens, known hosts and CA certificates.
    credentials_dir: str = "/etc/waterflow/credentials"
    #: Directories below which they may be local repositories; empty: only https and ssh.
    local_paths: tuple[str, ...] = ()
    #: Whether their remote may be on this machine.
    loopback: bool = False


class QuotasTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What each repository may use; 0 for no limit."""

    #: Runs that a repository may start per hour: all at once, or spread over the hour.
    runs_per_hour: int = 1000
    #: Bytes of output of its steps that are stored per hour; workflows that are sent to the API share one such quota.
    output_bytes_per_hour: int = 1 << 30


class RetentionTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What is removed. By default nothing is; the newest run and the newest successful run of each workflow always stay."""

    #: Runs that ended longer ago are removed, such as `90d`, at least `1d`; empty: none.
    run_max_age: str = ""
    #: The same for failed runs, which then do not count for `runs-per-workflow`; empty: as for all runs.
    failed_run_max_age: str = ""
    #: Older runs of a workflow are removed if they ended at least a day ago; 0 for no limit.
    runs_per_workflow: int = 0
    #: The output of runs that ended longer ago is removed, at least `1d`; the runs stay. Empty: none.
    output_max_age: str = ""
    #: The oldest output is removed while all output takes more bytes than this; 0 for no limit.
    output_max_bytes: int = 0

    @property
    def settings(self) -> Retention:
        """The settings of the rules; raises `ValueError` for an invalid value."""
        return Retention(
            run_max_age_ms=_age("run-max-age", self.run_max_age),
            failed_run_max_age_ms=_age("failed-run-max-age", self.failed_run_max_age),
            runs_per_workflow=_limit("runs-per-workflow", self.runs_per_workflow, 1),
            output_max_age_ms=_age("output-max-age", self.output_max_age),
            output_max_bytes=_limit("output-max-bytes", self.output_max_bytes, OUTPUT_BYTES_MIN),
        )


class ArtifactsTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What jobs may store as artifacts, and where. Sizes are in bytes."""

    #: Where the content of artifacts is: `s3://bucket/prefix`, for this daemon alone; empty: in `data-dir`.
    storage: str = ""
    #: URL of a service that is compatible with S3; default: `AWS_ENDPOINT_URL`, else Amazon's.
    endpoint: str = ""
    #: Region of the bucket; default: `AWS_REGION`, else `us-east-1`.
    region: str = ""
    #: Key for the bucket, with `secret-access-key-file`; default: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    access_key_id: str = ""
    #: File with the secret of that key, mode 0600.
    secret_access_key_file: str = ""
    #: How long artifacts are kept if the step does not say so, such as `30d`; empty: as long as their run.
    keep: str = "90d"
    #: Size of one artifact.
    artifact_max_bytes: int = 10 << 30
    #: Files of one artifact.
    artifact_max_files: int = 250_000
    #: Size of all artifacts of one run.
    run_max_bytes: int = 20 << 30
    #: Space that all artifacts take; equal content is stored once.
    max_bytes: int = 100 << 30
    #: What stays free on the disk: with less, no artifact is stored.
    reserved_bytes: int = 1 << 30

    @property
    def limits(self) -> ArtifactLimits:
        """The limits of the store; raises `ValueError` for an invalid value."""
        return ArtifactLimits(
            artifact_bytes=_at_least_one("artifact-max-bytes", self.artifact_max_bytes),
            files=_at_least_one("artifact-max-files", self.artifact_max_files),
            run_bytes=_at_least_one("run-max-bytes", self.run_max_bytes),
            total_bytes=_at_least_one("max-bytes", self.max_bytes),
            reserved_bytes=_at_least_one("reserved-bytes", self.reserved_bytes),
            keep_ms=_keep(self.keep),
        )


class CachesTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What jobs may store as caches, in the space of artifacts. Sizes are in bytes, as if no content were stored once only."""

    #: How long a cache is kept after it was last used, such as `7d`.
    keep: str = "7d"
    #: Size of one cache.
    entry_max_bytes: int = 5 << 30
    #: Size of all caches of a repository; those that were not used for the longest time make room.
    repository_max_bytes: int = 10 << 30
    #: Size of all caches; those of the repository with the largest ones make room.
    max_bytes: int = 50 << 30

    @property
    def limits(self) -> CacheLimits:
        """The limits of the caches; raises `ValueError` for an invalid value."""
        keep_ms = _keep(self.keep)
        if keep_ms is None:
            raise ValueError("keep: expected a duration, such as 7d")
        return CacheLimits(
            entry_bytes=_at_least_one("entry-max-bytes", self.entry_max_bytes),
            repository_bytes=_at_least_one("repository-max-bytes", self.repository_max_bytes),
            total_bytes=_at_least_one("max-bytes", self.max_bytes),
            keep_ms=keep_ms,
        )


def _at_least_one(key: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{key}: expected at least 1, found {value}")
    return value


def _keep(text: str) -> int | None:
    if not text:
        return None
    try:
        return durations.parse(text)
    except ValueError as error:
        raise ValueError(f"keep: {error}") from None


def _age(key: str, text: str) -> int | None:
    if not text:
        return None
    try:
        age = durations.parse(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if age < GRACE_MS:
        raise ValueError(
            f'{key}: expected at least 1d, found "{text}"; nothing is removed on the day on which it ended'
        )
    return age


def _limit(key: str, value: int, least: int) -> int | None:
    if value and value < least:
        raise ValueError(f"{key}: expected 0 (no limit) or at least {least:,}, found {value:,}")
    return value or None


class GrantTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Lets jobs read secrets; without a grant no job can read any. Names are patterns with `*`; an empty list: any."""

    #: Names of secrets; `-` equals `_`, and case does not matter.
    secrets: tuple[str, ...]
    #: Names of repositories.
    repositories: tuple[str, ...] = ()
    #: Also for workflows that are sent to the API, which are in no repository.
    without_repository: bool = False
    #: Patterns of branches, or of tags with the prefix `tags/`.
    refs: tuple[str, ...] = ()
    #: Environments, one of which the job must have.
    environments: tuple[str, ...] = ()
    #: Groups that the job may run on.
    groups: tuple[str, ...] = ()


class SecretsTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Sources of secrets, in the order in which they are searched."""

    #: Secret `DEPLOY_KEY` is the environment variable with this prefix.
    env_prefix: str = "WATERFLOW_SECRET_"
    #: Secret `DEPLOY_KEY` is the systemd credential with this prefix; empty for none. Other credentials are not secrets.
    credential_prefix: str = "secret."
    #: A TOML file of `name = "value"`, mode 0600; empty for none.
    file: str = ""
    #: How long a source that does not answer is retried before the step fails.
    give_up_after: str = "10m"
    #: Which jobs may read which secrets.
    grants: tuple[GrantTable, ...] = ()

    @property
    def give_up_after_s(self) -> float:
        """`give-up-after` in seconds."""
        return durations.parse(self.give_up_after) / 1000


class VaultTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The Vault server, how the daemon authenticates, and which secrets it reads."""

    #: `https://host:port`; http only on this machine. Empty to disable Vault.
    address: str = ""
    #: Mount path of the key/value engine.
    mount: str = "secret"
    #: Version of the engine, 1 or 2.
    kv_version: int = 2
    #: Namespace, if the server has them.
    namespace: str = ""
    #: CA certificates; default: those of the system.
    ca_file: str = ""
    #: A file with a token, mode 0600. WATERFLOWD_VAULT_TOKEN and the systemd credential vault-token take precedence.
    token_file: str = ""
    #: Role id for AppRole, instead of a token.
    role_id: str = ""
    #: A file with the secret id. WATERFLOWD_VAULT_SECRET_ID and the systemd credential vault-secret-id take precedence.
    secret_id_file: str = ""
    #: Mount path of AppRole.
    approle_mount: str = "approle"
    #: Timeout of one request.
    timeout: str = "10s"
    #: How long a value is cached; a shorter lease takes precedence.
    cache: str = "1m"
    #: `NAME = "path#field"`.
    secrets: dict[str, str] = {}

    @property
    def settings(self) -> vault_settings.VaultSettings:
        """The settings of the Vault client; raises `ValueError` for an invalid value."""
        return vault_settings.VaultSettings(
            address=self.address,
            mount=self.mount.strip("/"),
            version=self.kv_version,
            namespace=self.namespace,
            ca_file=self.ca_file,
            role_id=self.role_id,
            approle_mount=self.approle_mount.strip("/"),
            timeout_s=durations.parse(self.timeout) / 1000,
            cache_s=durations.parse(self.cache) / 1000,
            fields=vault_settings.fields(self.secrets),
        )


class EnvironmentTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Requirements for jobs with this environment. Workflow files cannot lower them."""

    #: The name that jobs use.
    name: str
    #: Principals that may approve; empty: everyone with the role.
    approvers: tuple[str, ...] = ()
    #: Number of approvals required; 1 when there are approvers.
    minimum: int = 0
    #: Whether the principal that started a run may approve it.
    self_approval: bool = True
    #: With `self-approval = false`, for runs without an authenticated starter (push, schedule, webhook): `two-approvers`, or
    #: `refuse`.
    unattended: str = "two-approvers"
    #: Patterns of the refs whose runs may use the environment; empty: all.
    refs: tuple[str, ...] = ()
    #: Groups that only jobs with this environment may use, as patterns with `*`.
    groups: tuple[str, ...] = ()
    #: Secrets that only jobs with this environment may read, as patterns with `*`.
    secrets: tuple[str, ...] = ()
    #: Override the workflow's `vars` in these jobs.
    vars: dict[str, Any] = {}


class AuditTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The audit trail: its key, and where every record is sent as well."""

    #: File with the key that seals its records, outside the data directory. The systemd credential `audit-key` takes
    #: precedence. The default file may be missing; then the records have no seals.
    key_file: str = DEFAULT_AUDIT_KEY_FILE
    #: A file to which every record is appended, one JSON object per line; empty for none.
    export_file: str = ""
    #: `/dev/log`, `udp://host:port` or `tcp://host:port` of a syslog server; empty for none.
    export_syslog: str = ""


class ClusterTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """How to connect to a namespace of a Temporal cluster."""

    #: `host:port` of the cluster's gRPC port. TLS is required, except on this machine without `ca`, `cert` and `api-key-file`.
    address: str = ""
    #: A namespace for this engine alone.
    namespace: str = "waterflow"
    #: CA certificates of the cluster; default: those of the system.
    ca: str = ""
    #: The certificate with which the daemon authenticates.
    cert: str = ""
    #: Its private key, mode 0600.
    key: str = ""
    #: Instead of a certificate: a file with an API key, mode 0600.
    api_key_file: str = ""


class TemporalTable(ClusterTable, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The Temporal cluster of `engine = "temporal"`, and what the engine keeps outside of it."""

    #: The keys that seal what Temporal stores, one per line, mode 0600: the first one seals, all open.
    payload_keys: str = ""
    #: Where output logs are, for all daemons: `dir:/path` on a shared file system, or `s3://bucket/prefix`; else in `data-dir`.
    objects: str = ""
    #: Identifies this daemon in Temporal; default: the name of the host.
    name: str = ""
    #: The origin of Temporal's web pages, such as `https://temporal.internal`: they may open payloads with an API token.
    ui: str = ""


class LogTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The daemon's own log, on standard error."""

    #: `debug`, `info`, `warning` or `error`.
    level: str = "info"
    #: `text` or `json`.
    format: str = "text"


class NotifyTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A channel for notices: which ones, and where they go."""

    #: Letters, digits, dots, `_` and `-`; unique.
    name: str
    #: What it is told of: `failure`, `recovery`, `approval`, `agent`, `repository`.
    on: tuple[str, ...] = KINDS
    #: Names of repositories, as patterns with `*`.
    repositories: tuple[str, ...] = ("*",)
    #: Names or paths of workflows, as patterns with `*`.
    workflows: tuple[str, ...] = ("*",)
    #: Patterns of branches, or of tags with the prefix `tags/`; empty: all.
    refs: tuple[str, ...] = ()
    #: Of a webhook: `slack`, `mattermost`, `teams` or `json`.
    format: str = "json"
    #: The address of a webhook, if it is not a secret.
    url: str = ""
    #: Name of the secret that holds the address; default: `NOTIFY_` and the name of the channel.
    url_secret: str = ""
    #: Name of the secret that signs the body.
    sign_secret: str = ""
    #: Mail: recipients.
    mail_to: tuple[str, ...] = ()
    #: Messages per hour; beyond that, notices are collected.
    per_hour: int = PER_HOUR


class NoticesTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """When problems are told, and what files of repositories may do."""

    #: How long an agent must be disconnected.
    agent_gone_after: str = "5m"
    #: How long a repository must have its problem.
    repository_broken_after: str = "1m"
    #: When a problem that still exists is told again.
    remind_after: str = "1d"
    #: How long a delivery is tried.
    give_up_after: str = "1d"
    #: Hosts to which webhooks in `.waterflow/notify.yml` may lead; empty: none.
    repository_hosts: tuple[str, ...] = ()
    #: Domains of recipients there; empty: none.
    repository_mail_domains: tuple[str, ...] = ()


class SmtpTable(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The mail server for notices."""

    #: Its name; empty: no mail.
    host: str = ""
    #: Its port.
    port: int = 587
    #: `starttls`, `tls`, or `none` without a password.
    security: str = "starttls"
    #: User name; empty: no login.
    user: str = ""
    #: Name of the secret with the password.
    password_secret: str = ""
    #: The sender's address.
    sender: str = ""
    #: CA certificates; default: those of the system.
    ca_file: str = ""


class Config(Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """All settings."""

    #: Holds the event log, the keys of the server and the output of steps; must be on a local disk.
    data_dir: str = "/var/lib/waterflow"
    #: Where runs are: `log`, in the event log in `data-dir`; `temporal`, on a Temporal cluster.
    engine: str = "log"
    temporal: TemporalTable = TemporalTable()
    log: LogTable = LogTable()
    audit: AuditTable = AuditTable()
    api: ApiTable = ApiTable()
    agents: AgentsTable = AgentsTable()
    secrets: SecretsTable = SecretsTable()
    vault: VaultTable = VaultTable()
    quotas: QuotasTable = QuotasTable()
    retention: RetentionTable = RetentionTable()
    artifacts: ArtifactsTable = ArtifactsTable()
    caches: CachesTable = CachesTable()
    environments: tuple[EnvironmentTable, ...] = ()
    notify: tuple[NotifyTable, ...] = ()
    notices: NoticesTable = NoticesTable()
    smtp: SmtpTable = SmtpTable()
    repositories: tuple[RepositoryTable, ...] = ()
    added_repositories: AddedRepositoriesTable = AddedRepositoriesTable()

    @property
    def repository_settings(self) -> list[RepositorySettings]:
        """The settings of the reconcile loops."""
        return [
            RepositorySettings(
                name=item.name,
                url=item.url,
                refs=item.refs,
                paths=item.paths,
                interval_ms=durations.parse(item.interval),
                groups=item.groups,
                webhook_keys=item.webhook_keys,
                readable_by=item.readable_by,
                credentials_file=item.credentials_file,
                ssh_key_file=item.ssh_key_file,
                known_hosts_file=item.known_hosts_file,
                ca_file=item.ca_file,
                allow_http=item.allow_http,
                fetch_timeout_ms=durations.parse(item.fetch_timeout),
                fetch_bytes_max=item.fetch_max_bytes,
            )
            for item in self.repositories
        ]
