"""How the command ends when it does not end well: one sentence, the next command to type, and a stable exit code."""

from __future__ import annotations

from typing import IO, Any

import click

from waterflow_agent.display import escape_for_display

RUN_FAILED = 1
USAGE = 2
CANCELLED = 3
UNREACHABLE = 4
REFUSED = 5


class Failure(click.ClickException):
    """Ends the command with `exit_code`; `following` is the next command to type."""

    def __init__(self, exit_code: int, text: str, following: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]
        self.following = following

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the sentence and what to do next."""
        click.echo(f"error: {escape_for_display(self.message)}", err=True)
        if self.following:
            click.echo(f"  next: {escape_for_display(self.following)}", err=True)


class Unreachable(Failure):
    """Nobody answers."""

    def __init__(self, text: str, following: str) -> None:
        super().__init__(UNREACHABLE, text, following)


class Refused(Failure):
    """The daemon said no; `content` is its problem document."""

    def __init__(self, status: int, content: dict[str, Any], following: str = "") -> None:
        code = str(content.get("code") or status)
        super().__init__(REFUSED, f"{content.get('detail') or content.get('title') or 'refused'} [{code}]", following)
        self.status = status
        self.content = content

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints every error of a workflow with its place, then the sentence."""
        for error in self.content.get("errors") or ():
            click.echo(diagnostic_text(error), err=True)
        super().show(file)


def diagnostic_text(error: object) -> str:
    """One error of a workflow file as `validate` prints it: place, sentence, code, the line with a caret, a suggestion."""
    import msgspec

    from waterflowd.dsl import render_diagnostic
    from waterflowd.dsl.reporting.diagnostics import from_row

    try:
        return "\n".join(escape_for_display(line) for line in render_diagnostic(from_row(error)).split("\n"))
    except msgspec.ValidationError:
        # From a daemon of another version: better as it came than not at all.
        return escape_for_display(str(error))
