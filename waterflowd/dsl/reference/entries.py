"""What an entry of the reference is made of, and the kinds of places in which expressions stand."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The jobs of an example that is about something else.
JOBS = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - run: make\n"
#: Where an example's keys stand for a step, and for a job.
STEP = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - {}\n"
JOB = "jobs:\n  build:\n    {}\n"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A kind of place in which expressions stand: what they see, and whether they may ask for the status."""

    contexts: tuple[str, ...]
    has_status: bool = False


_TRIGGER = ("inputs", "vars", "git", "event")
_RUN = (*_TRIGGER, "run")
_JOB = (*_RUN, "needs", "matrix", "strategy")
_STEP = (*_JOB, "env", "steps", "job", "agent", "runner")

#: Every kind of place. `item` and `loop` come with a loop, `matrix` and `strategy` with a job that has instances.
PLACES: dict[str, Place] = {
    "vars": Place(contexts=_TRIGGER),
    "workflow": Place(contexts=_RUN),
    "workflow-env": Place(contexts=(*_RUN, "secrets")),
    "job-if": Place(contexts=(*_RUN, "needs"), has_status=True),
    "strategy": Place(contexts=(*_RUN, "needs")),
    "job": Place(contexts=_JOB),
    "job-env": Place(contexts=(*_JOB, "env", "secrets")),
    "step": Place(contexts=_STEP),
    "step-if": Place(contexts=_STEP, has_status=True),
    "step-secrets": Place(contexts=(*_STEP, "secrets")),
    "call-outputs": Place(contexts=(*_RUN, "jobs")),
}


@dataclass(frozen=True)
class Key:
    """What is said about one key."""

    #: One or more sentences: what it means.
    what: str
    #: A few lines of the mapping that the key stands in, the key among them; they compile in the section's frame.
    example: str
    #: A name of `PLACES`; empty where no expression can stand.
    place: str = field(default="", kw_only=True)
    #: What holds without the key, where the model does not say it.
    default: str = field(default="", kw_only=True)
    pitfalls: tuple[str, ...] = field(default=(), kw_only=True)
    #: What it takes, where the model takes any value and the compiler does not.
    takes: str = field(default="", kw_only=True)
    #: What the key goes with, and nothing else: `steps` or `call` of a job; `process`, `script` or
    #: `attempts` of a step.
    only: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Section:
    """What is said about a concept."""

    #: The file of its page, without the ending.
    name: str
    #: Where its keys stand, as a path.
    where: str
    what: str
    #: The file around an example; `{}` stands for the example's lines. Empty: the example is a whole file.
    frame: str
    keys: dict[str, Key]

    def framed(self, example: str) -> str:
        """The whole file of an example."""
        if not self.frame or example.startswith("jobs:") or "\njobs:" in example:
            return example.rstrip("\n") + "\n"
        before, _, after = self.frame.partition("{}")
        margin = " " * len(before.rpartition("\n")[2])
        return before + example.strip("\n").replace("\n", f"\n{margin}") + after
