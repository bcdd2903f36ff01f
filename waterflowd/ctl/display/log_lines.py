"""Lines of output as they are shown: groups, errors and the like that a script has marked with workflow commands.

The agent writes them as `##[NAME]text` (`waterflow_agent.execution.workflow_commands`). Everything else is shown as it is.
"""

from __future__ import annotations

import re

from waterflowd.ctl.display.terminal import clean_line, glyph_of, has_colors, style

_MARK = re.compile(r"##\[(error|warning|notice|debug|group|endgroup)\]")
#: The line of a command that masks a value, which says nothing to a reader.
_HIDDEN = "::add-mask::***"
_LABELS = {
    "error": ("Error: ", "red"),
    "warning": ("Warning: ", "yellow"),
    "notice": ("Notice: ", "cyan"),
    "debug": ("Debug: ", "bright_black"),
}


def shown(text: str, *, is_colored: bool | None = None) -> str | None:
    """Return the line escaped and styled, or None when nothing is shown for it. `is_colored` is whether to keep its colours."""
    keeps = has_colors() if is_colored is None else is_colored
    mark = _MARK.match(text)
    if mark is None:
        return None if text == _HIDDEN else clean_line(text, has_colors=keeps)
    name, rest = mark[1], text[mark.end() :]
    if name == "endgroup":
        return None
    if name == "group":
        return style(f"{glyph_of('▸', '>')} {clean_line(rest, has_colors=False)}", is_bold=True)
    label, color = _LABELS[name]
    return style(label + clean_line(rest, has_colors=False), color)
