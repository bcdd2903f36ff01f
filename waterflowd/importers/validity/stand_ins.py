"""Stand-ins for steps and jobs that cannot run here.

Rules of this file: a step that did something is replaced by one that fails with a sentence, so that nothing after it runs
as if it had been done. A step that only prepared the machine (installs tools) is replaced by one that logs what the servers
need, because servers keep their tools. Both keep the id, so that expressions still refer to them.
"""

from __future__ import annotations

import re

from waterflowd.model.plan import Json

#: Actions that install tools, or cache what a compiler has made; what they do is done once on a server that keeps its state.
_PREPARES = re.compile(
    r"(?:.*/)?(?:setup|install)-[a-z0-9_.-]+@.*|.*-setup@.*|.*rust-cache@.*"
    r"|.*/(?:rust-)?toolchain@.*|.*/[a-z0-9-]*(?:-installer|-toolchain)@.*|step-security/harden-runner@.*"
    r"|jlumbroso/free-disk-space@.*|.*/action-setup@.*|.*/ccache-action@.*|.*/sccache-action@.*",
    re.IGNORECASE,
)


def is_preparation(uses: str) -> bool:
    """Whether an action only prepares the machine."""
    return _PREPARES.fullmatch(uses) is not None


def action_sentence(uses: str) -> str:
    """Return what to do about a step that uses an action of GitHub."""
    if is_preparation(uses):
        return f"{uses} prepares a fresh machine: install what it provides on the servers of the group, once"
    return f"{uses} is a GitHub action, which does not run here: write its commands as run, or use a node"


def step(original: Json, sentence: str, *, without: tuple[str, ...] = ()) -> dict[str, Json]:
    """Return the step that replaces one: with its id, name and condition, but for the keys in `without`."""
    old = original if isinstance(original, dict) else {}
    uses = old.get("uses")
    kept: dict[str, Json] = {}
    if isinstance(uses, str) and "name" not in old and uses:
        kept["name"] = uses
    kept |= {key: old[key] for key in ("id", "name", "if", "continue-on-error") if key in old and key not in without}
    node = "log" if isinstance(uses, str) and is_preparation(uses) else "fail"
    return {**kept, "uses": node, "with": {"message": _plain(sentence)}}


def job(original: Json, sentence: str, group: str) -> dict[str, Json]:
    """Return the job that replaces one: it fails, after the same jobs."""
    old = original if isinstance(original, dict) else {}
    kept: dict[str, Json] = {key: old[key] for key in ("needs", "if") if key in old}
    failing: Json = {"uses": "fail", "with": {"message": _plain(sentence)}}
    return {**kept, "runs-on": group, "steps": [failing]}


def failing_step(sentence: str) -> dict[str, Json]:
    """Return a step that fails, in front of the steps of a job that lacks something."""
    return {"uses": "fail", "with": {"message": _plain(sentence)}}


def _plain(sentence: str) -> str:
    """The sentence as a message: what looks like an expression is not one."""
    return sentence.replace("${{", "$ {{")
