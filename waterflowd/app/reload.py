"""Applies a changed configuration while the daemon runs, as far as that is possible.

Rules of this file:

- A configuration with an error changes nothing: it is read and checked completely before the first key is applied.
- Every key that differs is reported: as applied, or as one that needs a restart. What needs a restart is reported again by the
  next reload, because it is compared with what the daemon runs with, and not with the last file.
- A key is applied only where that has the same effect as a restart. Open runs keep the rules of environments with which they
  were started, as they do across a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from waterflowd.admin.ports import KeyChange, Reloaded
from waterflowd.app.config import Config
from waterflowd.app.config_source import ConfigSource

logger = logging.getLogger("waterflow.daemon")


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Applies some keys. It is called with the whole configuration as it is then in effect."""

    #: Keys, or tables with everything in them: `log.level`, `quotas`.
    keys: tuple[str, ...]
    apply: Callable[[Config], Awaitable[None]]

    def has(self, key: str) -> bool:
        """Whether it applies this key."""
        return any(key == own or key.startswith(f"{own}.") for own in self.keys)


class Reloader:
    """Implements `admin.ports.ConfigurationReloader`."""

    def __init__(
        self,
        source: ConfigSource,
        running: Config,
        appliers: Sequence[Applier],
        check: Callable[[Config], None],
    ) -> None:
        """`check` raises for a configuration with which the daemon would not start; it may block."""
        self._source = source
        self._running = running
        self._appliers = appliers
        self._check = check
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """See the port."""
        async with self._one_at_a_time:
            read = self._source.load()
            await asyncio.to_thread(self._check, read)
            changes = tuple(
                KeyChange(key=key, change=change, is_applied=any(applier.has(key) for applier in self._appliers))
                for key, change in differences(self._running, read)
            )
            found = Reloaded(source=str(self._source.path or "the environment"), changes=changes)
            self._running = _with(self._running, read, found.applied)
            for applier in self._appliers:
                if any(map(applier.has, found.applied)):
                    await applier.apply(self._running)
            logger.info("configuration read again: %s", text_of(found))
            return found


def text_of(found: Reloaded) -> str:
    """One sentence about a reload."""
    applied, waiting = found.applied, found.needs_restart
    if not found.changes:
        return "nothing has changed"
    parts = [f"applied {', '.join(applied)}"] if applied else []
    parts += [f"a restart is needed for {', '.join(waiting)}"] if waiting else []
    return "; ".join(parts)


def differences(old: Config, new: Config) -> list[tuple[str, str]]:
    """The keys that differ, and whether each was `added`, `changed` or `removed`; tables of an array by their names."""
    return sorted(_differences("", old, new))


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(type(new)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        key = f"{path}{field.encode_name}"
        if before == after:
            continue
        if isinstance(after, msgspec.Struct):
            yield from _differences(f"{key}.", before, after)
        elif _has_names(before) and _has_names(after):
            yield from _by_name(key, before, after)
        else:
            yield key, "changed"


def _has_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(hasattr(item, "name") for item in value)


def _by_name(key: str, old: Iterable[Any], new: Iterable[Any]) -> Iterator[tuple[str, str]]:
    before, after = _named(old), _named(new)
    if list(before) != list(after) and before == after:
        yield key, "changed"
    for name in before.keys() | after.keys():
        if name not in after:
            yield f"{key}.{name}", "removed"
        elif name not in before:
            yield f"{key}.{name}", "added"
        elif before[name] != after[name]:
            yield f"{key}.{name}", "changed"


def _named(items: Iterable[Any]) -> Mapping[str, Any]:
    return {item.name: item for item in items}


def _with(running: Any, read: Any, applied: Sequence[str]) -> Any:
    """The running configuration with what was applied of the other one."""
    values = {}
    for field in msgspec.structs.fields(type(read)):
        after, key = getattr(read, field.name), field.encode_name
        inner = [name.removeprefix(f"{key}.") for name in applied if name.startswith(f"{key}.")]
        if isinstance(after, msgspec.Struct):
            after = _with(getattr(running, field.name), after, inner)
        elif key not in applied and not inner:
            continue
        values[field.name] = after
    return msgspec.structs.replace(running, **values)
