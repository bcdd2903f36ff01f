"""Errors of the command line: one sentence, the next command to type, and a stable exit code."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import wrapped

RUN_FAILED = 1
USAGE = 2
CANCELLED = 3
UNREACHABLE = 4
REFUSED = 5


class Failure(click.ClickException):
    """Ends the command with `exit_code`; `next_step` is the next command to type."""

    def __init__(self, exit_code: int, text: str, next_step: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]
        self.next_step = next_step

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence and the next step."""
        text = f"error: {escape_for_display(self.message)}"
        click.echo(wrapped(text, 2) if sys.stderr.isatty() else text, err=True)
        if self.next_step:
            click.echo(f"  next: {escape_for_display(self.next_step)}", err=True)


class Unreachable(Failure):
    """No daemon can be reached."""

    def __init__(self, text: str, next_step: str) -> None:
        super().__init__(UNREACHABLE, text, next_step)


class Refused(Failure):
    """The daemon refused the request; `content` is its problem document."""

    def __init__(self, status: int, content: dict[str, Any], next_step: str = "") -> None:
        code = str(content.get("code") or status)
        super().__init__(REFUSED, f"{content.get('detail') or content.get('title') or 'refused'} [{code}]", next_step)
        self.status = status
        self.content = content

    def show(self, file: IO[Any] | None = None) -> None:
        """Print every error of a workflow file with its position, then the sentence."""
        for error in self.content.get("errors") or ():
            click.echo(diagnostic_text(error), err=True)
        super().show(file)


def diagnostic_text(error: object) -> str:
    """Return an error of a workflow file as `validate` prints it: position, code, sentence, line with a caret, suggestion."""
    import msgspec

    from waterflowd.dsl import render_diagnostic
    from waterflowd.dsl.reporting.diagnostics import from_row

    try:
        return "\n".join(escape_for_display(line) for line in render_diagnostic(from_row(error)).split("\n"))
    except msgspec.ValidationError:
        # From a daemon of another version: print it unformatted.
        return escape_for_display(str(error))
