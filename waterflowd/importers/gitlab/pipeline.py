"""Reads a pipeline of GitLab: includes, `extends`, `!reference` and defaults are resolved, as GitLab does before it runs a job.

Rules of this file: local includes only, at most `INCLUDES_MAX`, and none outside of the directory; a cycle is a finding and
ends there. `extends` goes at most `EXTENDS_MAX` levels deep. What is not resolved stays as a finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from waterflowd.dsl.reading.tree import Entry, Node
from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import INCLUDES_MAX, Origin, Unreadable, joined
from waterflowd.importers.source_yaml import YamlSource, entries_of, items_of, texts_of, value_of
from waterflowd.model.plan import Json

EXTENDS_MAX = 11
#: Keys at the top that are not jobs.
GLOBAL_KEYS = frozenset(
    (
        "default",
        "include",
        "stages",
        "variables",
        "workflow",
        "spec",
        "image",
        "services",
        "before_script",
        "after_script",
        "cache",
    )
)
#: Keys at the top, and under `default`, that every job has unless it has its own.
DEFAULT_KEYS = (
    *("image", "services", "before_script", "after_script", "cache", "artifacts", "retry", "timeout", "tags"),
    *("interruptible", "hooks", "id_tokens", "identity"),
)
_Values = dict[str, Json]


@dataclass(frozen=True)
class KeySource:
    """Where a key of a job is written."""

    source: YamlSource
    entry: Entry

    @property
    def line(self) -> int:
        """Its line."""
        return self.source.line(self.entry.key)

    @property
    def text(self) -> str:
        """Its text, as it is in the file."""
        return self.source.source_of(self.entry)


@dataclass
class Job:
    """One job with all its keys; those that come from templates and defaults included."""

    name: str
    keys: _Values
    places: dict[str, KeySource]
    source: YamlSource
    entry: Entry


@dataclass
class Pipeline:
    """A pipeline with everything resolved."""

    jobs: list[Job] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    variables: _Values = field(default_factory=dict)
    top: dict[str, KeySource] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    sources: list[YamlSource] = field(default_factory=list)


def read(path: str, origin: Origin, imported: Imported) -> Pipeline:
    """Read a pipeline; raises Unreadable if its own file cannot be read."""
    return _Reader(origin, imported).read(path)


class _Reader:
    """Reads the files of one pipeline."""

    def __init__(self, origin: Origin, imported: Imported) -> None:
        self._origin = origin
        self._imported = imported
        self._pipeline = Pipeline()
        self._open: list[str] = []
        self._count = 0
        #: All entries at the top of all files; later files override earlier ones.
        self._entries: dict[str, list[KeySource]] = {}

    def read(self, path: str) -> Pipeline:
        self._read_file(path, YamlSource(self._origin.text(path), path, self._imported))
        pipeline = self._pipeline
        top = {name: places[-1] for name, places in self._entries.items() if name in GLOBAL_KEYS}
        pipeline.top = top
        pipeline.variables = _merged(*(_mapping(place) for place in self._entries.get("variables", ())))
        if "stages" in top:
            pipeline.stages = texts_of(value_of(top["stages"].entry.value))
        for name, places in self._entries.items():
            if name not in GLOBAL_KEYS and not name.startswith("."):
                pipeline.jobs.append(self._job(name, places))
        return pipeline

    def _read_file(self, path: str, source: YamlSource) -> None:
        self._open.append(path)
        self._pipeline.sources.append(source)
        entries = entries_of(source.root)
        if "include" in entries:
            for item in items_of(entries["include"].value):
                self._include(item, source)
        for name, entry in entries.items():
            self._entries.setdefault(name, []).append(KeySource(source, entry))
        self._open.pop()

    def _include(self, item: Node, source: YamlSource) -> None:
        value = value_of(item)
        local = value.get("local") if isinstance(value, dict) else value
        line = source.line(item)
        if isinstance(value, dict) and (set(value) - {"local"}):
            text = ", ".join(f"{key}: {item}" for key, item in value.items())
            self._decide(source, line, f"include {text} is not imported: only plain local files are")
            return
        if not isinstance(local, str) or "://" in local:
            self._decide(source, line, f"include {local} is not imported: only local files are")
            return
        path = joined("", local)
        if path is None:
            self._decide(source, line, f"include {local} leads out of the directory, and is not read")
        elif path in self._open:
            self._decide(source, line, f"include {local} is a cycle, and is read once")
        elif self._count >= INCLUDES_MAX:
            self._decide(source, line, f"include {local} is not read: the limit is {INCLUDES_MAX} files")
        else:
            self._count += 1
            try:
                self._read_file(path, YamlSource(self._origin.text(path), path, self._imported))
            except Unreadable as error:
                self._decide(source, line, f"include {local} cannot be read: {error}")

    def _decide(self, source: YamlSource, line: int, text: str) -> None:
        self._pipeline.comments.append(self._imported.decide(source.path, line, text))

    def _job(self, name: str, places: list[KeySource]) -> Job:
        keys, found = self._resolved(name, places, ())
        inherits = keys.get("inherit")
        if not isinstance(inherits, dict) or inherits.get("default") is not False:
            for key, place in self._defaults().items():
                if key not in keys:
                    keys[key], found[key] = self._value(place.entry.value, place.source), place
        return Job(name=name, keys=keys, places=found, source=places[-1].source, entry=places[-1].entry)

    def _defaults(self) -> dict[str, KeySource]:
        """Return the keys of `default`, and those at the top that mean the same."""
        found = {key: self._entries[key][-1] for key in DEFAULT_KEYS if key in self._entries}
        for place in self._entries.get("default", ()):
            found |= {key: KeySource(place.source, entry) for key, entry in entries_of(place.entry.value).items()}
        return found

    def _resolved(
        self, name: str, places: list[KeySource], chain: tuple[str, ...]
    ) -> tuple[_Values, dict[str, KeySource]]:
        """Return the keys of a job or template with those of what it extends, and where each is written."""
        keys: _Values = {}
        found: dict[str, KeySource] = {}
        for place in places:
            own = entries_of(place.entry.value)
            extended = texts_of(value_of(own["extends"].value)) if "extends" in own else []
            for parent in extended:
                if parent in chain or parent == name or len(chain) >= EXTENDS_MAX or parent not in self._entries:
                    why = "does not exist" if parent not in self._entries else "is a cycle, or too deep"
                    self._decide(
                        place.source, place.source.line(own["extends"].key), f"{name} extends {parent}, which {why}"
                    )
                    continue
                inherited, from_where = self._resolved(parent, self._entries[parent], (*chain, name))
                keys, found = _merged(keys, inherited), found | from_where
            values = {key: self._value(entry.value, place.source) for key, entry in own.items() if key != "extends"}
            keys = _merged(keys, values)
            found |= {key: KeySource(place.source, entry) for key, entry in own.items() if key != "extends"}
        return keys, found

    def _value(self, node: Node, source: YamlSource, depth: int = 0) -> Json:
        """Return a value with `!reference` replaced by what it refers to."""
        if source.tag_of(node) == "!reference":
            return self._referred(node, source, depth)
        if depth < EXTENDS_MAX and not isinstance(node, str):
            if entries := entries_of(node):
                return {key: self._value(entry.value, source, depth) for key, entry in entries.items()}
            items = getattr(node, "items", None)
            if items is not None and any(source.tag_of(item) == "!reference" for item in items):
                return [self._value(item, source, depth) for item in items]
        return value_of(node)

    def _referred(self, node: Node, source: YamlSource, depth: int) -> Json:
        path = texts_of(value_of(node))
        places = self._entries.get(path[0], []) if path else []
        if not places or depth >= EXTENDS_MAX:
            self._decide(source, source.line(node), f"!reference {path} cannot be resolved")
            return None
        place = places[-1]
        found: Node = place.entry.value
        for key in path[1:]:
            if key not in entries_of(found):
                self._decide(source, source.line(node), f"!reference {path} cannot be resolved")
                return None
            found = entries_of(found)[key].value
        return self._value(found, place.source, depth + 1)


def _mapping(place: KeySource) -> _Values:
    value = value_of(place.entry.value)
    return value if isinstance(value, dict) else {}


def _merged(*mappings: _Values) -> _Values:
    """Merge mappings as GitLab does: mappings key by key, anything else is replaced."""
    result: _Values = {}
    for mapping in mappings:
        for key, value in mapping.items():
            old = result.get(key)
            result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
