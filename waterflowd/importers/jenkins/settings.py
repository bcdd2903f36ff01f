"""`agent`, `environment`, `parameters`, `triggers` and `options` of a pipeline or a stage."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

from waterflowd.dsl import cron
from waterflowd.importers import writing
from waterflowd.importers.generated import written_minutes
from waterflowd.importers.jenkins.groovy import Statement
from waterflowd.importers.jenkins.values import (
    NotLiteral,
    arguments_of,
    list_of,
    minutes_of,
    secret_name,
    text_of,
    whole_number_of,
)

Decide = Callable[[int, str], str]
#: Options that are how things are here, or that concern Jenkins alone.
_WITHOUT_EFFECT = frozenset(
    (
        *(
            "timestamps",
            "ansiColor",
            "skipDefaultCheckout",
            "buildDiscarder",
            "skipStagesAfterUnstable",
            "preserveStashes",
        ),
        *("newContainerPerStage", "parallelsAlwaysFailFast", "checkoutToSubdirectory", "durabilityHint", "quietPeriod"),
    )
)


def agent(block: writing.Block, statement: Statement | None, group: str, decide: Decide, change: Decide) -> None:
    """Add `runs-on`, and the container, to a job."""
    block.set("runs-on", group)
    if statement is None or statement.arguments in ("any", "none"):
        return
    container = _docker(statement)
    labels = [each.arguments for each in statement.block or [] if each.name == "label"]
    if labels:
        change(statement.line, f"agent label {', '.join(labels)}: now the group {group}")
    if container is not None:
        block.set("container", {"image": container})
    left = [each.text for each in statement.block or [] if each.name not in ("label", "docker")]
    docker = statement.find("docker")
    left += [each.text for each in (docker.block or [] if docker else []) if each.name not in ("image", "label")]
    if left:
        block.closing += [decide(statement.line, "these settings of agent have no counterpart"), *left]


def _docker(statement: Statement) -> str | None:
    docker = statement.find("docker")
    if docker is None:
        return None
    image = docker.find("image")
    try:
        return text_of(image.arguments if image is not None else docker.arguments)
    except NotLiteral:
        return None


def environment(
    statement: Statement | None, decide: Decide, change: Decide, others: writing.Block | None = None
) -> writing.Block:
    """Return the variables of an `environment` block, for the whole pipeline together with `others`, which it may use."""
    env = writing.Block() if others is None else others
    for each in statement.block or [] if statement is not None else []:
        value = each.arguments.removeprefix("=").strip()
        credentials = re.fullmatch(r"credentials\(\s*(['\"])(.*?)\1\s*\)", value)
        if credentials:
            secret = secret_name(credentials[2])
            change(each.line, f"credentials {credentials[2]}: the secret {secret}: store it")
            env.set(each.name, f"${{{{ secrets.{secret} }}}}", *each.comments)
            continue
        try:
            text = text_of(value)
            # A variable does not see the others of its block here, so their values are written out.
            for other in env.entries:
                text = text.replace(f"${{{{ env.{other.key} }}}}", str(other.value))
            unknown = re.search(r"\$\{\{ env\.(\w+) \}\}", text)
            if unknown and others is not None:
                raise NotLiteral(unknown[1])
            env.set(each.name, text, *each.comments)
        except NotLiteral:
            env.closing += [
                *each.comments,
                decide(each.line, f"{each.name} is computed by a program: set it here"),
                each.text,
            ]
    return env


def parameters(statement: Statement | None, decide: Decide) -> writing.Block:
    """Return the inputs for a `parameters` block."""
    inputs = writing.Block()
    for each in statement.block or [] if statement is not None else []:
        positional, named = arguments_of(each.arguments)
        try:
            _parameter(inputs, each, positional, named, decide)
        except NotLiteral as error:
            inputs.closing += [decide(each.line, f"this parameter uses {error}, which a program computes"), each.text]
    return inputs


def _parameter(
    inputs: writing.Block, statement: Statement, positional: list[str], named: dict[str, str], decide: Decide
) -> None:
    name = text_of(named.get("name") or (positional[0] if positional else "''"))
    block = writing.Block()
    if named.get("description"):
        block.set("description", text_of(named["description"]))
    match statement.name:
        case "string" | "text":
            pass
        case "booleanParam":
            block.set("type", "boolean")
        case "choice":
            block.set("type", "choice")
            choices = list_of(named.get("choices", "[]"))
            block.set("options", [line for each in choices for line in text_of(each).split("\n") if line])
        case _:
            comment = decide(statement.line, f"{statement.name} is not a kind of input; for a password use a secret")
            inputs.closing += [comment, statement.text]
            return
    if "defaultValue" in named:
        value = text_of(named["defaultValue"])
        block.set("default", value == "true" if statement.name == "booleanParam" else value)
    inputs.set(name, block, *statement.comments)


def triggers(
    statement: Statement | None, events: writing.Block, name: str, zone: str | None, decide: Decide
) -> list[str]:
    """Add the events of a `triggers` block; return comments."""
    comments: list[str] = []
    schedules = writing.Items()
    for each in statement.block or [] if statement is not None else []:
        comments += each.comments
        if each.name == "cron":
            comments += _cron(each, schedules, name, zone, decide)
        elif each.name == "pollSCM":
            comments.append(
                decide(each.line, "pollSCM is not necessary: a push starts the workflow") + f" ({each.arguments})"
            )
        else:
            comments += [
                decide(each.line, f"the trigger {each.name} has no counterpart; see workflow_run and webhook"),
                each.text,
            ]
    if schedules.items:
        events.set("schedule", schedules)
    return comments


def _cron(statement: Statement, schedules: writing.Items, name: str, zone: str | None, decide: Decide) -> list[str]:
    comments: list[str] = []
    try:
        text = text_of(statement.arguments)
    except NotLiteral:
        return [decide(statement.line, "this schedule is computed by a program"), statement.text]
    for line in text.strip().splitlines():
        line = line.strip()
        if line.startswith("TZ="):
            zone = line[3:]
            continue
        if not line or line.startswith("#"):
            continue
        try:
            expression = cron.check(_without_hash(line, name))
        except cron.CronError as error:
            comments.append(decide(statement.line, f"the schedule {line} is not valid here: {error}"))
            continue
        if expression != line:
            comments.append(
                decide(statement.line, f"the schedule {line}: Jenkins chooses the time for H; now {expression}")
            )
        if zone is None:
            comments.append(
                decide(statement.line, "Jenkins uses the time zone of its server; name it here, or keep UTC")
            )
        schedules.add({"cron": expression, "timezone": zone or "UTC"})
    return comments


def _without_hash(line: str, name: str) -> str:
    """Return a schedule with numbers in place of `H`, the same ones for the same pipeline."""
    chosen = zlib.crc32(name.encode())
    ranges = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
    words = {
        "@hourly": "H * * * *",
        "@daily": "H H * * *",
        "@midnight": "H H(0-2) * * *",
        "@weekly": "H H * * H",
        "@monthly": "H H H * *",
    }
    fields = words.get(line, line).split()
    for position, (low, high) in enumerate(ranges[: len(fields)]):
        field = fields[position]
        if found := re.fullmatch(r"H\((\d+)-(\d+)\)(/\d+)?", field):
            low, high = int(found[1]), max(int(found[1]), int(found[2]))
            fields[position] = f"{low}-{high}{found[3]}" if found[3] else str(low + chosen % (high - low + 1))
        elif found := re.fullmatch(r"H(/\d+)?", field):
            fields[position] = f"*{found[1]}" if found[1] else str(low + chosen % (high - low + 1))
    return " ".join(fields)


def options(statement: Statement | None, workflow: writing.Block, decide: Decide, change: Decide) -> int | None:
    """Add the bounds of an `options` block to the workflow; return how often a job is tried, None if it does not say."""
    attempts = None
    for each in statement.block or [] if statement is not None else []:
        positional, named = arguments_of(each.arguments)
        first = positional[0] if positional else ""
        try:
            if each.name == "timeout":
                minutes = minutes_of(named.get("time", first), named.get("unit"), "MINUTES")
                workflow.set("timeout-minutes", written_minutes(minutes), *each.comments)
            elif each.name == "retry":
                attempts = whole_number_of(first)
                workflow.closing += each.comments
            elif each.name in _WITHOUT_EFFECT:
                change(each.line, f"the option {each.text} is left out")
            elif each.name != "disableConcurrentBuilds":
                workflow.closing += [decide(each.line, f"the option {each.name} has no counterpart"), each.text]
        except NotLiteral:
            workflow.closing += [decide(each.line, f"the option {each.name} is computed by a program"), each.text]
    return attempts
