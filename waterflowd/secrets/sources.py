"""All sources of secrets, in their order.

Rules of this file: the order is the sources on the daemon's host, Vault, the encrypted files of the run's repository; the first
source with the name wins. So a push cannot replace a secret that the daemon's configuration provides. A slow source is asked
only for names that the sources before it do not have, and while it does not answer, the sources after it are not asked.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from waterflow_agent.errors import Rejected, Retryable
from waterflowd.secrets import values
from waterflowd.secrets.age import AgeFiles
from waterflowd.secrets.local_sources import LocalSources
from waterflowd.secrets.secret_reader import Key, Read, SecretReader

if TYPE_CHECKING:
    # Importing it takes a tenth of a second, so it is imported only when it is configured.
    from waterflowd.secrets.vault import Vault


class RunRevision(NamedTuple):
    """The repository and revision of a run's workflow; both None for a run without a repository."""

    repository: str | None
    revision: str | None


class Sources:
    """See the module's docstring. Called on the event loop's thread; never waits."""

    def __init__(self, local: LocalSources, reader: SecretReader, age: AgeFiles, vault: Vault | None = None) -> None:
        self.local = local
        self.reader = reader
        self.age = age
        self.vault = vault

    def check(self) -> None:
        """Raises `Rejected` WF622 for a file that cannot be used. Blocks."""
        self.local.check()
        self.age.check()

    def get(self, name: str, revision: RunRevision) -> str | None:
        """The secret's value for a run of the revision; None if no source has it.

        Raises `Retryable` WF626 while it is being read (`reader.changed` is called afterwards), `Rejected` if that fails.
        """
        value = self.local.get(name)
        if value is None:
            value = self._from_vault(name)
        if value is None:
            value = self._from_repository(name, revision)
        return value

    def missing(self, names: Iterable[str], revision: RunRevision) -> list[str]:
        """The names that no source has. Raises what `get` raises, after reads have been started for all names."""
        missing, pending = [], None
        for name in names:
            try:
                if self.get(name, revision) is None:
                    missing.append(name)
            except Retryable as error:
                pending = pending or error
        if pending is not None and not missing:
            raise pending
        return missing

    async def close(self) -> None:
        """Clears the cache and cancels reads."""
        await self.reader.close()
        if self.vault is not None:
            await self.vault.close()

    def _from_vault(self, name: str) -> str | None:
        field = self.vault.field(values.normalize_name(name)) if self.vault is not None else None
        if self.vault is None or field is None:
            return None
        found = self._read(name, ("vault", field.path), functools.partial(self.vault.read, field.path))
        return _usable(name, found.get(field.name))

    def _from_repository(self, name: str, origin: RunRevision) -> str | None:
        repository, revision = origin
        if repository is None or revision is None or not self.age.has(repository):
            return None
        read = functools.partial(self.age.read, repository, revision)
        found = self._read(name, ("repository", repository, revision), read)
        return _usable(name, found.get(values.normalize_name(name)))

    def _read(self, name: str, key: Key, read: Read) -> dict[str, str]:
        try:
            return self.reader.get(key, read)
        except Retryable as error:
            raise Retryable(error.code, f"waiting for secret {name}: {error.text}") from error
        except Rejected as error:
            raise Rejected(error.code, f"cannot read secret {name}: {error.text}") from error


def _usable(name: str, value: str | None) -> str | None:
    if value is not None and (problem := values.problem(value)):
        raise Rejected("WF626", f"secret {name} {problem}")
    return value
