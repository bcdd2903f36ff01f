"""docs/environment-variables.md: the variable of every key, generated from the configuration classes, like the sample files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from builder import samples
from waterflow_agent import environment_variables
from waterflow_agent.environment_variables import NUMBER, Variable

_HEAD = """# Environment variables

<!-- Made by `make reference` from the configuration classes; changes here are lost. -->

Every key of the [configuration](configuration.md) has a variable. The rule: a variable is the prefix and the path of the key
in the file, in upper case, with `_` for dots and hyphens; the tables of a list are numbered from 0. A list is separated by
commas, a table is `key=value` pairs separated by commas, and either may also be written as in the file (TOML), or as JSON.
These three are the same:

```sh skip="the daemon reads them when it starts"
export WATERFLOWD_REPOSITORIES_0_NAME=ops WATERFLOWD_REPOSITORIES_0_URL=/srv/ops.git
export WATERFLOWD_REPOSITORIES_0_REFS='main,tags/v*'
export WATERFLOWD_REPOSITORIES='[{name = "ops", url = "/srv/ops.git", refs = ["main", "tags/v*"]}]'
export WATERFLOWD_REPOSITORIES='[{"name": "ops", "url": "/srv/ops.git", "refs": ["main", "tags/v*"]}]'
```

- The environment overrides the file, and the command line overrides both. A list of tables replaces the one in the file.
- Set either the list or its numbered tables. Numbers without a gap begin at 0.
- An unknown variable with the prefix is an error with a suggestion, like an unknown key in the file, and so is an invalid
  value (WF620). Variables that Kubernetes adds for a service called `waterflowd` or `waterflow-agent` are ignored.
- Booleans are `true`, `false`, `1` or `0`.
"""
_DAEMON = """## The daemon

In addition: `WATERFLOWD_CONFIG` names the file; `WATERFLOWD_GIT_TOKEN_<NAME>`, `WATERFLOWD_VAULT_TOKEN` and
`WATERFLOWD_VAULT_SECRET_ID` are [credentials](secrets.md), which no file contains.
"""
_AGENT = """## The agent

In addition: `WATERFLOW_AGENT_CONFIG` names the file, and `WATERFLOW_JOIN_TOKEN` is the join token itself.
`WATERFLOW_AGENT_NODE_PATH` is separated by colons, like `PATH`.

Short names: `SERVER_GROUP` for `WATERFLOW_AGENT_GROUPS`, and `DOCKER_HOST` for `WATERFLOW_AGENT_DOCKER_HOST`. In the
[container image](containers.md), `WATERFLOW_SERVER` for `WATERFLOW_AGENT_SERVER`: a host name is enough there,
the port is then 7233. Elsewhere `WATERFLOW_SERVER` is the address of the API for `waterflowctl`, so an agent reads it only
with `WATERFLOW_AGENT_SHORT_NAMES=true`.
"""
#: How a value is written, by its type.
_FORMS: dict[Any, str] = {str: "text", int: "number", bool: "`true` or `false`"}


def render(daemon: type[msgspec.Struct], agent: type[msgspec.Struct]) -> str:
    """Returns the page."""
    parts = [_HEAD]
    for about, record, prefix in ((_DAEMON, daemon, "WATERFLOWD_"), (_AGENT, agent, "WATERFLOW_AGENT_")):
        parts.append(about)
        parts.append("\n".join(_table(record, prefix)) + "\n")
    return "\n".join(parts)


def _table(record: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    yield "| variable | value | default | meaning |"
    yield "|---|---|---|---|"
    for variable in environment_variables.variables(record, prefix):
        meaning = samples.comment(record, variable.path).replace("|", "\\|")
        yield f"| `{variable.name}` | {_form(variable)} | {_default(variable)} | {meaning} |"


def _form(variable: Variable) -> str:
    if get_origin(variable.kind) in (tuple, list):
        if get_args(variable.kind)[0] is str:
            return "list"
        return f"TOML or JSON, instead of `{variable.name}_{NUMBER}_...`"
    return "table" if get_origin(variable.kind) is dict else _FORMS[variable.kind]


def _default(variable: Variable) -> str:
    if variable.default is None:
        return "required"
    if isinstance(variable.default, tuple | list):
        return f"`{','.join(variable.default)}`" if variable.default else ""
    text = variable.default if isinstance(variable.default, str) else samples.toml(variable.default)
    return f"`{text}`" if text not in ("", "{}") else ""
