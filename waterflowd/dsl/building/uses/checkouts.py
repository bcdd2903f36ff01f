"""What a job's working directory has before its first step: its `checkout`, and what its `actions/checkout` steps ask for.

Theory: GitHub's action fetches files when its step runs. Here a job has its files from the start, so the steps' wishes are
collected while the job is built, and become part of its plan.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import SourceFile, local_path
from waterflowd.dsl.models.field_types import SHALLOW
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import CheckoutPlan

_IN_COMPOSITE = "put it under checkout of the jobs that use the composite step"


class Checkouts:
    """The checkouts of one job."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        #: By the directory that gets the files.
        self._plans: dict[str, CheckoutPlan] = {}
        #: The texts that may have expressions, and where they are. They are evaluated before the first step.
        self.texts: list[tuple[Path, str]] = []
        self._is_off = False
        #: The directory of the job's own checkout, which steps without a ref add to.
        self._of_job: str | None = None
        #: Steps that need the files of the run's own repository.
        self._users: list[Path] = []

    def add_job(self, path: Path, job: models.Job) -> None:
        """Adds `checkout` of the job at `path`, if the file has it."""
        at: Path = (*path, "checkout")
        if not job.has("checkout"):
            return
        if job.checkout is None:
            self._is_off = True
            return
        chosen = job.checkout
        if chosen.history and chosen.patterns:
            text = "history needs all files, and patterns select some of them"
            self._source.at_key((*at, "patterns"), codes.EXCLUSIVE_KEYS, text, "remove one of them")
        directory = checked_directory(self._source, (*at, "path"), chosen.path or "")
        self._of_job = directory
        self._plans[directory] = CheckoutPlan(
            patterns=tuple(chosen.patterns),
            path=directory,
            history=chosen.history is True,
            shallow=chosen.history == SHALLOW,
            repository=chosen.repository,
            ref=chosen.ref,
            submodules=chosen.submodules,
            lfs=chosen.lfs,
        )
        for name in ("repository", "ref"):
            self.texts.append(((*at, name), getattr(chosen, name)))

    def add_step(self, path: Path, wish: CheckoutPlan) -> None:
        """Adds what the step at `path` asks for."""
        at: Path = (*path, "uses")
        for name in ("repository", "ref"):
            self.texts.append(((*path, "with", name), getattr(wish, name)))
        if self._is_off and asks_for_other_files(wish):
            text = "the step asks for files, and the job has checkout: false"
            self._source.at_key(at, codes.EXCLUSIVE_KEYS, text, "remove checkout of the job")
        known = self._plans.get(wish.path)
        if known is not None:
            if wish.history and known.patterns:
                text = "history needs all files, and checkout of the job selects some of them"
                self._source.at_key(at, codes.EXCLUSIVE_KEYS, text, "remove the patterns, or fetch-depth")
            is_as_the_job_says = wish.path == self._of_job and not wish.repository and not wish.ref
            if not is_as_the_job_says and (known.repository, known.ref) != (wish.repository, wish.ref):
                where = f"the directory {quote(wish.path)}" if wish.path else "the job's directory"
                text = f"two checkouts put different files into {where}"
                self._source.at_key(at, codes.EXCLUSIVE_KEYS, text, "give one of them another path")
            wish = _with(known, wish)
        self._plans[wish.path] = wish

    def require_repository(self, path: Path) -> None:
        """Notes that the composite step at `path` reads files beside its own."""
        self._users.append(path)

    def check_users(self) -> None:
        """Reports composite steps that read files beside their own in a job that does not have them."""
        if not self._is_off and (not self._plans or any(not plan.repository for plan in self._plans.values())):
            return
        for path in self._users:
            text = "the composite step reads files of its own folder, which this job does not check out"
            hint = "check out this repository, too, also with a path; or remove checkout of the job"
            self._source.at_key((*path, "uses"), codes.EXCLUSIVE_KEYS, text, hint)

    def result(self) -> tuple[bool | tuple[str, ...], tuple[CheckoutPlan, ...]]:
        """`checkout` and `checkouts` of the job's plan."""
        if self._is_off:
            return False, ()
        plans = tuple(self._plans.values())
        if plans in ((), (CheckoutPlan(),)):
            return True, ()
        if len(plans) == 1 and plans[0] == CheckoutPlan(patterns=plans[0].patterns):
            return plans[0].patterns, ()
        return True, plans


def asks_for_other_files(wish: CheckoutPlan) -> bool:
    """Whether a step asks for more than the files that every job has, and the `.git` that it gets if it can."""
    return msgspec.structs.replace(wish, shallow=False) != CheckoutPlan()


def _with(known: CheckoutPlan, wish: CheckoutPlan) -> CheckoutPlan:
    """A checkout with what a step adds to it. GitHub's default, a single commit, adds nothing to selected files."""
    history = known.history or wish.history
    is_shallow = known.shallow or (wish.shallow and not known.patterns)
    return msgspec.structs.replace(
        known,
        history=history,
        shallow=is_shallow and not history,
        submodules=known.submodules or wish.submodules,
        lfs=known.lfs or wish.lfs,
    )


def refuse_in_composite(source: SourceFile, at: Path, wish: CheckoutPlan) -> None:
    """Reports a step of a composite step that asks for other files than those that every job has."""
    if asks_for_other_files(wish):
        text = "a composite step runs in the directory of the job that uses it, which has its files already"
        source.at_key(at, codes.GITHUB_ONLY, text, _IN_COMPOSITE)


def checked_directory(source: SourceFile, at: Path, directory: str) -> str:
    """A directory below the job's; reports one that is not. Empty for the job's own."""
    if directory in ("", ".", "./"):
        return ""
    found = local_path(f"./{directory}")
    if found is None or directory.startswith("/") or ".git" in found.split("/"):
        text = f"{quote(directory)} is not a directory inside the job's directory"
        source.at_value(at, codes.OUTSIDE_PATH, text, "write a relative path without .., such as src")
        return ""
    return found
