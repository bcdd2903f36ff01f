"""The interfaces of sources and targets.

Each is an async context manager that holds its connection. Every error is a `NodeFailure` that names the source or target,
says whether a retry can help, and contains no secret.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

if TYPE_CHECKING:
    from waterflow_agent.nodes.transfer.content import Content


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a source: its checked name below the destination, and the key by which the source finds it."""

    name: str
    key: str
    #: None if the source does not report it.
    size: int | None
    #: Distinguishes this content from a later one, if the source has versions.
    version: str | None = None
    #: When it was last changed, in seconds since 1970; 0 if the source does not report it.
    modified: float = 0.0


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a source. With `is_many` the destination is a folder, even for a single file."""

    entries: list[SourceFile]
    is_many: bool


class Endpoint(Protocol):
    """A source or a target."""

    async def __aenter__(self) -> Self:
        """Connect, if necessary."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        ...


class Source(Endpoint, Protocol):
    """Where files are read."""

    async def list_files(self) -> Listing:
        """Return the files, sorted by name."""
        ...

    def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """Yield the content. Fails at the end if the file has changed in the meantime."""
        ...


class Store(Source, Protocol):
    """Where files are read and deleted."""

    async def delete(self, entry: SourceFile) -> None:
        """Delete a listed file. Fails if it has changed in the meantime; one that is gone already is fine."""
        ...


class Target(Endpoint, Protocol):
    """Where files are written."""

    async def is_folder(self) -> bool:
        """Return whether the destination is an existing folder, into which a single file is written."""
        ...

    async def write(self, name: str | None, content: Content) -> None:
        """Write the content to `name` below the destination, or to the destination itself; creates missing folders.

        The file appears when it is complete. If writing fails or the step is cancelled, an existing file stays unchanged.
        """
        ...
