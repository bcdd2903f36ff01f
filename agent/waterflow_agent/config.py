"""The agent's configuration, read from the command line, the environment, a file, and defaults.

Rules of this file: the fields of `Config` are the only list of settings. A setting's name is its key in the file, `--name` on
the command line and `WATERFLOW_AGENT_NAME` in the environment (`environment_variables`; `ALIASES` are shorter). The command
line overrides the environment, which overrides the file. An unknown key in the file is an error with its line number.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import addresses, durations, environment_variables, keys
from waterflow_agent.environment_variables import EnvironmentSettings
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.step_policy import MEMORY_SHARE, StepPolicy, memory_of_machine
from waterflow_agent.type_errors import located

DEFAULT_FILE = Path("/etc/waterflow/agent.toml")
ENVIRONMENT_PREFIX = "WATERFLOW_AGENT_"
#: Contains the join token itself, for machines that are set up by an image or a container.
TOKEN_VARIABLE = "WATERFLOW_JOIN_TOKEN"
#: Other names of variables, as other programs call them.
ALIASES = {"SERVER_GROUP": ENVIRONMENT_PREFIX + "GROUPS", "DOCKER_HOST": ENVIRONMENT_PREFIX + "DOCKER_HOST"}
#: A short name of the variable of `server`, also without scheme and port. Where waterflowctl is installed too, it is the
#: address of the API. So an agent reads it only if the second variable is true, which the container image sets.
SERVER_VARIABLE = "WATERFLOW_SERVER"
SHORT_NAMES_VARIABLE = ENVIRONMENT_PREFIX + "SHORT_NAMES"
#: The daemon's usual ports.
WORK_PORT = 7233
#: The enrollment port when only the work address is configured.
ENROLL_PORT = 7234
SLOTS_MAX = 1024
CACHE_MB_MAX = 1 << 20

#: What Linux can have.
PROCESSES_MAX = 4_000_000

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MEMORY = re.compile(r"(?:([0-9]{1,12})\s*(KiB|MiB|GiB|TiB)?)?")
_CPU = re.compile(r"(?:([0-9]{1,6})\s*%)?")
_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_ENGINE = re.compile(r"unix:///.+|(tcp|ssh|http|https)://[^\s]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RUNNERS = ("own", "service")
#: Settings that are one address or several.
_ADDRESS_KEYS = ("server", "enroll-server")
_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """All settings. Endpoints are `tcp://host:port`."""

    #: For people; the daemon identifies the agent by its key. Default: the host name.
    name: str = ""
    #: The daemon's work port, `tcp://host:port`, or several in a list or separated by commas; a join token contains it too.
    server: str = ""
    #: The enrollment port, or several; default: the hosts of `server` with the port in the token, or 7234.
    enroll_server: str = ""
    #: The server's public key, for enrollment without a token.
    server_key: str = ""
    #: File with the join token; read at the first start only.
    join_token_file: str = ""
    #: Requested at enrollment; the daemon decides.
    groups: list[str] = []
    #: Maximum number of attempts at a time.
    slots: int = 4
    #: Keys, journal, step runner and working directories; on a local disk.
    data_dir: str = "/var/lib/waterflow-agent"
    #: Megabytes of repository files in the cache; a job then fetches only files that have changed.
    cache_mb: int = 1024
    #: Megabytes of the directories of failed jobs, which are kept for a day so that a re-run can continue them; 0 keeps none.
    keep_failed_mb: int = 4096
    #: Megabytes of caches with `scope: server`; those that were not used for the longest time make room. 0 keeps none.
    server_caches_mb: int = 4096
    #: How long such a cache is kept after it was last used.
    server_caches_keep: str = "7d"
    #: Facts about the server, by which workflows can select it.
    labels: dict[str, str] = {}
    #: Directories with your own nodes, as `<category>/<name>.py`; the first directory with a name wins.
    node_path: list[str] = []
    #: `own`: the agent starts the step runner, which keeps running without it; `service`: a service manager starts it.
    runner: str = "own"
    #: The user of steps. Default: `waterflow-step` if the server has it and the step runner may use it, else the agent's user.
    step_user: str = ""
    #: Further users that jobs may choose with `user`.
    step_users: list[str] = []
    #: The user of steps for individual groups, `{ db = "postgres" }`.
    group_users: dict[str, str] = {}
    #: Memory of one step, such as `2GiB`, or `0` for no limit. Default: 75 % of the server's memory.
    step_memory: str = ""
    #: Processes and threads of one step; 0 for no limit.
    step_processes: int = 2048
    #: Processor time of one step in percent of one processor, such as `200%`. Default: no limit.
    step_cpu: str = ""
    #: Address of the Docker engine, which steps get as `DOCKER_HOST`, such as `unix:///run/docker.sock`. Default: Docker's.
    docker_host: str = ""
    #: `debug`, `info`, `warning` or `error`.
    log_level: str = "info"
    #: `text`, or `json` for one object per line.
    log_format: str = "text"


def load(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Returns the effective configuration. Raises `Rejected` WF620 with the source, the key, and the line in a file.

    `overrides` are the options of the command line, by setting name. Without `file` the default file is read if it exists;
    a missing `file` is an error.
    """
    environment = os.environ if environment is None else environment
    named = file or _named_by(environment)
    path = named or DEFAULT_FILE
    in_file = _read_file(path) if named is not None or path.exists() else {}
    found = _read_environment(environment)
    overrides = {key: value for key, value in (overrides or {}).items() if value is not None}
    settings = in_file | found.settings | overrides
    try:
        config = msgspec.convert(settings, Config, strict=False)
        return _checked(config if config.name else msgspec.structs.replace(config, name=_host_name()))
    except msgspec.ValidationError as error:
        raise Rejected("WF620", f"invalid configuration: {located(error)}") from error
    except Rejected as error:
        text = found.name_source(error.text, overridden=overrides)
        key = re.split(r"[^\w-]", error.text, maxsplit=1)[0]
        if text == error.text and key in in_file and key not in overrides:
            text = f"{path}:{_line_of(path.read_text(encoding='utf-8'), key)}: {text}"
        raise Rejected(error.code, text) from error


