"""The repositories that are watched: those of the configuration, and those that were added through the API.

Rules of this file: the configuration wins. A name that is in both is that of the configuration, so somebody who may only use
the API cannot replace a repository that is in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from waterflowd.reconcile.added import AddedFact, RepositoryAdded, RepositoryRemoved
from waterflowd.reconcile.settings import RepositorySettings


class RepositoryCatalog(Mapping[str, RepositorySettings]):
    """The settings of all watched repositories by name, as they are now; those of the configuration come first."""

    def __init__(
        self,
        configured: Iterable[RepositorySettings],
        facts: Iterable[AddedFact] = (),
        *,
        allow_loopback: bool = False,
    ) -> None:
        self.configured: dict[str, RepositorySettings] = {}
        #: What was added through the API and not removed, by name.
        self.added: dict[str, RepositoryAdded] = {}
        self._allow_loopback = allow_loopback
        self._effective: dict[str, RepositorySettings] = {}
        for fact in facts:
            self._fold(fact)
        self.configure(configured, allow_loopback=allow_loopback)

    def configure(self, configured: Iterable[RepositorySettings], *, allow_loopback: bool) -> None:
        """Replaces what the configuration says."""
        self.configured = {settings.name: settings for settings in configured}
        self._allow_loopback = allow_loopback
        self._combine()

    def apply(self, fact: AddedFact) -> None:
        """Applies a fact of the log."""
        self._fold(fact)
        self._combine()

    @property
    def shadowed(self) -> list[str]:
        """Names that were added through the API and are in the configuration as well, where they are used from."""
        return [name for name in self.added if name in self.configured]

    def _fold(self, fact: AddedFact) -> None:
        if isinstance(fact, RepositoryRemoved):
            self.added.pop(fact.name, None)
        else:
            self.added[fact.settings.name] = fact

    def _combine(self) -> None:
        added = {name: fact.effective(allow_loopback=self._allow_loopback) for name, fact in self.added.items()}
        self._effective = {**self.configured, **{name: added[name] for name in added if name not in self.configured}}

    def __getitem__(self, name: str) -> RepositorySettings:
        return self._effective[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._effective)

    def __len__(self) -> int:
        return len(self._effective)
