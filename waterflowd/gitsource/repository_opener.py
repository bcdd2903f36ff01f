"""Opens configured repositories: local ones in place, remote ones through a mirror, or two if history is needed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from waterflow_agent.errors import Rejected, Retryable
from waterflowd.gitsource import digests, git_layout, reading, urls
from waterflowd.gitsource.history.reader import CompleteRepository, derived_directories
from waterflowd.gitsource.lfs import content_store
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import TransferRequest
from waterflowd.gitsource.local import LocalSource
from waterflowd.gitsource.remote import address_policy, credentials
from waterflowd.gitsource.remote.fetcher import Fetcher
from waterflowd.gitsource.remote.mirror import Mirror
from waterflowd.gitsource.remote.source import RemoteSource
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source

#: Time limit for reading a few files of a commit.
_READ_TIMEOUT_S = 60.0


class RepositoryOpener:
    """Opens sources and reads files. Mirrors are `<name>.git` in `directory`; tokens may be in `environment`."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._fetcher = Fetcher()

    def open(self, settings: RepositorySettings) -> Source:
        """The source of one repository; raises `Rejected` WF502 for a URL that is never opened."""
        url = check(settings)
        if isinstance(url, Path):
            return LocalSource(settings.name, url)
        return RemoteSource(settings, url, self._mirror(settings, url), self._fetcher, self._environment)

    def open_complete(self, settings: RepositorySettings) -> CompleteRepository:
        """One repository with all of its commits, for checkouts with history; raises `Rejected` as `open` does.

        A local repository is read in place. A remote has a second mirror, which is filled when it is first needed.
        """
        url = check(settings)
        if isinstance(url, Path):
            return CompleteRepository(
                source=LocalSource(settings.name, url),
                objects=lambda: git_layout.find(url).objects,
                shallow=lambda: git_layout.shallow(git_layout.find(url)),
                lfs_request=lambda files, target: self._lfs_request(settings, files, target),
            )
        mirror = self._complete_mirror(settings, url)
        source = RemoteSource(settings, url, mirror, self._fetcher, self._environment, has_history=True)
        return CompleteRepository(
            source=source,
            objects=lambda: mirror.objects,
            shallow=lambda: (),
            lfs_request=lambda files, target: self._lfs_request(settings, files, target),
        )

    async def _lfs_request(
        self, settings: RepositorySettings, files: tuple[LargeFile, ...], target: str
    ) -> TransferRequest:
        url = check(settings)
        if isinstance(url, Path):
            layout = await asyncio.to_thread(git_layout.find, url)
            source = str(Path(layout.common_directory) / "lfs" / "objects")
            return TransferRequest(files=files, target=target, source=source, time_s=content_store.time_s(files))
        return TransferRequest(
            files=files,
            target=target,
            url=url,
            credentials=await asyncio.to_thread(credentials.load, settings, url, self._environment),
            allow_loopback=settings.allow_loopback,
            time_s=content_store.time_s(files),
        )

    async def digests(self, settings: RepositorySettings, commit: str, calls: Sequence[str]) -> dict[str, str]:
        """The results of `hashFiles` over the tree of a commit; see `digests.digests`. Does not block the event loop."""
        return await asyncio.to_thread(digests.digests, self.objects(settings), commit, calls)

    async def files(self, settings: RepositorySettings, commit: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of files of a commit; see `reading.files`. Does not block; `Retryable` WF505 after a time limit."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await asyncio.to_thread(lambda: reading.files(self.objects(settings), commit, paths))
        except TimeoutError as error:
            text = f"reading the repository timed out after {_READ_TIMEOUT_S:g} s"
            raise Retryable(codes.TOO_SLOW, text, after_s=5) from error

    async def file(self, settings: RepositorySettings, commit: str, path: str) -> bytes | None:
        """The content of a regular file of a commit; None if there is none. Does not block the event loop."""
        return await asyncio.to_thread(lambda: reading.file(self.objects(settings), commit, path))

    async def remove(self, settings: RepositorySettings) -> None:
        """Removes what was fetched of a repository that is no longer watched, and its packs. Idempotent."""
        url = check(settings)
        for derived in derived_directories(self._directory, settings.name):
            await asyncio.to_thread(shutil.rmtree, derived, ignore_errors=True)
        if not isinstance(url, Path):
            for mirror in (self._mirror(settings, url), self._complete_mirror(settings, url)):
                await asyncio.to_thread(mirror.remove)

    def objects(self, settings: RepositorySettings) -> str:
        """The repository's object directory. Raises `Rejected` WF502, and `Retryable` WF503 if it does not exist."""
        url = check(settings)
        return git_layout.find(url).objects if isinstance(url, Path) else self._mirror(settings, url).objects

    def _mirror(self, settings: RepositorySettings, url: RemoteUrl) -> Mirror:
        return Mirror(self._directory / f"{settings.name}.git", _identity(url))

    def _complete_mirror(self, settings: RepositorySettings, url: RemoteUrl) -> Mirror:
        return Mirror(self._directory / "complete" / f"{settings.name}.git", _identity(url))


def check(settings: RepositorySettings) -> Path | RemoteUrl:
    """The path or remote of the repository; raises `Rejected` WF502 for a URL that is never opened, or lacks a required key."""
    url = urls.parse(settings.url, allow_http=settings.allow_http)
    if isinstance(url, Path):
        return url
    try:
        problem = address_policy.refusal(url.host)
        if problem is None and not settings.allow_loopback and address_policy.is_loopback(url.host):
            problem = address_policy.LOOPBACK_REFUSED
    except ValueError:
        # A name; its addresses are checked at each fetch.
        problem = None
    if problem is not None:
        raise _rejected(settings, f"address {url.host} {problem}")
    if url.scheme == "ssh":
        for key, value in (("ssh-key-file", settings.ssh_key_file), ("known-hosts-file", settings.known_hosts_file)):
            if not value:
                raise _rejected(settings, f"ssh requires {key}: {_HINTS[key]}")
    elif settings.ssh_key_file:
        raise _rejected(settings, f"ssh-key-file is only for ssh, and this is {url.scheme}")
    if settings.credentials_file and url.scheme not in ("https", "http"):
        raise _rejected(settings, f"credentials-file is only for https, and this is {url.scheme}")
    return url


_HINTS = {
    "ssh-key-file": "create a key with ssh-keygen -t ed25519 -N '' -f FILE, and give FILE.pub read access to the repository",
    "known-hosts-file": "create it with ssh-keyscan HOST > FILE, and verify the fingerprint with the host's owner",
}


def _identity(url: RemoteUrl) -> str:
    return f"{url.scheme}://{url.user}@{url.host}:{url.port}/{url.path.lstrip('/')}"


def _rejected(settings: RepositorySettings, problem: str) -> Rejected:
    text = f'repository "{settings.name}": {problem}'
    return Rejected(codes.URL_REFUSED, text, where="url", status=422)
