"""What follows from the configuration: access rules, quotas, advertised addresses, and warnings about grants."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable, Mapping

import msgspec

from waterflow_agent import addresses
from waterflowd.access.policy import AccessPolicy, EnvironmentRules, Grant
from waterflowd.access.repository_quotas import RepositoryLimits
from waterflowd.app.config.tables import Config
from waterflowd.reconcile.added import RepositoryAdded
from waterflowd.reconcile.settings import (
    RepositorySettings,
)


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


def advertised(endpoint: str, address: str) -> str:
    """The endpoints in a join token: the bound port, at the configured addresses or one that other machines can reach."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    hosts = addresses.split(address) or [socket.gethostname() if host in ("0.0.0.0", "*", "[::]") else host]
    return addresses.join([f"tcp://{_bracketed(each)}:{port}" for each in hosts])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def grant_lints(config: Config, repositories: Container[str]) -> list[str]:
    """Grants for repositories that are not watched: perhaps a mistake, unless they are added through the API later."""
    return [
        f'secrets.grants, number {number}: repository "{name}" is not watched;'
        " next: correct the name, or add the repository with waterflowctl repositories add"
        for number, grant in enumerate(config.secrets.grants, 1)
        for name in grant.repositories
        if "*" not in name and name not in repositories
    ]
