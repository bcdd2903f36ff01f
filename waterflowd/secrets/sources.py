"""The one door to all sources of secrets.

Rules of this file: the order is the daemon's own sources, Vault, the files of the run's repository; the first that has the name
gives the value. So what the daemon's configuration names cannot be replaced by who may push. A source that takes time is
asked only for what those before it do not have, and while it does not answer nobody after it is asked in its place.
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
    # It costs a tenth of a second to import, and is there only when it is configured.
    from waterflowd.secrets.vault import Vault


class Commit(NamedTuple):
    """What a run was made from; two times None for one that no repository has."""

    repository: str | None
    revision: str | None


class Sources:
    """See the file's docstring. Called on the loop's thread; nothing waits."""

    def __init__(self, local: LocalSources, reader: SecretReader, age: AgeFiles, vault: Vault | None = None) -> None:
        self.local = local
        self.reader = reader
        self.age = age
        self.vault = vault

    def check(self) -> None:
        """Raises `Rejected` WF622 for a file that cannot be used. Blocks."""
        self.local.check()
        self.age.check()

    def get(self, name: str, commit: Commit) -> str | None:
        """The secret's value for a run of the commit; None when no source has it.

        Raises `Retryable` WF626 while it is being read (`readings.changed` is called then), `Rejected` when it cannot be.
        """
        value = self.local.get(name)
        if value is None:
            value = self._of_vault(name)
        if value is None:
            value = self._of_files(name, commit)
        return value

    def missing(self, names: Iterable[str], commit: Commit) -> list[str]:
        """Those of the names that no source has. Raises what `get` raises; readings are started for all of them first."""
        missing, waits = [], None
        for name in names:
            try:
                if self.get(name, commit) is None:
                    missing.append(name)
            except Retryable as error:
                waits = waits or error
        if waits is not None and not missing:
            raise waits
        return missing

    async def close(self) -> None:
        """Forgets what is held, and ends what is being read."""
        await self.reader.close()
        if self.vault is not None:
            await self.vault.close()

    def _of_vault(self, name: str) -> str | None:
        field = self.vault.field(values.normalize_name(name)) if self.vault is not None else None
        if self.vault is None or field is None:
            return None
        found = self._read(name, ("vault", field.path), functools.partial(self.vault.read, field.path))
        return _usable(name, found.get(field.name))

    def _of_files(self, name: str, commit: Commit) -> str | None:
        repository, revision = commit
        if repository is None or revision is None or not self.age.has(repository):
            return None
        read = functools.partial(self.age.read, repository, revision)
        found = self._read(name, ("repository", repository, revision), read)
        return _usable(name, found.get(values.normalize_name(name)))

    def _read(self, name: str, key: Key, read: Read) -> dict[str, str]:
        try:
            return self.reader.get(key, read)
        except Retryable as error:
            raise Retryable(error.code, f"waits for the secret {name}: {error.text}") from error
        except Rejected as error:
            raise Rejected(error.code, f"the secret {name} cannot be read: {error.text}") from error


def _usable(name: str, value: str | None) -> str | None:
    if value is not None and (fault := values.problem(value)):
        raise Rejected("WF626", f"the secret {name} {fault}")
    return value
