"""Texts: contexts and functions of expressions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """What is said about a context."""

    what: str
    #: Fields and what they hold; empty where data decides.
    fields: dict[str, str]
    #: An expression over it.
    example: str
    where: str


@dataclass(frozen=True)
class Function:
    """What is said about a function."""

    call: str
    what: str
    #: Expressions whose values the page shows.
    examples: tuple[str, ...]


_JOB = {
    "result": "`success`, `failure`, `cancelled` or `skipped`; `failure` also stands for `timed-out` and `lost`",
    "conclusion": "how it ended, in full",
    "outputs": "the outputs of the job; null for a job that is many instances",
    "servers": "of a job with `target: each`: `result`, `conclusion` and `outputs` by the server's name",
    "instances": "of a job with instances: `result`, `conclusion` and `outputs` of each",
}
_AGENT = {
    "id": "the agent's fingerprint",
    "name": "its name",
    "hostname": "the server's name",
    "os": "its operating system",
    "arch": "its processor",
    "group": "the group that the job asked for",
    "labels": "the labels of the agent",
}

CONTEXTS: dict[str, Context] = {
    "inputs": Context(
        "The inputs of the start, of the call, or of the composite step.", {}, "inputs.version", "everywhere"
    ),
    "vars": Context(
        "The variables: those of the file, and what a start or a schedule lays over them.",
        {},
        "vars.image",
        "everywhere but in composite steps; a variable sees those above it",
    ),
    "git": Context(
        "The commit that the run is about. Its texts are empty for a file that was sent.",
        {
            "sha": "the commit",
            "short-sha": "its first characters",
            "ref": "the ref, such as `refs/heads/main`",
            "branch": "the branch; empty for a tag",
            "tag": "the tag; empty for a branch",
            "message": "the commit's message",
            "author": "who wrote it",
            "repository": "the repository's name",
        },
        "git.branch == 'main'",
        "everywhere",
    ),
    "event": Context(
        "What started the run: `name`, and what came with it, such as `changed` of a push or the content of a webhook.",
        {},
        "event.name",
        "everywhere",
    ),
    "run": Context(
        "The run.",
        {
            "id": "its id",
            "number": "the number of runs of this workflow up to it",
            "attempt": "1, and one more for each time it was run again",
            "workflow": "the workflow's name",
            "url": "its address",
        },
        "run.number",
        "everywhere but in `vars`",
    ),
    "needs": Context(
        "The jobs in `needs`, by their ids.", _JOB, "needs.build.outputs.version", "jobs that need others"
    ),
    "jobs": Context(
        "All jobs, by their ids.", _JOB, "jobs.build.outputs.version", "the outputs of `workflow_call` alone"
    ),
    "matrix": Context(
        "The values of this instance, by the names of the matrix.",
        {},
        "matrix.version",
        "jobs with `strategy.matrix`, but not their `if`",
    ),
    "strategy": Context(
        "This instance among the others.",
        {
            "job-index": "its number, from 0",
            "job-total": "how many there are",
            "fail-fast": "as `strategy` says",
            "max-parallel": "as `strategy` says",
        },
        "strategy.job-index + 1",
        "jobs with instances, but not their `if`",
    ),
    "env": Context("The environment so far.", {}, "env.REGION", "steps, and `env` of a job"),
    "steps": Context(
        "The earlier steps with an `id`, by it.",
        {
            "outputs": "what it wrote to `$WATERFLOW_OUTPUT`, or the outputs of its node",
            "outcome": "how it really ended",
            "conclusion": "the same, after `continue-on-error`",
            "exit-code": "of its process",
            "attempt": "how many attempts it took",
        },
        "steps.find.outputs.version",
        "steps, and `outputs` of a job",
    ),
    "job": Context(
        "The job that the step is in.",
        {"id": "its id", "status": "how it stands: `success`, `failure`, `cancelled`"},
        "job.status",
        "steps",
    ),
    "agent": Context("The server that the job runs on.", _AGENT, "agent.hostname", "steps"),
    "runner": Context("Another name of `agent`.", _AGENT, "runner.os", "steps"),
    "loop": Context(
        "The pass of the loop around. The item itself is called `item`, or as `as` says.",
        {"index": "from 0", "number": "from 1", "total": "how many there are; null with `while`"},
        "loop.number",
        "the steps of a loop",
    ),
    "secrets": Context(
        "References to secrets. They are never evaluated and never written down, but filled in on the way to the server. So"
        " one stands alone, in text, or in `format(...)`, and nothing can be computed with it.",
        {},
        "secrets.TOKEN",
        "`env`, `run`, and `with` of nodes that run on a server",
    ),
}

FUNCTIONS: dict[str, Function] = {
    "contains": Function(
        "contains(a, b)",
        "Whether the text `a` holds the text `b`, or the array `a` the item `b`; without case.",
        ("contains('Waterflow', 'FLOW')", "contains(fromJSON('[1, 2]'), 2)"),
    ),
    "startsWith": Function(
        "startsWith(a, b)", "Whether `a` begins with `b`; without case.", ("startsWith('refs/heads/main', 'refs/')",)
    ),
    "endsWith": Function("endsWith(a, b)", "Whether `a` ends with `b`; without case.", ("endsWith('a.yml', '.YML')",)),
    "format": Function(
        "format(text, ...)",
        "The text with `{0}`, `{1}` and so on replaced; `{{` and `}}` are braces.",
        ("format('{0}:{1}', 'app', 2)",),
    ),
    "join": Function(
        "join(array, separator)",
        "The items as one text; the separator is `,` unless it is given.",
        ("join(fromJSON('[1, 2, 3]'), ' ')",),
    ),
    "toJSON": Function("toJSON(x)", "The value as JSON text.", ("toJSON('a \"b\"')",)),
    "fromJSON": Function("fromJSON(text)", "The value that a JSON text is.", ("fromJSON('{\"a\": [1]}').a[0]",)),
    "hashFiles": Function("hashFiles(pattern, ...)", "A digest of the files that match the patterns.", ()),
    "success": Function("success()", "In `if` only: nothing before has failed or was cancelled.", ()),
    "failure": Function("failure()", "In `if` only: something before ended `failure`, `timed-out` or `lost`.", ()),
    "cancelled": Function("cancelled()", "In `if` only: somebody asked for the end of the run.", ()),
    "always": Function("always()", "In `if` only: true, whatever happened before.", ()),
    "len": Function(
        "len(x)", "Characters of a text, items of an array or object; 0 for null.", ("len('four')", "len(null)")
    ),
    "upper": Function("upper(x)", "The text in capital letters.", ("upper('abc')",)),
    "lower": Function("lower(x)", "The text in small letters.", ("lower('ABC')",)),
    "trim": Function("trim(x)", "The text without white space around it.", ("trim('  a ')",)),
    "split": Function(
        "split(text, separator)",
        "The pieces as an array; empty text gives an empty one. The separator is `,` unless it is given.",
        ("split('a,b')", "split('a b', ' ')"),
    ),
    "replace": Function(
        "replace(text, old, new)", "Every `old` replaced by `new`; with case.", ("replace('a/b', '/', '-')",)
    ),
    "default": Function(
        "default(x, ...)",
        "The first that is neither null nor empty text, else the last; it keeps `false` and `0`.",
        ("default('', 'x')", "default(false, true)"),
    ),
    "range": Function(
        "range(stop), range(start, stop), range(start, stop, step)",
        "Whole numbers without `stop`, at most 10,000.",
        ("range(3)", "range(10, 0, -5)"),
    ),
    "now": Function("now()", "Milliseconds since 1970, as recorded in the log.", ()),
    "case": Function(
        "case(condition, value, ..., otherwise)",
        "The value behind the first condition that is true. Conditions are `true` or `false`, nothing else; only the value"
        " that is chosen is computed.",
        ("case(1 > 2, 'a', 2 > 1, 'b', 'c')",),
    ),
}
