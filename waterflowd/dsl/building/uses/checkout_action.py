"""`uses: actions/checkout`: the job's directory has the repository's files already, so the step only reports the commit.

Rules of this file: a `with` key is accepted where its value means the files that the job has. Any other value is an error with
one sentence, because the scripts after it would find other files than on GitHub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from waterflow_agent.display import quote
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import Json
from waterflowd.model.wording import did_you_mean

#: The node that reports the commit, and its parameters: the outputs of the action.
NODE = "set-outputs"
PARAMETERS: dict[str, Json] = {"outputs": {"ref": "${{ github.ref }}", "commit": "${{ github.sha }}"}}

_ACTION = re.compile(r"actions/checkout@[A-Za-z0-9._/-]+")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")

#: Keys that concern how GitHub's action fetches, and which change nothing in the directory.
_WITHOUT_EFFECT = frozenset(
    (
        *(
            "token",
            "ssh-key",
            "ssh-known-hosts",
            "ssh-strict",
            "ssh-user",
            "persist-credentials",
            "clean",
            "show-progress",
        ),
        *("set-safe-directory", "allow-unsafe-pr-checkout", "filter", "fetch-tags"),
    )
)
_OWN_REFS = frozenset(
    ("", "github.sha", "github.ref", "github.ref_name", "github.head_ref", "git.sha", "git.ref", "git.branch")
)
_OWN_REPOSITORIES = frozenset(("", "github.repository", "git.full-name"))


def _is_false(value: str) -> bool:
    return value.lower() in ("", "false")


#: Keys that choose files: which values mean what the job has, and what the job lacks otherwise.
_CHOICES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "fetch-depth": (
        lambda value: value in ("", "1"),
        "the job's directory has the files of one commit, without history",
        "clone the repository in a run script where the history is needed",
    ),
    "submodules": (_is_false, "submodules are not fetched", "clone them in a run script"),
    "lfs": (
        _is_false,
        "files in Git LFS are not fetched, only their pointers",
        "fetch them in a run script: git lfs pull",
    ),
    "repository": (
        lambda value: value in _OWN_REPOSITORIES,
        "the job's directory has the files of the run's repository only",
        "clone the other one in a run script",
    ),
    "ref": (
        lambda value: value in _OWN_REFS,
        "the job's directory has the files of the run's commit only",
        "start the workflow for the other ref, or fetch it in a run script",
    ),
    "path": (
        lambda value: value in ("", ".", "./", "github.workspace"),
        "the files are at the top of the job's directory",
        "remove path, and working-directory of the steps that use it",
    ),
    "sparse-checkout": (_is_false, "steps cannot choose files", "list path patterns under checkout of the job"),
    "sparse-checkout-cone-mode": (lambda value: True, "", ""),
    "github-server-url": (_is_false, "the job's directory has the files of the run's repository only", "remove it"),
}


def is_checkout(uses: str) -> bool:
    """Whether a step uses GitHub's action."""
    return _ACTION.fullmatch(uses) is not None


def check_parameters(source: SourceFile, path: Path, parameters: Mapping[str, Json]) -> None:
    """Reports the keys of `with` at `path` that ask for other files than the job has."""
    for key, value in parameters.items():
        if key in _WITHOUT_EFFECT:
            continue
        choice = _CHOICES.get(key)
        if choice is None:
            text = f"actions/checkout has no parameter {quote(key)}"
            hint = did_you_mean(key, [*_CHOICES, *_WITHOUT_EFFECT])
            source.at_key((*path, key), codes.WRONG_PARAMETER, text, hint)
            continue
        is_what_the_job_has, lack, hint = choice
        if not is_what_the_job_has(_text(value)):
            source.at_value((*path, key), codes.GITHUB_ONLY, f"{key}: {lack}", hint)


def _text(value: Json) -> str:
    """A value as text; one that is a single expression without its braces."""
    written = plain(value)
    if written is None:
        return ""
    text = str(written).strip()
    found = _EXPRESSION.fullmatch(text)
    return found.group(1).lower() if found else text