def enroll_endpoint(config: Config) -> str:
    """Returns the enrollment ports that belong to the configured work ports."""
    if config.enroll_server:
        return config.enroll_server
    return addresses.join(
        [f"tcp://{addresses.host_of(endpoint)}:{ENROLL_PORT}" for endpoint in addresses.split(config.server)]
    )


def step_policy(config: Config) -> StepPolicy:
    """Returns what the configuration says about steps. Raises `Rejected` WF620."""
    if not 0 <= config.step_processes <= PROCESSES_MAX:
        raise Rejected("WF620", f"step-processes: expected 0 to {PROCESSES_MAX}, found {config.step_processes}")
    memory = _MEMORY.fullmatch(config.step_memory)
    if memory is None:
        raise Rejected("WF620", f"step-memory: expected bytes such as 2GiB, or 0, found {config.step_memory!r}")
    cpu = _CPU.fullmatch(config.step_cpu)
    if cpu is None:
        raise Rejected("WF620", f"step-cpu: expected a percentage such as 200%, found {config.step_cpu!r}")
    share = int(memory_of_machine() * MEMORY_SHARE)
    return StepPolicy(
        user=config.step_user,
        users=tuple(config.step_users),
        group_users=config.group_users,
        memory_bytes=int(memory[1]) * _UNITS[memory[2] or ""] if memory[1] else share,
        processes=config.step_processes,
        cpu_percent=int(cpu[1] or 0),
    )


