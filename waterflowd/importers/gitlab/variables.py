"""GitLab's variables: which expressions have their values here, and how text that contains them is written."""

from __future__ import annotations

import re
from collections.abc import Mapping

from waterflowd.importers import writing
from waterflowd.importers.generated import as_literal
from waterflowd.model.plan import Json

#: Predefined variables and the expression with the same value. The slug of GitLab also replaces characters that names of
#: branches rarely have, and ends after 63.
PREDEFINED = {
    "CI_COMMIT_SHA": "git.sha",
    "CI_COMMIT_SHORT_SHA": "git.short-sha",
    "CI_COMMIT_REF_NAME": "github.ref_name",
    "CI_COMMIT_REF_SLUG": "replace(replace(replace(lower(github.ref_name), '/', '-'), '.', '-'), '_', '-')",
    "CI_COMMIT_BRANCH": "git.branch",
    "CI_COMMIT_TAG": "git.tag",
    "CI_COMMIT_MESSAGE": "git.message",
    "CI_COMMIT_AUTHOR": "git.author",
    "CI_PROJECT_PATH": "github.repository",
    "CI_PROJECT_NAME": "replace(github.repository, format('{0}/', github.repository_owner), '')",
    "CI_PROJECT_NAMESPACE": "github.repository_owner",
    "CI_PROJECT_DIR": "github.workspace",
    "CI_PIPELINE_ID": "run.id",
    "CI_PIPELINE_IID": "run.number",
    "CI_PIPELINE_URL": "run.url",
    "CI_PIPELINE_SOURCE": "github.event_name",
    "CI_JOB_ID": "run.id",
    "GITLAB_USER_LOGIN": "github.actor",
    "GITLAB_USER_NAME": "github.actor",
}
_NAME = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_IN_SCRIPT = re.compile(r"\$\{?(CI_[A-Z0-9_]+|GITLAB_[A-Z0-9_]+)\b")
_ANY_IN_SCRIPT = re.compile(r"(?<![\\$])\$\{?([A-Z][A-Z0-9_]{2,})\b")
_ASSIGNED = re.compile(
    r"(?m)(?:^|[;&|\s])(?:export\s+|readonly\s+|local\s+|for\s+|read\s+(?:-\w+\s+)*)?([A-Z][A-Z0-9_]*)(?==|\s+in\s|\s*$|;)"
)
#: Levels of variables in variables.
_DEPTH_MAX = 10
#: Variables that every shell has.
_SHELL = frozenset(
    (
        "HOME",
        "PATH",
        "USER",
        "PWD",
        "SHELL",
        "HOSTNAME",
        "RANDOM",
        "UID",
        "IFS",
        "OLDPWD",
        "LANG",
        "TERM",
        "TMPDIR",
        "BASH_SOURCE",
    )
)


class Expression(str):
    """The value of a variable that is known in the run only, as `${{ ... }}`."""


def _is_asked(value: Json) -> bool:
    """Whether a person who starts a pipeline is asked for the value of a variable."""
    return isinstance(value, dict) and bool(value.keys() & {"description", "options"})


def inputs(variables: Mapping[str, Json]) -> writing.Block:
    """Return the variables that a person is asked for, as inputs of the workflow."""
    block = writing.Block()
    for name, value in variables.items():
        if isinstance(value, dict) and _is_asked(value):
            options = value.get("options")
            item = writing.Block()
            if "description" in value:
                item.set("description", as_literal(str(value["description"])))
            if isinstance(options, list):
                item.set("type", "choice")
                item.set("options", [as_literal(str(each)) for each in options])
            item.set("default", as_literal(plain_values({name: {"value": value.get("value")}})[name]))
            block.set(name, item)
    return block


def plain_values(variables: Mapping[str, Json]) -> dict[str, str]:
    """Return variables as texts; GitLab also writes them as mappings with a value."""
    values: dict[str, str] = {}
    for name, value in variables.items():
        if _is_asked(value):
            values[name] = Expression(f"${{{{ inputs.{name} }}}}")
            continue
        written = value.get("value", "") if isinstance(value, dict) else value
        values[name] = (
            ("true" if written else "false") if isinstance(written, bool) else str("" if written is None else written)
        )
    return values


def expanded(text: str, variables: Mapping[str, str], unknown: set[str] | None = None, depth: int = 0) -> str:
    """Return text with `$NAME` replaced: by the value, by an expression, or kept and added to `unknown`."""
    if isinstance(text, Expression):
        return text
    position, parts = 0, []
    for found in _NAME.finditer(text):
        parts.append(as_literal(text[position : found.start()]))
        position = found.end()
        name = found[1] or found[2]
        if name is None:
            parts.append("$")
        elif name in PREDEFINED:
            parts.append(f"${{{{ {PREDEFINED[name]} }}}}")
        elif name in variables and depth < _DEPTH_MAX:
            others = {key: value for key, value in variables.items() if key != name}
            parts.append(expanded(variables[name], others, unknown, depth + 1))
        else:
            parts.append(found[0])
            if unknown is not None:
                unknown.add(name)
    return "".join([*parts, as_literal(text[position:])])


def predefined_in(script: str) -> list[str]:
    """Return the predefined variables that a script reads."""
    return sorted(set(_IN_SCRIPT.findall(script)))


def undefined_in(script: str, known: set[str]) -> set[str]:
    """Return variables in capital letters that a script reads but that nothing in the file defines."""
    read = set(_ANY_IN_SCRIPT.findall(script)) - known - _SHELL - set(_ASSIGNED.findall(script))
    return {name for name in read if not name.startswith(("CI_", "GITLAB_", "WATERFLOW_", "BASH_"))}
