"""Secrets in repository files that are encrypted with age.

Rules of this file:

- The files are read as blobs at the run's own revision. The identities that decrypt them are on the daemon's host, outside of
  the data directory. The configuration names files and identities for each repository, so somebody who may push to one
  repository cannot have the files of another one decrypted by copying them.
- `NAME.age` holds the value of one secret, `ANYTHING.toml.age` lines of `name = "value"`. If a name is in several files, the
  first file wins.
- A file that is missing in a revision holds no secrets. If a file cannot be decrypted, the whole read fails, because the names
  in it are unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyrage

from waterflow_agent.errors import Rejected
from waterflowd.secrets import key_file, values

#: How long decrypted values stay in memory. A revision never changes; this limits the exposure.
CACHE_S = 60.0
#: The configuration's key for an identity file.
_KEY = "age-identity-file"
SUFFIX = ".age"
_TABLE_SUFFIX = ".toml.age"
#: Limits for one repository and for one identity file.
FILES_MAX = 20
IDENTITIES_MAX = 20

#: Gives the contents of those plain files that a repository's revision has, by path.
ReadFiles = Callable[[str, str, Sequence[str]], Awaitable[dict[str, bytes]]]


@dataclass(frozen=True, kw_only=True)
class EncryptedFiles:
    """The encrypted files of one repository, and the identity file that decrypts them."""

    files: tuple[str, ...]
    identity_file: Path


class AgeFiles:
    """The encrypted files of all repositories. Identity files may not be in `data_dir`."""

    def __init__(self, encrypted: Mapping[str, EncryptedFiles], read_files: ReadFiles, data_dir: Path) -> None:
        self._encrypted = dict(encrypted)
        self._read_files = read_files
        self._data_dir = data_dir

    def replace(self, encrypted: Mapping[str, EncryptedFiles]) -> None:
        """Other files from now on."""
        self._encrypted = dict(encrypted)

    def has(self, repository: str | None) -> bool:
        """Whether the repository has encrypted files."""
        return repository in self._encrypted

    def check(self) -> None:
        """Raises `Rejected` WF622 for an identity file that cannot be used. Blocks."""
        for encrypted in self._encrypted.values():
            read_identities(encrypted.identity_file, _KEY, self._data_dir)

    async def read(self, repository: str, revision: str) -> tuple[dict[str, str], float]:
        """The values in the files of a revision by normalized name, and how many seconds they may be cached.

        Raises `Rejected` WF622 and WF626 for a file that cannot be decrypted, and what reading the repository raises.
        """
        encrypted = self._encrypted[repository]
        contents = await self._read_files(repository, revision, encrypted.files)
        decrypted = await asyncio.to_thread(self._decrypt, encrypted, contents)
        return decrypted, CACHE_S

    def _decrypt(self, encrypted: EncryptedFiles, contents: dict[str, bytes]) -> dict[str, str]:
        identities = read_identities(encrypted.identity_file, _KEY, self._data_dir) if contents else []
        found: dict[str, str] = {}
        for path in encrypted.files:
            if path in contents:
                found = {**_values(path, contents[path], identities), **found}
        return found


def _values(path: str, content: bytes, identities: list[pyrage.x25519.Identity]) -> dict[str, str]:
    try:
        text = pyrage.decrypt(content, identities)
    except pyrage.DecryptError as error:
        # The library's message is about keys and the file format, never about the content.
        raise Rejected("WF626", f"cannot decrypt {path} with age-identity-file: {error}") from None
    if path.endswith(_TABLE_SUFFIX):
        return values.parse(text, path)
    try:
        return {
            values.normalize_name(PurePosixPath(path).name.removesuffix(SUFFIX)): text.decode("utf-8").removesuffix(
                "\n"
            )
        }
    except UnicodeDecodeError:
        raise Rejected("WF626", f"{path} does not hold UTF-8 text") from None


def read_identities(file: Path, key: str, data_dir: Path) -> list[pyrage.x25519.Identity]:
    """The identities in a file as age-keygen writes it: one a line, and comments.

    `key` is the configuration's key, or the option, that names the file. Raises `Rejected` WF622.
    """
    text = key_file.read(file, key, data_dir)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not 1 <= len(lines) <= IDENTITIES_MAX:
        raise Rejected("WF622", f"{key}: {file} holds {len(lines)} identities, expected 1 to {IDENTITIES_MAX}")
    try:
        return [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        raise Rejected(
            "WF622",
            f"{key}: {file} has a line that is not an AGE-SECRET-KEY-1...; create one with age-keygen",
        ) from None