def environment_of_agent(config: Config, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the environment from which steps inherit: that of the agent, with what the configuration adds."""
    return {**environment, "DOCKER_HOST": config.docker_host} if config.docker_host else environment


def _named_by(environment: Mapping[str, str]) -> Path | None:
    text = environment.get(ENVIRONMENT_PREFIX + "CONFIG", "")
    return Path(text) if text else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Rejected("WF620", f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Rejected("WF620", f"{path} is not UTF-8 text") from error
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Rejected("WF620", f"{path}: {error}") from error
    for key, value in settings.items():
        if key not in _KEYS:
            raise Rejected("WF620", f'{path}:{_line_of(text, key)}: unknown key "{key}"{_suggestion(key)}')
        if key in _ADDRESS_KEYS and isinstance(value, list) and all(isinstance(item, str) for item in value):
            settings[key] = ",".join(value)
    try:
        msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.([a-z-]+)", str(error))
        line = f":{_line_of(text, found.group(1))}" if found else ""
        raise Rejected("WF620", f"{path}{line}: {located(error)}") from error
    return settings


def _line_of(text: str, key: str) -> int:
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key)}["']?\s*[.=\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _suggestion(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key.replace("_", "-"), _KEYS, n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _read_environment(environment: Mapping[str, str]) -> EnvironmentSettings:
    aliases = dict(ALIASES)
    if environment.get(SHORT_NAMES_VARIABLE, "").lower() in ("1", "true"):
        aliases[SERVER_VARIABLE] = ENVIRONMENT_PREFIX + "SERVER"
        if SERVER_VARIABLE in environment:
            environment = {**environment, SERVER_VARIABLE: _work_ports(environment[SERVER_VARIABLE])}
    return environment_variables.read(
        Config,
        ENVIRONMENT_PREFIX,
        environment,
        aliases=aliases,
        others=(ENVIRONMENT_PREFIX + "CONFIG", SHORT_NAMES_VARIABLE),
        separators={"node-path": ":"},
    )


def _work_ports(text: str) -> str:
    """The addresses in `WATERFLOW_SERVER`, in which the scheme and the usual port may be missing."""
    endpoints = []
    for part in addresses.split(text):
        scheme, _, host = part.rpartition("://")
        if scheme not in ("", "tcp") or "/" in host:
            raise Rejected(
                "WF620",
                f"{SERVER_VARIABLE}: expected the daemon's port for agents, such as tcp://waterflow.example.org:{WORK_PORT},"
                f" found {part!r}",
            )
        has_port = re.search(r"(\A[^:]*|\]):[0-9]+\Z", host)
        bracketed = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        endpoints.append(f"tcp://{host if has_port else f'{bracketed}:{WORK_PORT}'}")
    return addresses.join(endpoints)


def _checked(config: Config) -> Config:
    if not 1 <= config.slots <= SLOTS_MAX:
        raise Rejected("WF620", f"slots: expected 1 to {SLOTS_MAX}, found {config.slots}")
    if not 0 <= config.cache_mb <= CACHE_MB_MAX:
        raise Rejected("WF620", f"cache-mb: expected 0 to {CACHE_MB_MAX}, found {config.cache_mb}")
    if not 0 <= config.server_caches_mb <= CACHE_MB_MAX:
        raise Rejected("WF620", f"server-caches-mb: expected 0 to {CACHE_MB_MAX}, found {config.server_caches_mb}")
    try:
        durations.parse(config.server_caches_keep)
    except ValueError as error:
        raise Rejected("WF620", f"server-caches-keep: {error}") from None
    if not 0 <= config.keep_failed_mb <= CACHE_MB_MAX:
        raise Rejected("WF620", f"keep-failed-mb: expected 0 to {CACHE_MB_MAX}, found {config.keep_failed_mb}")
    if keys.looks_like_fingerprint(config.name):
        raise Rejected("WF620", f"name: {config.name!r} looks like a fingerprint; choose another name for this agent")
    if not _NAME.fullmatch(config.name):
        raise Rejected("WF620", f"name: expected letters, digits and . _ - (63 at most), found {config.name!r}")
    for key, text in zip(_ADDRESS_KEYS, (config.server, config.enroll_server), strict=True):
        _check_addresses(key, text)
    for directory in config.node_path:
        if not os.path.isabs(directory):
            raise Rejected("WF620", f"node-path: expected absolute directories, found {directory!r}")
    if config.server_key and len(config.server_key) != 40:
        raise Rejected(
            "WF620", "server-key: expected 40 characters of Z85, as `waterflowctl agents tokens create` shows it"
        )
    if config.runner not in _RUNNERS:
        raise Rejected("WF620", f"runner: expected one of {', '.join(_RUNNERS)}, found {config.runner!r}")
    step_policy(config)
    if config.docker_host and not _ENGINE.fullmatch(config.docker_host):
        raise Rejected(
            "WF620", f"docker-host: expected unix:///path, tcp://host:port or ssh://host, found {config.docker_host!r}"
        )
    if config.log_level not in _LEVELS:
        raise Rejected("WF620", f"log-level: expected one of {', '.join(_LEVELS)}, found {config.log_level!r}")
    if config.log_format not in _FORMATS:
        raise Rejected("WF620", f"log-format: expected one of {', '.join(_FORMATS)}, found {config.log_format!r}")
    return config


def _check_addresses(key: str, text: str) -> None:
    endpoints = addresses.split(text)
    for endpoint in endpoints:
        if not _ENDPOINT.fullmatch(endpoint):
            raise Rejected("WF620", f"{key}: expected tcp://host:port, found {endpoint!r}")
    if len(endpoints) > addresses.ADDRESSES_MAX:
        raise Rejected("WF620", f"{key}: expected at most {addresses.ADDRESSES_MAX} addresses, found {len(endpoints)}")


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63].lstrip("._-")
    return name or "agent"


_KEYS: tuple[str, ...] = tuple(field.encode_name for field in msgspec.structs.fields(Config))
