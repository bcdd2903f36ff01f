"""The codes of the language and their meanings. Codes are stable and never reused.

Expressions have separate codes (`waterflowd.expr.errors.CODES`, WF120 to WF129); `CODES` holds all of them. WF137 to
WF140 and WF145 are warnings.
"""

from __future__ import annotations

from waterflowd.expr import errors as expression_errors

ENCODING = "WF100"
SYNTAX = "WF101"
BOUND = "WF102"
UNKNOWN_KEY = "WF103"
UNKNOWN_JOB = "WF104"
MISSING_KEY = "WF105"
WRONG_VALUE = "WF106"
DUPLICATE_KEY = "WF107"
CYCLE = "WF108"
WRONG_ID = "WF109"
WRONG_INPUT = "WF110"
RENDERED_VALUE = "WF111"
LARGE_OUTPUTS = "WF112"
GITHUB_ONLY = "WF113"
UNKNOWN_NODE = "WF114"
WRONG_PARAMETER = "WF115"
EXCLUSIVE_KEYS = "WF116"
UNKNOWN_TRIGGER = "WF117"
UNSUPPORTED_YAML = "WF118"
MORE_ERRORS = "WF119"
COMPILER_STOPPED = "WF130"
TAB = "WF131"
OUTSIDE_PATH = "WF132"
LOST_NEWLINES = "WF133"
WRONG_CALL = "WF135"
WRONG_SECRET = "WF136"
NEVER_RUNS = "WF137"
ALWAYS_NULL = "WF138"
NO_EFFECT = "WF139"
UNSAFE_RETRY = "WF140"
UNSEEN_NODE = "WF145"
SERVER_ONLY = "WF146"

#: Every code of the language and its meaning.
CODES: dict[str, str] = {
    ENCODING: "the file is not UTF-8 text",
    SYNTAX: "the file is not valid YAML",
    BOUND: "a limit of the language is exceeded",
    UNKNOWN_KEY: "unknown key",
    UNKNOWN_JOB: "`needs` names a job that does not exist",
    MISSING_KEY: "a required key is missing",
    WRONG_VALUE: "a value is not valid for its key",
    DUPLICATE_KEY: "duplicate key in a mapping",
    CYCLE: "dependency cycle between jobs",
    WRONG_ID: "the id of a job or step is malformed or already used",
    WRONG_INPUT: "an input is declared incorrectly, or its value does not fit",
    RENDERED_VALUE: "an expression yielded a value that is not valid for its key",
    LARGE_OUTPUTS: "a job's outputs are larger than 1 MiB",
    GITHUB_ONLY: "a feature of GitHub Actions that Waterflow does not have",
    UNKNOWN_NODE: "`uses` names a node that does not exist",
    WRONG_PARAMETER: "a parameter under `with` is not valid for the node",
    EXCLUSIVE_KEYS: "keys that cannot be combined, or that need another key",
    UNKNOWN_TRIGGER: "`on` names an unknown event",
    UNSUPPORTED_YAML: "a YAML feature that workflow files do not support",
    MORE_ERRORS: "more errors than are shown",
    **expression_errors.CODES,
    COMPILER_STOPPED: "the compiler crashed or timed out",
    TAB: "a tab in the indentation",
    OUTSIDE_PATH: "a path outside the job's directory",
    LOST_NEWLINES: "the file's newlines were lost in transfer",
    WRONG_CALL: "a file that `uses` refers to cannot be used",
    WRONG_SECRET: "a secret is used or passed where it is not allowed",
    NEVER_RUNS: "a job or step that can never run (warning)",
    ALWAYS_NULL: "an expression that is always null (warning)",
    NO_EFFECT: "a value that has no effect (warning)",
    UNSAFE_RETRY: "a retry of a step that is not safe to repeat (warning)",
    UNSEEN_NODE: "a node that must be installed on the servers (warning)",
    SERVER_ONLY: "a value that only the server knows is used where it is not allowed",
}
