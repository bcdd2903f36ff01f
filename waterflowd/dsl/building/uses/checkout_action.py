"""`uses: actions/checkout`: the job's directory has the files from the start, so the step only reports the commit.

Rules of this file: a `with` key that has a meaning here becomes part of the job's checkout. Any other value is an error with
one sentence, because the scripts after it would find other files than on GitHub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from waterflow_agent.display import quote
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.uses.checkouts import checked_directory
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import CheckoutPlan, Json
from waterflowd.model.wording import did_you_mean

#: The node that has the outputs of the action.
NODE = "set-outputs"

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
        *("set-safe-directory", "allow-unsafe-pr-checkout", "filter", "sparse-checkout-cone-mode"),
    )
)


#: Fewer files; scripts rarely depend on those that are missing.
_SPARSE = "sparse-checkout"


def _values(*expressions: str, also: tuple[str, ...] = ()) -> frozenset[str]:
    """No value, some expressions, and some texts."""
    return frozenset(("", *(f"${{{{ {expression} }}}}" for expression in expressions), *also))


_OWN_REFS = _values(
    "github.sha", "github.ref", "github.ref_name", "github.head_ref", "git.sha", "git.ref", "git.branch"
)
_OWN_DIRECTORIES = _values("github.workspace", also=(".", "./"))
_OWN_REPOSITORIES = _values("github.repository", "git.full-name")


def _is_false(value: str) -> bool:
    return value.lower() in ("", "false")


#: Keys that choose files: which values a job's directory can have, and why not the others.
_CHOICES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "fetch-depth": (
        lambda value: value == "" or value.isdecimal(),
        "the number of commits must be known before the run; 1 means one, any other number all of them",
        "write fetch-depth: 0, or remove it",
    ),
    "fetch-tags": (
        lambda value: value.lower() in ("", "false", "true"),
        "whether there are tags must be known before the run",
        "write fetch-tags: true, or remove it",
    ),
    "submodules": (
        lambda value: value.lower() in ("", "false", "true", "recursive"),
        "whether there are submodules must be known before the run",
        "write submodules: true, or remove it",
    ),
    "lfs": (
        lambda value: value.lower() in ("", "false", "true"),
        "whether files in Git LFS have their contents must be known before the run",
        "write lfs: true, or remove it",
    ),
    "repository": (lambda value: True, "", ""),
    "ref": (lambda value: True, "", ""),
    "path": (
        lambda value: value in _OWN_DIRECTORIES or "${{" not in value,
        "the directory must be known before the run",
        "write a relative path, such as src",
    ),
    "github-server-url": (_is_false, "the job's directory has the files of the run's repository only", "remove it"),
}


def is_checkout(uses: str) -> bool:
    """Whether a step uses GitHub's action."""
    return _ACTION.fullmatch(uses) is not None


def wish(source: SourceFile, path: Path, parameters: Mapping[str, Json]) -> CheckoutPlan:
    """What the keys of `with` at `path` ask for; reports those that a job cannot have."""
    _check(source, path, parameters)
    depth = _text(parameters.get("fetch-depth"))
    directory = _text(parameters.get("path"))
    repository, ref = _text(parameters.get("repository")), _text(parameters.get("ref"))
    is_own = repository in _OWN_REPOSITORIES
    history = depth not in ("", "1") or _text(parameters.get("fetch-tags")).lower() == "true"
    return CheckoutPlan(
        repository="" if is_own else _written(parameters, "repository"),
        ref="" if is_own and ref in _OWN_REFS else _written(parameters, "ref"),
        submodules=_text(parameters.get("submodules")).lower() in ("true", "recursive"),
        lfs=_text(parameters.get("lfs")).lower() == "true",
        history=history,
        shallow=not history,
        path="" if directory in _OWN_DIRECTORIES else checked_directory(source, (*path, "path"), directory),
    )


def parameters(wish: CheckoutPlan) -> dict[str, Json]:
    """The parameters of the node. The commit of another ref is not known before the daemon has looked it up."""
    if wish.repository or wish.ref:
        return {"outputs": {"ref": wish.ref}}
    return {"outputs": {"ref": "${{ github.ref }}", "commit": "${{ github.sha }}"}}


def _check(source: SourceFile, path: Path, parameters: Mapping[str, Json]) -> None:
    for key, value in parameters.items():
        if key == _SPARSE:
            if not _is_false(_text(value)) and source.report.takes_warnings:
                text = "sparse-checkout has no effect: the job has all files of the commit"
                at = source.document.key_start((*path, key))
                source.report.warn(
                    at, codes.NO_EFFECT, text, "to leave files out, list path patterns under checkout of the job"
                )
            continue
        if key in _WITHOUT_EFFECT:
            continue
        choice = _CHOICES.get(key)
        if choice is None:
            text = f"actions/checkout has no parameter {quote(key)}"
            hint = did_you_mean(key, [*_CHOICES, *_WITHOUT_EFFECT, _SPARSE])
            source.at_key((*path, key), codes.WRONG_PARAMETER, text, hint)
            continue
        is_possible, lack, hint = choice
        if not is_possible(_text(value)):
            source.at_value((*path, key), codes.GITHUB_ONLY, f"{key}: {lack}", hint)


def _written(parameters: Mapping[str, Json], key: str) -> str:
    """A value as the file has it."""
    written = plain(parameters.get(key))
    return "" if written is None else str(written).strip()


def _text(value: Json) -> str:
    """A value as text; a single expression in lower case, with one space around it."""
    written = plain(value)
    if written is None:
        return ""
    text = str(written).strip()
    found = _EXPRESSION.fullmatch(text)
    return f"${{{{ {found.group(1).lower()} }}}}" if found else text
