"""The models of `defaults`."""

from __future__ import annotations

from waterflowd.dsl.models.field_types import OrEmpty, Text
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key


class RunDefaults(LanguageModel):
    """Default settings of scripts."""

    TITLE = "defaults.run"
    PAGE = Page(
        name="defaults-run",
        where="`defaults.run`, `jobs.<id>.defaults.run`",
        frame="defaults:\n  run:\n    {}\n" + EXAMPLE_JOBS,
    )

    shell: Text | None = key(
        "The shell that runs the scripts; see `shell` of a step. In a job it also sees `needs`, `matrix`, `strategy` and"
        " `env`.",
        "shell: sh",
        default=None,
        expressions="workflow",
        without="`bash`, or `sh` where there is no bash",
    )
    working_directory: Text | None = key(
        "The directory, inside the job's directory, in which scripts start. In a job it also sees `needs`, `matrix`,"
        " `strategy` and `env`.",
        "working-directory: app",
        default=None,
        expressions="workflow",
        without="the job's directory",
        pitfalls=("The directory must exist when a step starts.",),
    )


class Defaults(LanguageModel):
    """Default settings of steps, for the workflow or for one job. The job's settings win, key by key."""

    TITLE = "defaults"
    PAGE = Page(name="defaults", where="`defaults`, `jobs.<id>.defaults`", frame="defaults:\n  {}\n" + EXAMPLE_JOBS)

    run: OrEmpty[RunDefaults] = key("Settings of scripts (`run`).", "run: {shell: bash}", default=RunDefaults())
