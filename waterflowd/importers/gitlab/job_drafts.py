"""A job that is being written, and what the jobs of a pipeline share."""

from __future__ import annotations

from dataclasses import dataclass, field

from waterflowd.importers import writing
from waterflowd.importers.findings import Imported
from waterflowd.importers.gitlab import variables
from waterflowd.importers.gitlab.pipeline import Job


@dataclass
class JobContext:
    """What the jobs of a pipeline share."""

    imported: Imported
    group: str
    #: Variables of the whole file, as texts.
    variables: dict[str, str]
    #: Id of each job by its name on GitLab.
    ids: dict[str, str]
    #: Whether some jobs run under conditions only.
    has_conditions: bool = False
    #: Names of the jobs that store artifacts.
    with_artifacts: set[str] = field(default_factory=set)
    #: Names of the jobs with several instances.
    parallel: set[str] = field(default_factory=set)
    #: Whether a newer pipeline of the branch may replace one in progress.
    is_interruptible: bool = False
    #: Variables that scripts read and nothing defines.
    undefined: set[str] = field(default_factory=set)

    def artifact_of(self, job: str, instance: str) -> str:
        """The name of a job's artifact. Ids have no dots, so no pattern selects the artifacts of two jobs."""
        return f"{self.ids[job]}.{instance}" if job in self.parallel else self.ids[job]


@dataclass
class JobDraft:
    """A job that is being written."""

    job: Job
    context: JobContext
    needs: list[str]
    block: writing.Block = field(default_factory=writing.Block)
    env: writing.Block = field(default_factory=writing.Block)
    steps: writing.Items = field(default_factory=writing.Items)
    #: Steps behind those of the script.
    last_steps: list[tuple[writing.Block, tuple[str, ...]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Keys whose text is among the notes.
    noted: set[str] = field(default_factory=set)

    def decide(self, key: str, text: str) -> str:
        """Record a decision about a key of the job."""
        place = self.job.places.get(key)
        path = place.source.path if place else self.job.source.path
        return self.context.imported.decide(path, place.line if place else 0, f"{self.job.name}: {text}")

    def note(self, key: str, text: str) -> None:
        """Record a decision, with the comment and the text of the key in the job."""
        self.notes.append(self.decide(key, text))
        if key in self.job.places and key not in self.noted:
            self.noted.add(key)
            self.notes.append(self.job.places[key].text)

    def change(self, key: str, text: str) -> None:
        """Record a change of a key of the job."""
        place = self.job.places.get(key)
        path = place.source.path if place else self.job.source.path
        self.context.imported.change(path, place.line if place else 0, f"{self.job.name}: {text}")

    def expand(self, text: object) -> str:
        """Return a text with GitLab's variables replaced."""
        own = {**self.literals, **self.context.variables, **own_variables(self.job)}
        return variables.expanded(str(text), own, self.context.undefined)

    @property
    def literals(self) -> dict[str, str]:
        """The predefined variables whose values are in the job itself."""
        found = {"CI_JOB_NAME": self.job.name, "CI_JOB_STAGE": str(self.job.keys.get("stage", "test"))}
        environment = self.job.keys.get("environment")
        name = environment.get("name") if isinstance(environment, dict) else environment
        return found | ({"CI_ENVIRONMENT_NAME": str(name)} if name else {})


def own_variables(job: Job) -> dict[str, str]:
    """Return the plain values of the variables that the job itself sets."""
    own = job.keys.get("variables")
    return variables.plain_values(own) if isinstance(own, dict) else {}
