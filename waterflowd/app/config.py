"""The daemon's configuration: TOML, with the command line and the environment laid over it.

Rules of this file: the records below are the one source of what can be set; a field is a key in the file (with hyphens) and
`WATERFLOWD_<TABLE>_<KEY>` in the environment. The order is command line, environment, file, default. An unknown key is an
error that tells its line and what was probably meant.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.model import durations
from waterflowd.reconcile.settings import DEFAULT_FOLDERS, RepositorySettings
from waterflowd.secrets import age, vault_settings

DEFAULT_FILE = Path("/etc/waterflow/waterflowd.toml")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
ENVIRONMENT_PREFIX = "WATERFLOWD_"

#: As many people as one approval may ask for.
APPROVALS_MAX = 20

_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+|\*):([0-9]{1,5}|\*)")
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file."""


class Api(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Where and how the API is served."""

    #: `host:port`; empty for no TCP at all.
    listen: str = "127.0.0.1:8080"
    #: No token is needed on this address; Host, Origin and content type are still checked.
    open: bool = False
    #: Path of the unix socket; empty for none.
    socket: str = "/run/waterflow/waterflowd.sock"
    #: What those may do who may connect to the socket: `viewer`, `runner`, `approver`, `admin`, or `none`.
    socket_role: str = "admin"
    #: What single users may do there: name or uid, and a role or `none`.
    socket_users: dict[str, str] = {}
    #: Requests of one principal, or of one address without one; 0 for no bound.
    requests_per_second: int = 200


class Agents(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The ports for agents. Both speak CURVE alone."""

    #: Where agents connect for work: `tcp://host:port`.
    listen: str = "tcp://0.0.0.0:7233"
    #: Where new agents enroll.
    enroll_listen: str = "tcp://0.0.0.0:7234"
    #: How long a server may be away before what runs there is lost.
    lost_after: str = "10m"
    #: Host name or address that join tokens give to agents; default: the one that is listened on, or this host's name.
    address: str = ""

    @property
    def lost_after_ms(self) -> int:
        """`lost-after` in milliseconds."""
        return durations.parse(self.lost_after)


class Repository(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """One watched repository."""

    #: Letters, digits, dots, `_` and `-`; used once.
    name: str
    #: https, ssh, git, or the absolute path of a local repository, bare or not. Never with a password.
    url: str
    #: Patterns of branches, and of tags with `tags/` in front; empty: the branch that HEAD names.
    refs: tuple[str, ...] = ()
    #: Folders in which workflows lie.
    paths: tuple[str, ...] = DEFAULT_FOLDERS
    #: The refs are read at least this often.
    interval: str = "1m"
    #: Which groups its workflows may use.
    groups: tuple[str, ...] = ("*",)
    #: For https: a file with a token or `user:token` in one line, mode 0600.
    credentials_file: str = ""
    #: For ssh, and required there: the private key, without a passphrase, mode 0600.
    ssh_key_file: str = ""
    #: For ssh, and required there: the keys of the hosts that are trusted, as `ssh-keyscan` prints them.
    known_hosts_file: str = ""
    #: Certificates of authorities for https; default: the system's.
    ca_file: str = ""
    #: Takes http from a server on this machine, for tests.
    allow_http: bool = False
    #: How long one fetch may take.
    fetch_timeout: str = "2m"
    #: How much one fetch may bring, in bytes.
    fetch_max_bytes: int = 1 << 30
    #: Encrypted files in it: `NAME.age` is one secret, `ANYTHING.toml.age` several.
    age_files: tuple[str, ...] = ()
    #: The keys that open them, as age-keygen writes them.
    age_identity_file: str = ""


class Secrets(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Where secrets come from; the sources are asked in this order."""

    #: `DEPLOY_KEY` is the environment variable with this before its name.
    env_prefix: str = "WATERFLOW_SECRET_"
    #: `DEPLOY_KEY` is the systemd credential with this before its name; empty for none. Other credentials are no secrets.
    credential_prefix: str = "secret."
    #: A TOML file of `name = "value"` with mode 0600; empty for none.
    file: str = ""
    #: How long a source that does not answer is asked again before what needs it fails.
    give_up_after: str = "10m"

    @property
    def give_up_after_s(self) -> float:
        """`give-up-after` in seconds."""
        return durations.parse(self.give_up_after) / 1000


class Vault(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Where Vault is, what lets the daemon in, and which secrets it has."""

    #: `https://host:port`; http only for this machine. Empty for no Vault.
    address: str = ""
    #: Where the key/value engine is mounted.
    mount: str = "secret"
    #: The engine's version, 1 or 2.
    kv_version: int = 2
    #: For servers that have namespaces.
    namespace: str = ""
    #: Certificates of authorities; default: the system's.
    ca_file: str = ""
    #: A file with a token, mode 0600. WATERFLOWD_VAULT_TOKEN and the systemd credential vault-token go before it.
    token_file: str = ""
    #: Lets the daemon in by AppRole in place of a token.
    role_id: str = ""
    #: A file with the role's secret id. WATERFLOWD_VAULT_SECRET_ID and the systemd credential vault-secret-id go before it.
    secret_id_file: str = ""
    #: Where AppRole is mounted.
    approle_mount: str = "approle"
    #: What one request may take.
    timeout: str = "10s"
    #: How long a value is held; a shorter lease counts.
    cache: str = "1m"
    #: `NAME = "path#field"`.
    secrets: dict[str, str] = {}

    @property
    def settings(self) -> vault_settings.Settings:
        """The table as the client takes it; raises `ValueError` with a sentence."""
        return vault_settings.Settings(
            address=self.address,
            mount=self.mount.strip("/"),
            version=self.kv_version,
            namespace=self.namespace,
            ca_file=self.ca_file,
            role_id=self.role_id,
            approle_mount=self.approle_mount.strip("/"),
            timeout_s=durations.parse(self.timeout) / 1000,
            held_s=durations.parse(self.cache) / 1000,
            fields=vault_settings.fields(self.secrets),
        )


class Environment(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What is asked of jobs that enter an environment; files cannot ask for less."""

    #: As jobs name it.
    name: str
    #: Principals that may approve; empty: whoever has the role.
    approvers: tuple[str, ...] = ()
    #: How many approvals are needed; 1 when there are approvers.
    minimum: int = 0
    #: Whether the one who started the run may approve it.
    self_approval: bool = True
    #: Patterns of the refs whose runs may enter; empty: any.
    refs: tuple[str, ...] = ()
    #: Laid over the workflow's own `vars` for these jobs.
    vars: dict[str, Any] = {}


class Log(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The daemon's own log, on standard error."""

    #: `debug`, `info`, `warning` or `error`.
    level: str = "info"
    #: `text` or `json`.
    format: str = "text"


class Config(_Table, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Everything that can be set."""

    #: The event log, the server's keys and what steps printed; on a local disk.
    data_dir: str = "/var/lib/waterflow"
    log: Log = Log()
    api: Api = Api()
    agents: Agents = Agents()
    secrets: Secrets = Secrets()
    vault: Vault = Vault()
    environments: tuple[Environment, ...] = ()
    repositories: tuple[Repository, ...] = ()

    @property
    def repository_settings(self) -> list[RepositorySettings]:
        """The repositories as the reconcile loops take them."""
        return [
            RepositorySettings(
                name=item.name,
                url=item.url,
                refs=item.refs,
                paths=item.paths,
                interval_ms=durations.parse(item.interval),
                groups=item.groups,
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


def load(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The configuration that is in force. Raises `Rejected` WF620 that names the source, the key, and the line in a file.

    `overrides` are the command line's, by dotted key. Without `file` the default file is read if it exists.
    """
    environment = os.environ if environment is None else environment
    named = file or (Path(environment["WATERFLOWD_CONFIG"]) if environment.get("WATERFLOWD_CONFIG") else None)
    path = named or DEFAULT_FILE
    settings = _read(path) if named is not None or path.exists() else {}
    for key, value in _from_environment(environment):
        _set(settings, key, value)
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(settings, key, value)
    try:
        config = msgspec.convert(settings, Config, strict=False)
    except msgspec.ValidationError as error:
        place, _, key = _place(error)
        variable = _variable(".".join((*place, key)))
        where = variable if variable in environment else "the configuration is wrong"
        raise Rejected("WF620", f"{where}: {error}") from error
    return _checked(config)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except OSError as error:
        raise Rejected("WF620", f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected("WF620", f"{path}: {error}") from error
    for place, number, key, known in _unknown(settings, Config, ()):
        line = _line_of(text, place, number, key)
        close = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else f"; known here: {', '.join(known)}"
        raise Rejected("WF620", f'{path}:{line}: unknown key "{key}"{hint}')
    try:
        msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        line_text = f":{_line_of(text, *_place(error))}" if "`$." in str(error) else ""
        raise Rejected("WF620", f"{path}{line_text}: {error}") from error
    return settings


def _fields(table: type) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(table)}


#: Keys that are lists of tables.
_LISTS: dict[str, type] = {"repositories": Repository, "environments": Environment}


def _unknown(
    settings: dict[str, Any], table: type, place: tuple[str, ...], number: int = 0
) -> Iterator[tuple[tuple[str, ...], int, str, list[str]]]:
    """Table, its number among those of its name, key, and the keys that are known there."""
    fields = _fields(table)
    for key, value in settings.items():
        if key not in fields:
            yield place, number, key, list(fields)
            continue
        inner = _LISTS.get(key, fields[key])
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict) and isinstance(inner, type) and issubclass(inner, _Table):
                yield from _unknown(item, inner, (*place, key), position)


def _place(error: msgspec.ValidationError) -> tuple[tuple[str, ...], int, str]:
    """Table, its number among those of its name, and key that an error of msgspec names; the key is empty for the table."""
    found = re.search(r"`\$\.([a-z-]+)(?:\[(\d+|\.\.\.)\])?(?:\.([a-z-]+))?", str(error))
    if found is None:
        return (), 0, ""
    first, number, second = found.groups()
    if number is None and second is None:
        return (), 0, first
    return (first,), int(number) if number and number.isdigit() else 0, second or ""


def _line_of(text: str, place: tuple[str, ...], number: int, key: str) -> int:
    """The line of a key in the `number`-th table of that name, else that of the table, else 1."""
    name = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""")
    dotted = re.compile(rf"""\s*{re.escape(".".join((*place, key)))}\s*[.=]""")
    inline = re.compile(rf"""\s*{re.escape(".".join(place))}\s*=""") if place else None
    header = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}")
    table: tuple[str, ...] = ()
    fallback, seen = 1, 0
    for line, content in enumerate(text.splitlines(), 1):
        found = header.match(content)
        if found:
            table = tuple(part.strip(" \"'") for part in found.group(1).split("."))
            if table == (*place, key):
                return line
            seen += table == place
            fallback = line if table == place and seen == number + 1 else fallback
        elif (table == place and seen in (0, number + 1) and name.match(content)) or (
            not table and dotted.match(content)
        ):
            return line
        elif not table and inline is not None and inline.match(content):
            fallback = line
    return fallback


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + re.sub(r"[.-]", "_", name).upper()


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for key, kind in _fields(Config).items():
        if isinstance(kind, type) and issubclass(kind, _Table):
            names = [f"{key}.{inner}" for inner in _fields(kind)]
        elif key in _LISTS:
            continue
        else:
            names = [key]
        for name in names:
            variable = _variable(name)
            if variable in environment:
                yield name, environment[variable]


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value


def _checked(config: Config) -> Config:
    if not config.data_dir:
        raise Rejected("WF620", "data-dir: expected the path of a directory, found an empty text")
    if config.api.listen and not (_LISTEN.fullmatch(config.api.listen) and _is_port(config.api.listen)):
        raise Rejected("WF620", f"api.listen: expected host:port, found {config.api.listen!r}")
    for key, endpoint in (("listen", config.agents.listen), ("enroll-listen", config.agents.enroll_listen)):
        if not (_ENDPOINT.fullmatch(endpoint) and _is_port(endpoint)):
            raise Rejected("WF620", f"agents.{key}: expected tcp://host:port, found {endpoint!r}")
    for key, text in [
        ("agents.lost-after", config.agents.lost_after),
        ("secrets.give-up-after", config.secrets.give_up_after),
        *((f"repositories.{item.name}.interval", item.interval) for item in config.repositories),
        *((f"repositories.{item.name}.fetch-timeout", item.fetch_timeout) for item in config.repositories),
    ]:
        try:
            if durations.parse(text) < 100:
                raise ValueError(f'"{text}" is too short')
        except ValueError as error:
            raise Rejected("WF620", f"{key}: {error}") from None
    for item in config.repositories:
        if not 1 << 20 <= item.fetch_max_bytes <= 1 << 40:
            raise Rejected("WF620", f"repositories.{item.name}.fetch-max-bytes: expected 1 MiB to 1 TiB in bytes")
    _check_environments(config.environments)
    _check_secrets(config)
    names = [item.name for item in config.repositories]
    for name in names:
        if names.count(name) > 1:
            raise Rejected("WF620", f'repositories: the name "{name}" is used twice')
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise Rejected("WF620", f'repositories: "{name[:64]}" cannot be a name: letters, digits, ".", "_", "-"')
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
    """What a join token says of a bound endpoint: its port, on the configured address or one that others can reach."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if address:
        host = f"[{address}]" if ":" in address and not address.startswith("[") else address
    elif host in ("0.0.0.0", "*", "[::]"):
        host = socket.gethostname()
    return f"tcp://{host}:{port}"


def _check_environments(environments: Sequence[Environment]) -> None:
    names = [item.name for item in environments]
    for item in environments:
        if not item.name or names.count(item.name) > 1:
            raise Rejected("WF620", f'environments: the name "{item.name}" is empty or used twice')
        most = len(item.approvers) or APPROVALS_MAX
        if not 0 <= item.minimum <= most:
            raise Rejected("WF620", f"environments.{item.name}.minimum: expected 0 to {most}")


def _check_secrets(config: Config) -> None:
    """What is said about sources that take time; the files that it names are looked at when they are used."""
    try:
        if config.vault.address:
            vault_settings.check(config.vault.settings)
        elif config.vault.secrets:
            raise ValueError("address: expected https://host:port, since there are secrets")
    except ValueError as error:
        raise Rejected("WF620", f"vault.{error}") from None
    for item in config.repositories:
        place = f"repositories.{item.name}"
        if bool(item.age_files) != bool(item.age_identity_file):
            raise Rejected("WF620", f"{place}: age-files and age-identity-file go together; one of them is missing")
        if len(item.age_files) > age.FILES_MAX:
            raise Rejected("WF620", f"{place}.age-files: {age.FILES_MAX} files at most")
        for path in item.age_files:
            if not path.endswith(age.SUFFIX) or path.startswith("/") or ".." in path.split("/"):
                raise Rejected(
                    "WF620", f'{place}.age-files: expected paths in the repository that end in .age, found "{path}"'
                )
