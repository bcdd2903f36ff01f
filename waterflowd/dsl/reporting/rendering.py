"""One diagnostic as lines of text, for a terminal or a log."""

from __future__ import annotations

from waterflow_agent.display import escape_for_display
from waterflowd.dsl.reporting.diagnostics import Diagnostic, Severity
from waterflowd.dsl.reporting.snippets import width

_BOLD, _RED, _YELLOW, _CYAN, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[0m"


def render_diagnostic(diagnostic: Diagnostic, colour: bool = False) -> str:
    """The place, the message, the source line and a caret with the suggestion; lines without an end at the last one."""
    mark = _YELLOW if diagnostic.severity is Severity.WARNING else _RED
    bold, mark, cyan, reset = (_BOLD, mark, _CYAN, _RESET) if colour else ("", "", "", "")
    location = f"{escape_for_display(diagnostic.path)}:{diagnostic.line}:{diagnostic.column}"
    kind = diagnostic.severity.value
    lines = [
        f"{bold}{location}: {mark}{kind} {diagnostic.code}{reset}{bold}: {escape_for_display(diagnostic.message)}{reset}"
    ]
    hints = [escape_for_display(line) for line in diagnostic.suggestion.splitlines()]
    if not diagnostic.caret:
        return "\n".join([*lines, *(f"  {hint}" for hint in hints)])
    number = str(diagnostic.line)
    lines.append(f"  {number} | {diagnostic.snippet}")
    indent = "  " + " " * len(number) + " | " + " " * width(diagnostic.snippet[: diagnostic.caret - 1])
    if len(hints) == 1:
        return "\n".join([*lines, f"{indent}{cyan}^ {hints[0]}{reset}"])
    margin = " " * (len(number) + 5)
    lines.append(f"{indent}{cyan}^{reset}")
    lines.extend(f"{margin}{cyan}{hint}{reset}" for hint in hints)
    return "\n".join(lines)
