"""The daemon's configuration: TOML, overridden by the environment and the command line.

Rules of this file: the Structs below define every setting. A field is a key in the file (with hyphens) and
`WATERFLOWD_<TABLE>_<KEY>` in the environment (`waterflow_agent.environment_variables`). Precedence: command line, environment,
file, default. An unknown key is an error with its line and a suggestion.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import addresses, environment_variables
from waterflow_agent.environment_variables import EnvironmentSettings
from waterflow_agent.errors import Rejected
from waterflowd.access.policy import AccessPolicy, EnvironmentRules, Grant
from waterflowd.access.repository_quotas import QUOTA_MAX, RepositoryLimits
from waterflowd.engine import events
from waterflowd.host.retention.policy import GRACE_MS, Retention
from waterflowd.model import durations
from waterflowd.notices.channels import FORMATS, KINDS, PER_HOUR
from waterflowd.notices.mail import SECURITIES
from waterflowd.reconcile.added import RepositoryAdded
from waterflowd.reconcile.settings import (
    DEFAULT_FOLDERS,
    FETCH_BYTES,
    INTERVAL_MS_MIN,
    NAME,
    RepositorySettings,
)
from waterflowd.secrets import age, vault_settings

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

_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+|\*):([0-9]{1,5}|\*)")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_OBJECTS = re.compile(r"dir:/.*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file."""


class ApiTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class AgentsTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class RepositoryTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class AddedRepositoriesTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What repositories that are added through the API may use; those of this file may use everything."""

    #: Where the files with their credentials are: keys, tokens, known hosts and CA certificates.
    credentials_dir: str = "/etc/waterflow/credentials"
    #: Directories below which they may be local repositories; empty: only https and ssh.
    local_paths: tuple[str, ...] = ()
    #: Whether their remote may be on this machine.
    loopback: bool = False


class QuotasTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What each repository may use; 0 for no limit."""

    #: Runs that a repository may start per hour: all at once, or spread over the hour.
    runs_per_hour: int = 1000
    #: Bytes of output of its steps that are stored per hour; workflows that are sent to the API share one such quota.
    output_bytes_per_hour: int = 1 << 30


class RetentionTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class GrantTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class SecretsTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class VaultTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class EnvironmentTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class AuditTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The audit trail: its key, and where every record is sent as well."""

    #: File with the key that seals its records, outside the data directory. The systemd credential `audit-key` takes
    #: precedence. The default file may be missing; then the records have no seals.
    key_file: str = DEFAULT_AUDIT_KEY_FILE
    #: A file to which every record is appended, one JSON object per line; empty for none.
    export_file: str = ""
    #: `/dev/log`, `udp://host:port` or `tcp://host:port` of a syslog server; empty for none.
    export_syslog: str = ""


class ClusterTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class LogTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The daemon's own log, on standard error."""

    #: `debug`, `info`, `warning` or `error`.
    level: str = "info"
    #: `text` or `json`.
    format: str = "text"


class NotifyTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class NoticesTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class SmtpTable(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


class Config(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
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


def access_policy(config: Config, repositories: Iterable[RepositorySettings]) -> AccessPolicy:
    """What the configuration lets the jobs of these repositories use."""
    return AccessPolicy(tuple(repositories), *access_rules(config))


def access_rules(config: Config) -> tuple[list[EnvironmentRules], list[Grant]]:
    """What environments own, and who may read secrets."""
    environments = [
        EnvironmentRules(name=item.name, groups=item.groups, secrets=item.secrets) for item in config.environments
    ]
    return environments, [Grant(**msgspec.structs.asdict(item)) for item in config.secrets.grants]


def repository_limits(
    config: Config, added: Iterable[RepositoryAdded] = ()
) -> tuple[RepositoryLimits, dict[str, RepositoryLimits]]:
    """The quotas that apply by default, and those of each repository; the configuration wins over what was added."""
    default = RepositoryLimits(**msgspec.structs.asdict(config.quotas))
    own = {
        fact.settings.name: _with_limits(
            default,
            {"runs-per-hour": fact.runs_per_hour, "output-bytes-per-hour": fact.output_bytes_per_hour},
        )
        for fact in added
    }
    return default, own | {item.name: _with_limits(default, item.quotas) for item in config.repositories}


def _with_limits(default: RepositoryLimits, own: Mapping[str, int | None]) -> RepositoryLimits:
    given = {key.replace("-", "_"): value for key, value in own.items() if value is not None}
    return msgspec.structs.replace(default, **given)


def file_in_use(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that `load` reads; None if there is none."""
    environment = os.environ if environment is None else environment
    named = file or (Path(environment["WATERFLOWD_CONFIG"]) if environment.get("WATERFLOWD_CONFIG") else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def load(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration. Raises `Rejected` WF620 with the source, the key, and the line in the file.

    `overrides` come from the command line, by dotted key. Without `file`, the default file is read if it exists.
    """
    environment = os.environ if environment is None else environment
    path = file_in_use(file, environment)
    settings = _read(path) if path is not None else {}
    found = _from_environment(environment, settings)
    _override(settings, found.settings)
    overrides = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in overrides.items():
        _set(settings, key, value)
    try:
        return _checked(msgspec.convert(settings, Config, strict=False))
    except msgspec.ValidationError as error:
        raise Rejected("WF620", f"invalid configuration: {error}") from error
    except Rejected as error:
        raise Rejected(error.code, found.name_source(error.text, overridden=overrides)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except OSError as error:
        raise Rejected("WF620", f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected("WF620", f"{path}: {error}") from error
    for table_path, number, key, known in _unknown(settings, Config, ()):
        line = _line_of(text, table_path, number, key)
        close = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else f"; known here: {', '.join(known)}"
        raise Rejected("WF620", f'{path}:{line}: unknown key "{key}"{hint}')
    try:
        msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        line_text = f":{_line_of(text, *_error_location(error))}" if "`$." in str(error) else ""
        raise Rejected("WF620", f"{path}{line_text}: {error}") from error
    return settings


def _fields(table: type) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(table)}


#: Keys that are arrays of tables.
_LISTS: dict[str, type] = {
    "repositories": RepositoryTable,
    "environments": EnvironmentTable,
    "grants": GrantTable,
    "notify": NotifyTable,
}


def _unknown(
    settings: dict[str, Any], table: type, table_path: tuple[str, ...], number: int = 0
) -> Iterator[tuple[tuple[str, ...], int, str, list[str]]]:
    """The table, its index in an array of tables, the unknown key, and the known keys of the table."""
    fields = _fields(table)
    for key, value in settings.items():
        if key not in fields:
            yield table_path, number, key, list(fields)
            continue
        inner = _LISTS.get(key, fields[key])
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict) and isinstance(inner, type) and issubclass(inner, _Table):
                yield from _unknown(item, inner, (*table_path, key), position)


def _error_location(error: msgspec.ValidationError) -> tuple[tuple[str, ...], int, str]:
    """The table, its index in an array of tables, and the key in an error of msgspec; the key is empty for the table itself."""
    found = re.search(r"`\$\.([a-z-]+)(?:\[(\d+|\.\.\.)\])?(?:\.([a-z-]+))?", str(error))
    if found is None:
        return (), 0, ""
    first, number, second = found.groups()
    if number is None and second is None:
        return (), 0, first
    return (first,), int(number) if number and number.isdigit() else 0, second or ""


def line_of_item(text: str, key: str, number: int) -> int:
    """The line of the `number`-th table of an array of tables, such as `[[repositories]]`."""
    return _line_of(text, (key,), number, "")


def _line_of(text: str, table_path: tuple[str, ...], number: int, key: str) -> int:
    """The line of a key in the `number`-th table of that name, or the line of the table, or 1."""
    name = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""")
    dotted = re.compile(rf"""\s*{re.escape(".".join((*table_path, key)))}\s*[.=]""")
    inline = re.compile(rf"""\s*{re.escape(".".join(table_path))}\s*=""") if table_path else None
    header = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}")
    table: tuple[str, ...] = ()
    fallback, tables_seen = 1, 0
    for line, content in enumerate(text.splitlines(), 1):
        found = header.match(content)
        if found:
            table = tuple(part.strip(" \"'") for part in found.group(1).split("."))
            if table == (*table_path, key):
                return line
            tables_seen += table == table_path
            fallback = line if table == table_path and tables_seen == number + 1 else fallback
        elif (table == table_path and tables_seen in (0, number + 1) and name.match(content)) or (
            not table and dotted.match(content)
        ):
            return line
        elif not table and inline is not None and inline.match(content):
            fallback = line
    return fallback


def _from_environment(environment: Mapping[str, str], file: Mapping[str, Any]) -> EnvironmentSettings:
    prefix = environment.get("WATERFLOWD_SECRETS_ENV_PREFIX") or file.get("secrets", {}).get("env-prefix")
    secrets = (f"{prefix}*",) if prefix else ()
    return environment_variables.read(Config, ENVIRONMENT_PREFIX, environment, others=(*OTHER_VARIABLES, *secrets))


def _override(settings: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Overrides the keys of tables one by one, and everything else as a whole."""
    for key, value in found.items():
        is_table = key in settings and isinstance(value, dict)
        settings[key] = settings[key] | value if is_table else value


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value


def _checked(config: Config) -> Config:
    if not config.data_dir:
        raise Rejected("WF620", "data-dir must be the path of a directory, but is empty")
    if config.api.listen and not (_LISTEN.fullmatch(config.api.listen) and _is_port(config.api.listen)):
        raise Rejected("WF620", f"api.listen: expected host:port, found {config.api.listen!r}")
    if config.api.url and not _ORIGIN.fullmatch(config.api.url):
        raise Rejected(
            "WF620",
            f"api.url: expected an address without a path, e.g. https://waterflow.internal, found {config.api.url!r}",
        )
    for key, endpoint in (("listen", config.agents.listen), ("enroll-listen", config.agents.enroll_listen)):
        if not (_ENDPOINT.fullmatch(endpoint) and _is_port(endpoint)):
            raise Rejected("WF620", f"agents.{key}: expected tcp://host:port, found {endpoint!r}")
    if len(addresses.split(config.agents.address)) > addresses.ADDRESSES_MAX:
        raise Rejected("WF620", f"agents.address: expected at most {addresses.ADDRESSES_MAX} addresses")
    for key, text in [
        ("agents.lost-after", config.agents.lost_after),
        ("secrets.give-up-after", config.secrets.give_up_after),
        *((f"repositories.{item.name}.interval", item.interval) for item in config.repositories),
        *((f"repositories.{item.name}.fetch-timeout", item.fetch_timeout) for item in config.repositories),
    ]:
        try:
            if durations.parse(text) < INTERVAL_MS_MIN:
                raise ValueError(f'"{text}" is too short')
        except ValueError as error:
            raise Rejected("WF620", f"{key}: {error}") from None
    for item in config.repositories:
        if item.fetch_max_bytes not in FETCH_BYTES:
            raise Rejected("WF620", f"repositories.{item.name}.fetch-max-bytes: expected 1 MiB to 1 TiB in bytes")
    _check_quotas(config)
    _check_retention(config)
    _check_environments(config.environments)
    _check_temporal(config)
    _check_secrets(config)
    _check_grants(config)
    _check_notices(config)
    names = [item.name for item in config.repositories]
    for name in names:
        if names.count(name) > 1:
            raise Rejected("WF620", f'repositories: duplicate name "{name}"')
        if not NAME.fullmatch(name):
            raise Rejected("WF620", f'repositories: invalid name "{name[:64]}"; use letters, digits, ".", "_", "-"')
    if not 0 <= config.api.requests_per_second <= 1_000_000:
        raise Rejected("WF620", "api.requests-per-second: expected 0 to 1,000,000")
    if config.log.level not in LOG_LEVELS:
        raise Rejected("WF620", f"log.level: expected one of {', '.join(LOG_LEVELS)}, found {config.log.level!r}")
    if config.log.format not in LOG_FORMATS:
        raise Rejected("WF620", f"log.format: expected one of {', '.join(LOG_FORMATS)}, found {config.log.format!r}")
    return config


def _is_port(address: str) -> bool:
    port = address.rpartition(":")[2]
    return port == "*" or int(port) < 1 << 16


def advertised(endpoint: str, address: str) -> str:
    """The endpoints in a join token: the bound port, at the configured addresses or one that other machines can reach."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    hosts = addresses.split(address) or [socket.gethostname() if host in ("0.0.0.0", "*", "[::]") else host]
    return addresses.join([f"tcp://{_bracketed(each)}:{port}" for each in hosts])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_quotas(config: Config) -> None:
    known = list(_fields(QuotasTable))
    given = [(f"quotas.{key}", key, getattr(config.quotas, key.replace("-", "_"))) for key in known]
    given += [
        (f"repositories.{item.name}.quotas.{key}", key, value)
        for item in config.repositories
        for key, value in item.quotas.items()
    ]
    for where, key, value in given:
        if key not in known:
            raise Rejected("WF620", f"{where}: unknown quota; known: {', '.join(known)}")
        if not 0 <= value <= QUOTA_MAX:
            raise Rejected("WF620", f"{where}: expected 0 (no limit) to {QUOTA_MAX:,}")


def _check_retention(config: Config) -> None:
    try:
        settings = config.retention.settings
    except ValueError as error:
        raise Rejected("WF620", f"retention.{error}") from None
    failed, others = settings.failed_run_max_age_ms, settings.run_max_age_ms
    if failed is not None and others is not None and failed < others:
        raise Rejected(
            "WF620", "retention.failed-run-max-age: expected at least run-max-age: failed runs are kept longer"
        )
    if config.engine == "temporal" and (settings.removes_runs or settings.removes_output):
        raise Rejected(
            "WF620",
            'retention: with engine = "temporal" runs are kept in Temporal, which removes them after the retention period of'
            " the namespace, and output is in the object store; set that period, and a lifecycle rule of the store",
        )


def _check_environments(environments: Sequence[EnvironmentTable]) -> None:
    names = [item.name for item in environments]
    for item in environments:
        if not item.name or names.count(item.name) > 1:
            raise Rejected("WF620", f'environments: name "{item.name}" is empty or a duplicate')
        if item.unattended not in UNATTENDED:
            text = f"expected {' or '.join(UNATTENDED)}, found {item.unattended!r}"
            raise Rejected("WF620", f"environments.{item.name}.unattended: {text}")
        most = len(item.approvers) or APPROVALS_MAX
        if not 0 <= item.minimum <= most:
            raise Rejected("WF620", f"environments.{item.name}.minimum: expected 0 to {most}")


def _check_temporal(config: Config) -> None:
    """Checks the settings of the cluster. The files that they name are only read when they are used."""
    if config.engine not in ENGINES:
        raise Rejected("WF620", f"engine: expected {' or '.join(ENGINES)}, found {config.engine!r}")
    table = config.temporal
    required = ("address", "payload-keys") if config.engine == "temporal" or table.address else ()
    for key in required:
        if not getattr(table, key.replace("-", "_")):
            why = 'engine = "temporal"' if config.engine == "temporal" else "temporal.address"
            raise Rejected("WF620", f"temporal.{key}: required with {why}")
    if table.address and not (_LISTEN.fullmatch(table.address) and _is_port(table.address)):
        raise Rejected("WF620", f"temporal.address: expected host:port, found {table.address!r}")
    if not _NAMESPACE.fullmatch(table.namespace):
        raise Rejected(
            "WF620", f'temporal.namespace: use letters, digits, ".", "_", "-"; found {table.namespace[:64]!r}'
        )
    if bool(table.cert) != bool(table.key):
        raise Rejected("WF620", "temporal: cert and key must be set together")
    if table.cert and table.api_key_file:
        raise Rejected("WF620", "temporal: set either cert and key, or api-key-file")
    if table.objects and not _OBJECTS.fullmatch(table.objects):
        raise Rejected("WF620", f"temporal.objects: expected dir:/path or s3://bucket/prefix, found {table.objects!r}")
    if table.ui and not _ORIGIN.fullmatch(table.ui):
        raise Rejected(
            "WF620",
            f"temporal.ui: expected an origin such as https://temporal.internal:8233, without a path; found {table.ui!r}",
        )
    if table.name and not _NAMESPACE.fullmatch(table.name):
        raise Rejected("WF620", f'temporal.name: use letters, digits, ".", "_", "-"; found {table.name[:64]!r}')


def _check_grants(config: Config) -> None:
    """A grant that names an environment which does not exist is a mistake, and so is one for nothing."""
    known = {item.name for item in config.environments}
    for number, grant in enumerate(config.secrets.grants, 1):
        where = f"secrets.grants, number {number}"
        if not grant.secrets:
            raise Rejected("WF620", f"{where}: secrets: name at least one secret")
        if not grant.repositories and not grant.without_repository:
            raise Rejected("WF620", f"{where}: name repositories, or set without-repository = true")
        unknown = [name for name in grant.environments if "*" not in name and name not in known]
        if unknown:
            raise Rejected("WF620", f'{where}: environments: "{unknown[0]}" is not configured')


def grant_lints(config: Config, repositories: Container[str]) -> list[str]:
    """Grants for repositories that are not watched: perhaps a mistake, unless they are added through the API later."""
    return [
        f'secrets.grants, number {number}: repository "{name}" is not watched;'
        " next: correct the name, or add the repository with waterflowctl repositories add"
        for number, grant in enumerate(config.secrets.grants, 1)
        for name in grant.repositories
        if "*" not in name and name not in repositories
    ]


def _check_notices(config: Config) -> None:
    names = [item.name for item in config.notify]
    for item in config.notify:
        where = f"notify.{item.name[:64]}"
        if not NAME.fullmatch(item.name) or names.count(item.name) > 1:
            raise Rejected(
                "WF620", f'{where}: the name is a duplicate, or has more than letters, digits, ".", "_", "-"'
            )
        for problem in _channel_problems(item, config.smtp):
            raise Rejected("WF620", f"{where}: {problem}")
    for key in ("agent-gone-after", "repository-broken-after", "remind-after", "give-up-after"):
        try:
            if durations.parse(getattr(config.notices, key.replace("-", "_"))) < INTERVAL_MS_MIN:
                raise ValueError("too short")
        except ValueError as error:
            raise Rejected("WF620", f"notices.{key}: {error}") from None
    smtp = config.smtp
    if smtp.host and not smtp.sender:
        raise Rejected("WF620", "smtp.sender: required: the sender's address")
    if smtp.security not in SECURITIES:
        raise Rejected("WF620", f"smtp.security: expected {', '.join(SECURITIES)}, found {smtp.security!r}")
    if bool(smtp.user) != bool(smtp.password_secret) or (smtp.user and smtp.security == "none"):
        raise Rejected("WF620", "smtp: user and password-secret must be set together, and only with TLS")
    is_used = config.notify or config.notices.repository_hosts or config.notices.repository_mail_domains
    if is_used and config.engine == "temporal":
        raise Rejected("WF620", 'notify: not built for engine = "temporal" yet; use the node notify/webhook there')


def _channel_problems(item: NotifyTable, smtp: SmtpTable) -> Iterator[str]:
    unknown = [kind for kind in item.on if kind not in KINDS]
    if unknown:
        yield f"on: expected {', '.join(KINDS)}, found {unknown[0]!r}"
    if item.mail_to:
        if item.url or item.url_secret or item.sign_secret:
            yield "set either mail-to, or the address of a webhook"
        if not smtp.host:
            yield "mail-to: mail needs [smtp] with the mail server"
        return
    if item.format not in FORMATS:
        yield f"format: expected {', '.join(FORMATS)} (or mail-to), found {item.format!r}"
    if item.url and item.url_secret:
        yield "set either url-secret, or url for an address that is not a secret"
    if item.url and not item.url.startswith(("https://", "http://")):
        yield f"url: expected https://..., found {item.url!r}"
    if not 1 <= item.per_hour <= 3_600:
        yield "per-hour: expected 1 to 3,600"


def _check_secrets(config: Config) -> None:
    """Checks the settings of Vault and age. The files that they name are only read when they are used."""
    try:
        if config.vault.address:
            vault_settings.check(config.vault.settings)
        elif config.vault.secrets:
            raise ValueError("address is required when vault.secrets is set; expected https://host:port")
    except ValueError as error:
        raise Rejected("WF620", f"vault.{error}") from None
    for item in config.repositories:
        subject = f"repositories.{item.name}"
        if bool(item.age_files) != bool(item.age_identity_file):
            raise Rejected("WF620", f"{subject}: age-files and age-identity-file must be set together")
        if len(item.age_files) > age.FILES_MAX:
            raise Rejected("WF620", f"{subject}.age-files: at most {age.FILES_MAX} files")
        for path in item.age_files:
            if not path.endswith(age.SUFFIX) or path.startswith("/") or ".." in path.split("/"):
                raise Rejected(
                    "WF620", f'{subject}.age-files: expected paths in the repository that end in .age, found "{path}"'
                )
