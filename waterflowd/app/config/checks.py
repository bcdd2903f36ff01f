"""What the values of the configuration must be, beyond their types. Each error is WF620, with the key and what it expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from waterflow_agent import addresses
from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import QUOTA_MAX
from waterflowd.app.config.tables import (
    APPROVALS_MAX,
    ENGINES,
    LOG_FORMATS,
    LOG_LEVELS,
    UNATTENDED,
    Config,
    EnvironmentTable,
    NotifyTable,
    QuotasTable,
    SmtpTable,
    fields_of,
)
from waterflowd.artifacts.bucket import settings as bucket_settings
from waterflowd.model import durations
from waterflowd.notices.channels import FORMATS, KINDS
from waterflowd.notices.mail import SECURITIES
from waterflowd.reconcile.settings import (
    FETCH_BYTES,
    INTERVAL_MS_MIN,
    NAME,
)
from waterflowd.secrets import age, vault_settings

_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_OBJECTS = re.compile(r"dir:/.*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+|\*):([0-9]{1,5}|\*)")


def checked(config: Config) -> Config:
    """Returns the configuration. Raises `Rejected` WF620 with the key and what it expects."""
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
    _check_artifacts(config)
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


def _check_quotas(config: Config) -> None:
    known = list(fields_of(QuotasTable))
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


def _check_artifacts(config: Config) -> None:
    try:
        _ = config.artifacts.limits
        _check_bucket(config)
    except ValueError as error:
        raise Rejected("WF620", f"artifacts.{error}") from None
    try:
        _ = config.caches.limits
    except ValueError as error:
        raise Rejected("WF620", f"caches.{error}") from None


def _check_bucket(config: Config) -> None:
    """Raises `ValueError`."""
    table = config.artifacts
    if not table.storage:
        for key in ("endpoint", "region", "access-key-id", "secret-access-key-file"):
            if getattr(table, key.replace("-", "_")):
                raise ValueError(f"{key}: only for artifacts in a bucket; set artifacts.storage as well")
        return
    bucket_settings.parse_address(table.storage)
    if table.endpoint:
        bucket_settings.check_endpoint(table.endpoint)
    if table.region:
        bucket_settings.check_region(table.region)
    if bool(table.access_key_id) != bool(table.secret_access_key_file):
        raise ValueError("access-key-id: access-key-id and secret-access-key-file must be set together")
    if config.engine == "temporal":
        raise ValueError('storage: not built for engine = "temporal" yet; use file/transfer with s3:// there')


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
