"""What several modules of the records use: their base, the documentation of a parameter, and common types."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec


class RunsIn(Enum):
    """Who runs a node."""

    #: A process under the runner.
    PROCESS = "process"
    #: A separate process under the runner, which loads the node's class.
    HOST = "host"
    #: The agent itself; only for nodes that end at once.
    AGENT = "agent"
    #: The engine: an entry in the log.
    ENGINE = "engine"


class Parameters(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of the parameter records: keys with hyphens, unknown ones refused."""


#: Text that means a boolean, in files from GitHub: inputs of actions are text there.
BooleanText = Literal["true", "false", ""]
BOOLEAN_TEXTS = ("true", "false", "")


def about(
    description: str,
    example: str,
    *,
    without: str = "",
    pitfalls: tuple[str, ...] = (),
    takes_expressions: bool = True,
) -> msgspec.Meta:
    """The documentation of a parameter.

    `example` are some lines of `with`, this parameter among them; required ones may be left out. `without` says what
    applies without the parameter, where no default says it.
    """
    extra: dict[str, Any] = {"x-without": without, "x-pitfalls": list(pitfalls), "x-static": not takes_expressions}
    return msgspec.Meta(
        description=description,
        examples=[example],
        extra_json_schema={name: value for name, value in extra.items() if value},
    )


NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Duration = str | int | float
#: An HTTP status, a class of them such as `2xx`, or several.
Statuses = int | str | list[int | str]
DURATION = "a duration such as `30s`, or a number of seconds"
VERIFY = about(
    "Whether the server's certificate is verified. A text is the file of a CA certificate to verify it with.",
    "verify: /etc/ssl/own-ca.pem",
)
