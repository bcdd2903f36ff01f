"""What the four kinds of places have in common: the contracts between them and the node.

Each is an async context manager; connections live as long as it. Everything that goes wrong there is a `NodeFailure` that names
the place, says whether trying again can help, and holds no secret.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

if TYPE_CHECKING:
    from waterflow_agent.nodes.transfer.content import Content


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a source: its name below the destination, checked, and how the source finds it."""

    name: str
    key: str
    #: None where the source does not say.
    size: int | None
    #: What tells this content from a later one, where the source has something of the kind.
    version: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a source has. With `is_many` they go into the destination as into a folder, be it one or a thousand."""

    entries: list[SourceFile]
    is_many: bool


class Endpoint(Protocol):
    """Either end."""

    async def __aenter__(self) -> Self:
        """Connects, where that is to be done."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""
        ...


class Source(Endpoint, Protocol):
    """Where files come from."""

    async def find(self) -> Listing:
        """What there is, sorted by name; at least one file."""
        ...

    def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """Its bytes in order, as they are now. Fails at its end when the file has changed meanwhile."""
        ...


class Target(Endpoint, Protocol):
    """Where files go."""

    async def is_folder(self) -> bool:
        """Whether the destination is a folder already, so that a single file goes into it."""
        ...

    async def write(self, name: str | None, content: Content) -> None:
        """Puts the content below the destination, or with None exactly there; folders on the way are made.

        Nobody sees the file before it is complete. When anything fails, or the step is cancelled, what was there before stays.
        """
        ...
