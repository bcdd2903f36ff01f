"""Opens the source of a configured repository: in place when it is local, through a mirror when it is remote."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from waterflow_agent.errors import Rejected, Retryable
from waterflowd.gitsource import digests, git_layout, reading, urls
from waterflowd.gitsource.local import LocalSource
from waterflowd.gitsource.remote import address_policy
from waterflowd.gitsource.remote.fetcher import Fetches
from waterflowd.gitsource.remote.mirror import Mirror
from waterflowd.gitsource.remote.source import RemoteSource
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source

#: What reading a few files of a commit may take; a disk that is this slow is worth another try later.
_READ_TIMEOUT_S = 60.0


class RepositoryOpener:
    """Opens sources. Mirrors lie in `directory`, as `<name>.git`; tokens may be in `environment`."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._fetches = Fetches()

    def open(self, settings: RepositorySettings) -> Source:
        """The source of one repository; raises `Rejected` WF502 for what can never be opened."""
        place = check(settings)
        if isinstance(place, Path):
            return LocalSource(settings.name, place)
        mirror = Mirror(self._directory / f"{settings.name}.git", _identity(place))
        return RemoteSource(settings, place, mirror, self._fetches, self._environment)

    async def digests(self, settings: RepositorySettings, commit: str, calls: Sequence[str]) -> dict[str, str]:
        """What `hashFiles` gives over the tree of a commit; see `digests.digests`. Leaves the loop free."""
        return await asyncio.to_thread(digests.digests, self.objects(settings), commit, calls)

    async def files(self, settings: RepositorySettings, commit: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of files of a commit; see `reading.files`. Leaves the loop free; `Retryable` WF505 when it is slow."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await asyncio.to_thread(lambda: reading.files(self.objects(settings), commit, paths))
        except TimeoutError as error:
            text = f"the repository did not answer in {_READ_TIMEOUT_S:g} s"
            raise Retryable(codes.TOO_SLOW, text, after_s=5) from error

    async def file(self, settings: RepositorySettings, commit: str, path: str) -> bytes | None:
        """The content of a plain file of a commit; None when there is none. Leaves the loop free, and needs no source."""
        return await asyncio.to_thread(lambda: reading.file(self.objects(settings), commit, path))

    def objects(self, settings: RepositorySettings) -> str:
        """The directory of the repository's objects. Raises `Rejected` WF502, `Retryable` WF503 when it is not there."""
        place = check(settings)
        if isinstance(place, Path):
            return git_layout.find(place).objects
        return Mirror(self._directory / f"{settings.name}.git", _identity(place)).objects


def check(settings: RepositorySettings) -> Path | RemoteUrl:
    """Where the repository is; raises `Rejected` WF502 for a url that is never opened, or that lacks what it needs."""
    place = urls.parse(settings.url, allow_http=settings.allow_http)
    if isinstance(place, Path):
        return place
    try:
        why = address_policy.refusal(place.host)
    except ValueError:
        # A name; its addresses are looked at when it is fetched.
        why = None
    if why is not None:
        raise _rejected(settings, f"the address {place.host} {why}")
    if place.scheme == "ssh":
        for key, value in (("ssh-key-file", settings.ssh_key_file), ("known-hosts-file", settings.known_hosts_file)):
            if not value:
                raise _rejected(settings, f"ssh needs {key}: {_HINTS[key]}")
    elif settings.ssh_key_file:
        raise _rejected(settings, f"ssh-key-file is for ssh, and this is {place.scheme}")
    if settings.credentials_file and place.scheme not in ("https", "http"):
        raise _rejected(settings, f"credentials-file is for https, and this is {place.scheme}")
    return place


_HINTS = {
    "ssh-key-file": "make a key with ssh-keygen -t ed25519 -N '' -f FILE, and allow FILE.pub to read the repository",
    "known-hosts-file": "make one with ssh-keyscan HOST > FILE, and compare the fingerprint with the host's owner's",
}


def _identity(place: RemoteUrl) -> str:
    return f"{place.scheme}://{place.user}@{place.host}:{place.port}/{place.path.lstrip('/')}"


def _rejected(settings: RepositorySettings, why: str) -> Rejected:
    text = f'repository "{settings.name}": {why}'
    return Rejected(codes.URL_REFUSED, text, where="url", status=422)
