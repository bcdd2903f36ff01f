"""Texts: the nodes and their parameters."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import Key, Section
from waterflowd.dsl.reference.hosted import HOSTED

_INNER = (
    "An inner step sees the named steps before it, in its own block and in those around; from outside only the outputs"
)
_INNER_OF = f"{_INNER} of this step are visible."


def _section(node: str, what: str, keys: dict[str, Key]) -> Section:
    frame = (
        f"jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - uses: {node}\n        with:\n          {{}}\n"
    )
    return Section(f"node-{node}", f"`with` of `uses: {node}`", what, frame, keys)


#: What is said about each node, by its name.
NODES: dict[str, Section] = {
    "shell": _section(
        "shell",
        "Runs a script in a process on the server; `run` of a step is short for it. The step ends when its main process ends;"
        " what that leaves behind is stopped.",
        {
            "run": Key("The script.", "run: make", place="step-secrets"),
            "shell": Key(
                "`bash`, `sh`, `python`, `pwsh`, or a command line with `{0}` for the script's file.",
                "run: print(1)\nshell: python",
                default="`bash`, else `sh`",
            ),
            "args": Key("Arguments of the script.", 'run: echo "$1"\nargs: [hello]', place="step-secrets"),
        },
    ),
    "script": _section(
        "script",
        "Runs a script that is a file, or a text, in a process on the server, as `shell` does; what it writes to"
        " `$WATERFLOW_OUTPUT` are its outputs. Either `path` or `content`.",
        {
            "path": Key(
                "The file, from the root of the job's directory, which it may not leave; it needs no mode.",
                "path: scripts/migrate.py",
                place="step-secrets",
            ),
            "content": Key(
                "The script itself.",
                "content: |\n  #!/usr/bin/env python3\n  import sys\n  print(sys.argv[1])\nargs: [hello]",
                pitfalls=("It takes no expressions; give it values by `args`, or `env` of the step.",),
            ),
            "interpreter": Key(
                "The command that gets the script's path and then `args`, such as `bash -e`.",
                "path: scripts/migrate\ninterpreter: python3 -u",
                default="that of the first line, `#!`, else `sh`",
                pitfalls=("It takes no expressions.",),
            ),
            "args": Key("Arguments of the script.", 'path: deploy.sh\nargs: ["${{ git.tag }}"]', place="step-secrets"),
        },
    ),
    "sleep": _section(
        "sleep",
        "Waits in the log. It holds no server, survives restarts of everything, and does not count in the job's"
        " `timeout-minutes`. Either `duration` or `until`.",
        {
            "duration": Key("`30s`, `2d`, or a number of seconds; 366 days at most.", "duration: 90s", place="step"),
            "until": Key(
                "An instant: `2030-01-31T08:00:00Z`, or milliseconds since 1970. One in the past ends at once.",
                "until: '2030-01-31T08:00:00Z'",
                place="step",
            ),
        },
    ),
    "log": _section(
        "log",
        "Prints a message to the step's output log.",
        {"message": Key("What is printed.", 'message: "run ${{ run.number }}"', place="step-secrets")},
    ),
    "fail": _section(
        "fail",
        "Fails the step.",
        {
            "message": Key("What is printed; also the reason.", "message: too many", place="step-secrets"),
            "exit-code": Key("What shows in `steps.<id>.exit-code`; 1 to 255.", "exit-code: 2", place="step-secrets"),
        },
    ),
    "set-outputs": _section(
        "set-outputs",
        "Sets the outputs of the step. At most 1 MiB.",
        {
            "outputs": Key(
                "Names to values of any JSON type.",
                "outputs: {targets: [web-1, web-2], count: 2}",
                place="step-secrets",
            )
        },
    ),
    "condition": _section(
        "condition",
        f"Runs steps or others. {_INNER_OF}",
        {
            "if": Key(
                "A condition, as the `if` of a step.",
                "if: git.branch == 'main'\nthen: [{run: ./deploy.sh}]",
                place="step-if",
            ),
            "then": Key("The steps for when it holds.", "if: git.tag != ''\nthen:\n  - run: ./release.sh"),
            "else": Key("The steps for when it does not.", "if: git.tag != ''\nthen: [{run: a}]\nelse: [{run: b}]"),
        },
    ),
    "loop": _section(
        "loop",
        "Runs steps for each of `items`, or as long as the condition `while` holds. `loop.index` counts from 0, `loop.number`"
        f" from 1, `loop.total` is how many there are. `outputs.results` has a result of each pass. {_INNER_OF}",
        {
            "items": Key(
                "A list, or an expression that yields one. At most 10,000 items.",
                'items: [alpha, beta]\nsteps:\n  - run: echo "${{ item }}"',
                place="step",
                takes="a list, or one expression",
                pitfalls=("It excludes `while`.",),
            ),
            "as": Key(
                "What the item is called in expressions.", 'items: [a]\nas: host\nsteps:\n  - run: echo "${{ host }}"'
            ),
            "max-parallel": Key(
                "Passes at a time.", "items: [a, b]\nmax-parallel: 2\nsteps: [{run: make}]", place="step"
            ),
            "while": Key(
                "Goes on as long as the condition holds. It is asked before each pass, and sees what steps of the passes before"
                " wrote to `$WATERFLOW_ENV`.",
                "while: env.STATE != 'ready'\nmax-iterations: 10\n"
                'steps:\n  - run: echo "STATE=$(./state.sh)" >> "$WATERFLOW_ENV"',
                place="step-if",
                pitfalls=("It needs `max-iterations`.", "It does not see the steps inside of the loop."),
            ),
            "max-iterations": Key(
                "With `while`: passes after which the step fails.",
                "while: always()\nmax-iterations: 3\nsteps: [{run: make}]",
                place="step",
            ),
            "steps": Key("The steps of a pass.", "items: [a, b]\nsteps:\n  - run: make"),
        },
    ),
    "parallel": _section(
        "parallel",
        f"Runs lists of steps at the same time, and ends when all have ended. {_INNER_OF}",
        {
            "branches": Key(
                "Up to 100 lists of steps; a branch of one step may be written without its list.",
                "branches:\n  - [{run: make a}, {run: make b}]\n  - {run: make c}",
            ),
            "max-parallel": Key(
                "Branches at a time.",
                "branches: [{run: a}, {run: b}, {run: c}]\nmax-parallel: 2",
                place="step",
                default="all",
            ),
        },
    ),
    "approval": _section(
        "approval",
        "Waits for people, and holds no server and no concurrency slot meanwhile. One who rejects is enough.",
        {
            "approvers": Key("Who may approve.", "approvers: [ann, bob]", place="step", default="whoever has the role"),
            "minimum": Key("How many must approve.", "approvers: [ann, bob]\nminimum: 2", place="step"),
            "message": Key("What they are asked.", 'message: "Release ${{ git.short-sha }}?"', place="step"),
            "timeout": Key(
                "How long to wait.", "timeout: 2d", place="step", default="without end, as far as the run has time"
            ),
            "default": Key(
                "What comes after `timeout`.",
                "timeout: 2d\ndefault: approve",
                pitfalls=("It goes with `timeout` only.",),
            ),
        },
    ),
    "workflow/run": _section(
        "workflow/run",
        "Starts another workflow of the repository as a run of its own, at the commit of this one, and waits for its end. It"
        " holds no server meanwhile, survives restarts of everything, and starts one run for each attempt. Outputs: those that"
        " the workflow declares under `on.workflow_call.outputs`, `run-id`, and `conclusion` when it was waited for. Without"
        " success of that run the step fails; when the step must end, that run is cancelled.",
        {
            "workflow": Key(
                "A path from the root of the repository, or the name of a file beside the workflow that runs.",
                "workflow: other.yml",
                place="step",
                pitfalls=(
                    "Eight runs may start one another in a row; the next one is refused.",
                    "A file that was sent without a repository has no other workflow to start.",
                ),
            ),
            "inputs": Key(
                "The inputs of the run: those of `on.workflow_dispatch`, or of `on.workflow_call` in a file that is only"
                " called.",
                "workflow: other.yml\ninputs: {version: '1.2'}",
                place="step",
            ),
            "wait": Key(
                "`false`: the step ends as soon as the run exists, with its `run-id`.",
                "workflow: other.yml\nwait: false",
                place="step",
            ),
        },
    ),
    **HOSTED,
}
