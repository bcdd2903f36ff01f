"""Man pages and shell completions, generated from the commands."""

from __future__ import annotations

import datetime
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from waterflowd.ctl.commands.offline import completion


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, and the parts of its man page that are not generated."""

    name: str
    section: int
    command: click.Command
    see_also: str
    files: tuple[tuple[str, str], ...] = ()


def page(program: Program, version: str, at_s: int) -> str:
    """Returns the man page in man(7) format."""
    date = datetime.datetime.fromtimestamp(at_s, datetime.UTC).date().isoformat()
    context = click.Context(program.command, info_name=program.name)
    about = _paragraphs(program.command.help or "")
    lines = [
        f'.TH {program.name.upper().replace("-", chr(92) + "-")} {program.section} {date} "Waterflow {version}" Waterflow',
        ".SH NAME",
        f"{_text(program.name)} \\- {_text(about[0].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_text(program.name)}",
        _text(" ".join(program.command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_prose(about),
        ".SH OPTIONS",
        *_options(program.command, context),
    ]
    if isinstance(program.command, click.Group):
        lines.append(".SH COMMANDS")
        for name, command, inner in _commands(program.command, context):
            usage = " ".join(command.collect_usage_pieces(inner))
            lines += [".SS " + _text(f"{name} {usage}".strip()), *_prose(_paragraphs(command.help or ""))]
            lines += _options(command, inner)
    if program.files:
        lines.append(".SH FILES")
        for path, meaning in program.files:
            lines += [".TP", f".I {_text(path)}", _text(meaning)]
    lines += [".SH SEE ALSO", _text(program.see_also)]
    return "\n".join(lines) + "\n"


def completions(program: Program) -> dict[str, str]:
    """Returns the completion script of each shell."""
    return {shell: completion.script(program.command, program.name, shell) for shell in completion.SHELLS}


def _commands(
    group: click.Group, context: click.Context, prefix: str = ""
) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield f"{prefix}{name}", command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner, f"{prefix}{name} ")


def _options(command: click.Command, context: click.Context) -> list[str]:
    lines = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            lines += [".TP", f".B {_text(record[0])}", _text(record[1]) or "\\&"]
    return lines


def _paragraphs(text: str) -> list[str]:
    cleaned = inspect.cleandoc(text).split("\f")[0].replace("\b\n", "")
    return [re.sub(r"\s+", " ", part).strip() for part in cleaned.split("\n\n")] or [""]


def _prose(paragraphs: list[str]) -> list[str]:
    return [line for part in paragraphs for line in (".PP", _text(part))]


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
