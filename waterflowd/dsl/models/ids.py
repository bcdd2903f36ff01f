"""Names that are used in expressions, paths and wire messages: the ids of jobs, steps and inputs.

The syntax is GitHub's, with a limit on the length. Expressions compare names without case, so two ids that differ only in
case are duplicates.
"""

from __future__ import annotations

import re

from waterflow_agent.display import quote
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport

ID_CHARACTERS_MAX = 100

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Ids:
    """The ids of one kind in one scope; reports ids that are malformed or already used."""

    def __init__(self, kind: str, report: DiagnosticReport, outer: Ids | None = None) -> None:
        self._kind = kind
        self._report = report
        self._taken: dict[str, str] = {}
        #: The enclosing scope, whose ids cannot be used here either.
        self._outer = outer

    def inner(self) -> Ids:
        """The ids of a scope inside this one."""
        return Ids(self._kind, self._report, self)

    def _first(self, lowered: str) -> str | None:
        ids: Ids | None = self
        while ids is not None:
            if lowered in ids._taken:
                return ids._taken[lowered]
            ids = ids._outer
        return None

    def take(self, name: str, offset: int) -> bool:
        """Registers the id at `offset`; false if it is malformed or already used, which is reported."""
        subject = f"the id {quote(name)} of {'an' if self._kind[0] in 'aeiou' else 'a'} {self._kind}"
        first = self._first(name.lower())
        if len(name) > ID_CHARACTERS_MAX:
            text, hint = (
                f"{subject} has more than {ID_CHARACTERS_MAX} characters",
                "use a shorter id, and put the text into name",
            )
        elif not _ID.fullmatch(name):
            text = f"{subject} may contain only letters, digits, _ and -, and must begin with a letter or _"
            hint = f'for example "{_made_valid(name)}"'
        elif first is not None:
            other = "" if first == name else f", as {quote(first)}: ids are compared without case"
            text, hint = f"{subject} is already used{other}", "use another id"
        else:
            self._taken[name.lower()] = name
            return True
        self._report.add(offset, codes.WRONG_ID, text, hint)
        return False


def _made_valid(name: str) -> str:
    made = re.sub(r"[^A-Za-z0-9_-]+", "-", name[:ID_CHARACTERS_MAX]).strip("-") or "name"
    return made if _ID.fullmatch(made) else f"_{made}"[:ID_CHARACTERS_MAX]
