"""The containers of a job: checks `container` and `services`, and builds the step that starts them.

The job begins with that step. Scripts of a job with `container` run in the container that it has reported, see
`waterflowd/engine/rules/containers.py`. The agent removes the containers with the job's directory.
"""

from __future__ import annotations

import re

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.building import secret_references
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.building.job_and_step_keys import check_variable_names
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.ids import StepId
from waterflowd.model.plan import CONTAINERS_NODE, SETUP_STEP, Json, StepPlan

#: Services of one job; each is a container on one server.
SERVICES_MAX = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class JobContainersBuilder:
    """Builds the first step of jobs with containers."""

    def __init__(self, source: SourceFile, expressions: ExpressionChecker) -> None:
        self._source = source
        self._expressions = expressions

    def step(
        self, path: Path, job: models.Job, available: Availability, in_env: Availability, secrets: tuple[str, ...]
    ) -> StepPlan | None:
        """The step of the job at `path`; None if it has no containers. `secrets` are those of the job's environment."""
        params: dict[str, Json] = {}
        if job.container is not None:
            params["container"] = self._container((*path, "container"), job.container, available, in_env)
        if job.services:
            params["services"] = {
                name: self._container((*path, "services", name), container, available, in_env)
                for name, container in job.services.items()
            }
            self._check_names(path, job)
        if not params:
            return None
        return StepPlan(
            id=StepId(SETUP_STEP),
            name="Start containers",
            node=CONTAINERS_NODE,
            params=params,
            secrets=tuple(dict.fromkeys((*secrets, *secret_references.names_in(params)))),
            line=self._source.key_line((*path, "container" if job.container is not None else "services")),
        )

    def _container(
        self, path: Path, container: models.Container, available: Availability, in_env: Availability
    ) -> dict[str, Json]:
        written, _ = self._source.document.find((*path, "image"))
        at: Path = path if written is None else (*path, "image")
        self._expressions.value(at, container.image, available)
        for name, value in (("ports", container.ports), ("volumes", container.volumes), ("options", container.options)):
            self._expressions.value((*path, name), value, available)
        self._expressions.value((*path, "env"), dict(container.env), in_env.with_secrets)
        check_variable_names((*path, "env"), container.env, self._source.document, self._source.report)
        params: dict[str, Json] = {
            "image": container.image,
            "env": dict(container.env),
            "ports": list(container.ports),
            "volumes": list(container.volumes),
            "options": container.options,
        }
        if container.credentials is not None:
            found = {"username": container.credentials.username, "password": container.credentials.password}
            for name, value in found.items():
                self._expressions.value((*path, "credentials", name), value, in_env.with_secrets)
            params["credentials"] = dict(found)
        return {name: value for name, value in params.items() if value}

    def _check_names(self, path: Path, job: models.Job) -> None:
        at: Path = (*path, "services")
        if len(job.services) > SERVICES_MAX:
            text = f"the job has {len(job.services)} services; the limit is {SERVICES_MAX}"
            self._source.at_key(at, codes.BOUND, text, "divide the job")
        for name in job.services:
            if not _NAME.fullmatch(name):
                text = f"{quote(name)} cannot be the name of a service, because it is its host name in the network"
                self._source.at_key((*at, name), codes.WRONG_ID, text, "use letters, digits and -")
