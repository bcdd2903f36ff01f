"""The codes of the language, each with what it means. Codes are stable: one is never used for something else.

Expressions have codes of their own (`waterflowd.expr.errors.CODES`, WF120 to WF129); `CODES` holds all of them. WF137 to
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

#: Every code of the language and what it means.
CODES: dict[str, str] = {
    ENCODING: "the file is not UTF-8 text",
    SYNTAX: "the file is not YAML",
    BOUND: "the file is larger than the language allows",
    UNKNOWN_KEY: "a key that the language does not know",
    UNKNOWN_JOB: "`needs` names a job that does not exist",
    MISSING_KEY: "a required key is missing",
    WRONG_VALUE: "a value is not what its key takes",
    DUPLICATE_KEY: "a key stands twice in one mapping",
    CYCLE: "jobs need one another in a circle",
    WRONG_ID: "the id of a job or step is malformed or taken",
    WRONG_INPUT: "an input is declared or given wrongly",
    RENDERED_VALUE: "an expression gave a value that its key does not take",
    LARGE_OUTPUTS: "a job's outputs are larger than 1 MiB",
    GITHUB_ONLY: "GitHub has this, Waterflow does not",
    UNKNOWN_NODE: "`uses` names a node that does not exist",
    WRONG_PARAMETER: "`with` does not fit the node",
    EXCLUSIVE_KEYS: "keys that exclude or need one another",
    UNKNOWN_TRIGGER: "`on` names an event that does not exist",
    UNSUPPORTED_YAML: "a part of YAML that workflow files do not use",
    MORE_ERRORS: "there are more errors than are shown",
    **expression_errors.CODES,
    COMPILER_STOPPED: "the compiler ended or took too long over the file",
    TAB: "a tab in the indentation",
    OUTSIDE_PATH: "a path that leaves the job's working directory",
    LOST_NEWLINES: "the file's newlines were lost on the way",
    WRONG_CALL: "another file that `uses` names cannot be used",
    WRONG_SECRET: "a secret is used or given where it cannot be",
    NEVER_RUNS: "a job or step that can never run (warning)",
    ALWAYS_NULL: "an expression that is always null (warning)",
    NO_EFFECT: "a value that has no effect (warning)",
    UNSAFE_RETRY: "a retry of a step that is not safe to repeat (warning)",
    UNSEEN_NODE: "a node that only the servers can have (warning)",
}
