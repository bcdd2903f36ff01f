"""Encrypted files in repositories: what a commit holds for those who have the key.

Rules of this file:

- The files are those of the run's own revision, read as blobs; the identities that open them lie on the daemon's host, outside
  of the data directory. Both are named by the configuration, a pair for each repository: so who may push to one repository
  cannot have the files of another one opened by copying them.
- `NAME.age` holds the value of one secret, `ANYTHING.toml.age` lines of `name = "value"`. Of a name that stands in several
  files the first file's value counts.
- A file that a revision does not have holds nothing. One that cannot be opened is a failure of the whole reading: nobody could
  tell which names are in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyrage

from waterflow_agent.errors import Rejected
from waterflowd.secrets import key_file, values

#: How long what was opened stays in memory. A revision never changes; this bounds how long a value lies around.
HELD_S = 60.0
SUFFIX = ".age"
_TABLE_SUFFIX = ".toml.age"
#: Files of one repository, and identities in one file.
FILES_MAX = 20
IDENTITIES_MAX = 20

#: The contents of plain files of a repository's revision, by path; those that it has.
ReadFiles = Callable[[str, str, Sequence[str]], Awaitable[dict[str, bytes]]]


@dataclass(frozen=True, kw_only=True)
class EncryptedFiles:
    """What one repository keeps encrypted, and the file that opens it."""

    files: tuple[str, ...]
    identity_file: Path


class AgeFiles:
    """The encrypted files of all repositories. `data_dir` is where no identity may lie."""

    def __init__(self, locked: Mapping[str, EncryptedFiles], read_files: ReadFiles, data_dir: Path) -> None:
        self._locked = dict(locked)
        self._read_files = read_files
        self._data_dir = data_dir

    def has(self, repository: str | None) -> bool:
        """Whether the repository keeps encrypted files."""
        return repository in self._locked

    def check(self) -> None:
        """Raises `Rejected` WF622 for identities that cannot be used. Blocks."""
        for locked in self._locked.values():
            _identities(locked.identity_file, self._data_dir)

    async def read(self, repository: str, revision: str) -> tuple[dict[str, str], float]:
        """The values in the files of a revision by plain name, and for how many seconds they may be held.

        Raises `Rejected` WF622 and WF626 for what cannot be opened, and what reading the repository raises.
        """
        locked = self._locked[repository]
        contents = await self._read_files(repository, revision, locked.files)
        opened = await asyncio.to_thread(self._open, locked, contents)
        return opened, HELD_S

    def _open(self, locked: EncryptedFiles, contents: dict[str, bytes]) -> dict[str, str]:
        identities = _identities(locked.identity_file, self._data_dir) if contents else []
        found: dict[str, str] = {}
        for path in locked.files:
            if path in contents:
                found = {**_values(path, contents[path], identities), **found}
        return found


def _values(path: str, content: bytes, identities: list[pyrage.x25519.Identity]) -> dict[str, str]:
    try:
        text = pyrage.decrypt(content, identities)
    except pyrage.DecryptError as error:
        # The library's words are about keys and the form of the file, never about what is in it.
        raise Rejected("WF626", f"{path} cannot be opened with age-identity-file: {error}") from None
    if path.endswith(_TABLE_SUFFIX):
        return values.parse(text, path)
    try:
        return {
            values.normalize_name(PurePosixPath(path).name.removesuffix(SUFFIX)): text.decode("utf-8").removesuffix(
                "\n"
            )
        }
    except UnicodeDecodeError:
        raise Rejected("WF626", f"{path} holds no text") from None


def _identities(file: Path, data_dir: Path) -> list[pyrage.x25519.Identity]:
    """The identities in a file as age-keygen writes it: a line each, and comments."""
    text = key_file.read(file, "age-identity-file", data_dir)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not 1 <= len(lines) <= IDENTITIES_MAX:
        raise Rejected(
            "WF622", f"age-identity-file: {file} has {len(lines)} identities, expected 1 to {IDENTITIES_MAX}"
        )
    try:
        return [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        raise Rejected(
            "WF622", f"age-identity-file: {file} holds a line that is no AGE-SECRET-KEY-1...; make one with age-keygen"
        ) from None
