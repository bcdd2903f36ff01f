"""Imports crontabs of users and of the system (/etc/crontab, /etc/cron.d): each entry becomes a workflow with a schedule.

Rules of this file: what cron does is kept as far as it can be: the shell without `-e`, the home directory as the working
directory, no run for missed times, standard input after `%`. An entry that has no counterpart is written with a start by
hand and a comment.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from waterflowd.dsl import cron
from waterflowd.importers import generated, writing
from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import Names, Origin, Unreadable, slug, stem_of

#: More than anyone's crontab has.
ENTRIES_MAX = 1_000
_VARIABLE = re.compile(r"""\s*(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*=\s*(.*?)\s*""")
_USER = re.compile(r"[a-z_][a-z0-9_-]*\$?")
#: Words in front of the command that an entry is really about.
_WRAPPERS = frozenset(
    (
        *("sudo", "nice", "ionice", "flock", "timeout", "env", "nohup", "chronic", "time", "exec", "bash", "sh", "cd"),
        *("test", "[", "]", "&&", "||", ";"),
    )
)
#: Variables that cron itself reads, and what they become.
_MEANINGS = {
    "SHELL": "the shell of the steps below it",
    "HOME": "the directory in which the steps below it begin",
    "MAILTO": "nothing is mailed here; [[notify]] of the daemon's configuration sends messages about failures",
    "MAILFROM": "nothing is mailed here",
    "CONTENT_TYPE": "nothing is mailed here",
    "CONTENT_TRANSFER_ENCODING": "nothing is mailed here",
    "CRON_TZ": "the time zone of the schedules below it",
    "TZ": "the time zone of the schedules below it",
}
_LOCAL_TIME = "cron uses the time zone of its server; name it here, or keep UTC"
_REBOOT = "@reboot has no counterpart: use a systemd unit on the servers; until then this is started by hand"


@dataclass
class _Entry:
    """One job of a crontab."""

    line: int
    schedule: str
    user: str | None
    command: str
    comments: list[str]
    variables: dict[str, str] = field(default_factory=dict)


def import_files(paths: list[str], origin: Origin) -> Imported:
    """Import crontabs."""
    imported, names = Imported(), Names()
    for path in paths:
        try:
            entries, closing = _entries(origin.text(path), path, imported)
        except Unreadable as error:
            imported.refuse(path, str(error))
            continue
        if not entries:
            imported.refuse(path, "the file has no entries of a crontab")
        for position, entry in enumerate(entries):
            _add(entry, closing if position == len(entries) - 1 else [], path, origin, names, imported)
        if entries:
            _explain(entries, path, origin, imported)
    return imported


def is_crontab(text: str) -> bool:
    """Whether text is made of entries of a crontab."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    jobs = [line for line in lines if not _VARIABLE.fullmatch(line)]
    return bool(jobs) and all(_is_entry(line) for line in jobs)


def _is_entry(line: str) -> bool:
    words = line.split()
    if words[0].startswith("@"):
        return len(words) > 1 and words[0].lower() in (*cron.WORDS, "@reboot")
    return len(words) > 5 and all(re.fullmatch(r"[-0-9*/,A-Za-z?~L#]+", word) for word in words[:5])


def _entries(text: str, path: str, imported: Imported) -> tuple[list[_Entry], list[str]]:
    lines = text.splitlines()
    is_system = _is_system(lines, path)
    entries: list[_Entry] = []
    comments: list[str] = []
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.startswith("#"):
            comments.append(stripped[1:].strip())
        elif found := _VARIABLE.fullmatch(line):
            variables[found[2]] = _unquoted(found[3])
            if found[2] in _MEANINGS:
                imported.change(path, number, f"{stripped}: {_MEANINGS[found[2]]}")
        elif not _is_entry(stripped):
            sentence = f"line {number} is not an entry of a crontab, and was not imported: {stripped[:200]}"
            comments.append(imported.decide(path, number, sentence))
        elif len(entries) >= ENTRIES_MAX:
            raise Unreadable(f"the file has more than {ENTRIES_MAX:,} entries; split it")
        else:
            entry = _entry(stripped, number, is_system)
            entry.comments, entry.variables = comments, dict(variables)
            entries.append(entry)
            comments = []
    return entries, comments


def _is_system(lines: list[str], path: str) -> bool:
    """Whether entries name a user in front of the command."""
    entries = [
        line.split(None, 6) for line in lines if not line.lstrip().startswith("#") and _is_entry(line.strip() or "#")
    ]
    users = [words[1 if words[0].startswith("@") else 5] for words in entries]
    could_be = all(_USER.fullmatch(user) for user in users) and all(
        len(words) > (2 if words[0].startswith("@") else 6) for words in entries
    )
    is_named = path.endswith("etc/crontab") or "cron.d" in path.split("/")
    return bool(entries) and could_be and (is_named or "root" in users)


def _entry(line: str, number: int, is_system: bool) -> _Entry:
    count = 1 if line.startswith("@") else 5
    words = line.removeprefix("-").split(None, count + (1 if is_system else 0))
    return _Entry(
        line=number,
        schedule=" ".join(words[:count]),
        user=words[count] if is_system else None,
        command=words[-1],
        comments=[],
    )


def _add(entry: _Entry, closing: list[str], path: str, origin: Origin, names: Names, imported: Imported) -> None:
    name = names.take(f"{stem_of(path)}-{_name_of(entry.command)}")
    workflow = writing.Block()
    workflow.set("name", name, *entry.comments)
    events, comments = _events(entry, path, origin, imported)
    workflow.set("on", events, *comments)
    job = writing.Block()
    job.set("runs-on", origin.group)
    if entry.user is not None:
        sentence = f"cron runs this as {entry.user}; the configuration of the agents must allow that user"
        job.set("user", entry.user, imported.decide(path, entry.line, sentence))
    job.set("checkout", False)
    if environment := _environment(entry):
        job.set("env", environment)
    job.set("steps", _steps(entry))
    jobs = writing.Block()
    jobs.set(slug(_name_of(entry.command)), job)
    workflow.set("jobs", jobs)
    workflow.closing += closing
    generated.add_workflow(imported, origin, name, path, workflow, [f"Imported from line {entry.line} of {path}."])


def _events(entry: _Entry, path: str, origin: Origin, imported: Imported) -> tuple[writing.Block, list[str]]:
    events = writing.Block()
    if entry.schedule.lower() == "@reboot":
        events.set("workflow_dispatch", None)
        return events, [imported.decide(path, entry.line, _REBOOT)]
    try:
        cron.check(entry.schedule)
    except cron.CronError as error:
        events.set("workflow_dispatch", None)
        sentence = f"the schedule {entry.schedule} is not valid here, so this is started by hand: {error}"
        return events, [imported.decide(path, entry.line, sentence)]
    zone = entry.variables.get("CRON_TZ") or entry.variables.get("TZ") or origin.timezone
    schedule, comments = writing.Block(), []
    schedule.set("cron", entry.schedule)
    try:
        schedule.set("timezone", cron.zone_of(zone or "UTC").key)
    except cron.CronError as error:
        schedule.set("timezone", "UTC", imported.decide(path, entry.line, str(error)))
    if zone is None:
        comments.append(imported.decide(path, 0, _LOCAL_TIME))
    schedule.set("catch-up", "none")
    items = writing.Items()
    items.add(schedule, *comments)
    events.set("schedule", items)
    events.set("workflow_dispatch", None)
    return events, []


def _environment(entry: _Entry) -> dict[str, str]:
    return {name: generated.as_literal(value) for name, value in entry.variables.items() if name not in _MEANINGS}


def _steps(entry: _Entry) -> writing.Items:
    step = writing.Block()
    # cron calls its shell without -e and without pipefail.
    step.set("shell", f"{entry.variables.get('SHELL') or 'sh'} {{0}}")
    home = entry.variables.get("HOME")
    lines = [f"cd {shlex.quote(home) if home else '~'} || exit", *_command_lines(entry.command)]
    step.set("run", generated.as_literal("\n".join(lines) + "\n"))
    items = writing.Items()
    items.add(step)
    return items


def _command_lines(command: str) -> list[str]:
    """Return the lines of a script: a `%` ends the command and begins its standard input, further ones are line ends."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", command)]
    if len(parts) == 1:
        return parts
    mark = "STDIN"
    while mark in parts[1:]:
        mark += "_"
    return ["{", parts[0], f"}} <<'{mark}'", *parts[1:], mark]


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _name_of(command: str) -> str:
    words = re.split(r"\s+|(?<=[;&|])|(?=[;&|])", command.partition("%")[0])
    for word in words:
        name = word.strip("'\"()").rstrip("/").rpartition("/")[2]
        is_option = word.startswith(("-", "$", ">", "<", "&", "|", ";", "/dev", "/tmp", "/var/lock", "/run"))
        if name and not is_option and "=" not in word and name not in _WRAPPERS and re.search(r"[A-Za-z]", name):
            return slug(name.partition(".")[0] or name, "job")
    return "job"


def _explain(entries: list[_Entry], path: str, origin: Origin, imported: Imported) -> None:
    """Add the findings about the file as a whole."""
    each = "write target: each under runs-on to run it on all of them"
    imported.change(path, 0, f"each entry runs on one server of {origin.group}; {each}")
    imported.change(path, 0, "a run that is still open when the next one is due makes that one be skipped; see overlap")
    if all(entry.user is None for entry in entries):
        imported.change(path, 0, "the commands run as the user that the agents' configuration names; see user of a job")
