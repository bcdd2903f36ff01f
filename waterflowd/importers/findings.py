"""What an import yields: files, findings with their places in the source, and files that were refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

#: Begins the comment in a written file that asks for a decision.
DECIDE = "DECIDE:"


class Kind(Enum):
    """What a finding asks of the reader."""

    #: A person must decide; the place is marked in the written file.
    DECISION = "decision"
    #: Written differently here, with the same effect, or left out because it has none.
    CHANGE = "change"
    #: A warning of the compiler about the written file.
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One remark about a construct of a source file."""

    kind: Kind
    #: Path of the source file, as the origin names it.
    path: str
    #: Line in the source file, from 1; 0 for the file as a whole.
    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """One file of the result."""

    #: Relative to the output directory, such as `workflows/ci.yml`.
    path: str
    content: str
    #: Path of the source file.
    source: str


@dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A source file that yields no workflow, and why."""

    path: str
    reason: str


@dataclass(kw_only=True)
class Imported:
    """The result of an import."""

    files: list[WrittenFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)

    def decide(self, path: str, line: int, text: str) -> str:
        """Add a finding that asks for a decision; return the comment for its place in the written file."""
        self._add(Kind.DECISION, path, line, text)
        return f"{DECIDE} {text}"

    def change(self, path: str, line: int, text: str) -> None:
        """Add a finding about something that is written differently."""
        self._add(Kind.CHANGE, path, line, text)

    def warn(self, path: str, line: int, text: str) -> None:
        """Add a warning of the compiler."""
        self._add(Kind.WARNING, path, line, text)

    def refuse(self, path: str, reason: str) -> None:
        """Record that a file yields nothing."""
        self.refused.append(RefusedFile(path=path, reason=reason))

    def _add(self, kind: Kind, path: str, line: int, text: str) -> None:
        finding = Finding(kind=kind, path=path, line=line, text=text)
        if finding not in self.findings:
            self.findings.append(finding)
