"""Nodes that run a script."""

from __future__ import annotations

from typing import Annotated

from waterflow_agent.nodes.schema.records import NonEmpty, Parameters, about

#: The shells that have a name; any other is a command line with `{0}` in place of the script's file.
SHELLS = ("bash", "sh", "python", "pwsh")


class Shell(Parameters, frozen=True, kw_only=True):
    """Runs a script in a process on the server.

    `run` of a step is short for this node. The step ends when the script's main process ends; processes that it leaves
    behind run until the job ends.
    """

    run: Annotated[NonEmpty, about("The script.", "run: make")]
    shell: Annotated[
        str | None,
        about(
            "`bash`, `sh`, `python`, `pwsh`, or a command line with `{0}` in place of the script's file.",
            "run: print(1)\nshell: python",
            without="`bash`, or `sh` where there is no bash",
            takes_expressions=False,
        ),
    ] = None
    args: Annotated[list[str], about("The arguments of the script.", 'run: echo "$1"\nargs: [hello]')] = []


class Script(Parameters, frozen=True, kw_only=True):
    """Runs a script that is a file of the job's directory (`path`) or a text (`content`).

    Exactly one of `path` and `content` is required. The script runs in a process on the server, as with `shell`; what it
    writes to `$WATERFLOW_OUTPUT` becomes the step's outputs.
    """

    path: Annotated[
        NonEmpty | None,
        about(
            "The file, relative to the job's directory, which it must not leave. It needs no execute permission.",
            "path: scripts/migrate.py",
        ),
    ] = None
    content: Annotated[
        NonEmpty | None,
        about(
            "The script itself.",
            "content: |\n  #!/usr/bin/env python3\n  import sys\n  print(sys.argv[1])\nargs: [hello]",
            pitfalls=("It takes no expressions; pass values with `args`, or with `env` of the step.",),
            takes_expressions=False,
        ),
    ] = None
    interpreter: Annotated[
        NonEmpty | None,
        about(
            "The command to run the script with, such as `bash -e`. It gets the script's path, then `args`.",
            "path: scripts/migrate\ninterpreter: python3 -u",
            without="the command in the script's first line (`#!`), or `sh`",
            pitfalls=("It takes no expressions.",),
            takes_expressions=False,
        ),
    ] = None
    args: Annotated[list[str], about("The arguments of the script.", 'path: deploy.sh\nargs: ["${{ git.tag }}"]')] = []
