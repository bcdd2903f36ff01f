"""Context availability: which contexts and names an expression may use in each key, and why others are not available.

Rules of this file: an `Availability` describes the names that an expression may use. GitHub's table of context availability
holds, with our contexts; where a context exists but is not available, a sentence says why and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl.models.expression_scopes import CONTEXTS
from waterflowd.dsl.models.github_names import ACTION_PATH_FIELD
from waterflowd.model.plan import MatrixPlan

#: The fields of each context that has the same fields everywhere; None if they depend on the run.
FIXED: dict[str, expr.Names | None] = {
    name: expr.Names(CONTEXTS[name].fields) if CONTEXTS[name].fields else None
    for name in ("run", "git", "strategy", "loop", "job", "agent", "runner", "event", "env")
}
FIXED["github"] = expr.Names(name for name in CONTEXTS["github"].fields if name != ACTION_PATH_FIELD)
_GITHUB_IN_COMPOSITE = expr.Names(CONTEXTS["github"].fields)

#: Fields of `steps.<id>`.
STEP_FIELDS = tuple(CONTEXTS["steps"].fields)
#: Fields of `needs.<id>`; the last two belong to a job with instances.
NEED_FIELDS = tuple(CONTEXTS["needs"].fields)

SECRETS = "secrets"

_TRIGGER = ("inputs", "vars", "git", "event")
_RUN = (*_TRIGGER, "run", "github")
_COMPOSITE = ("run", "github", "git", "event", "matrix", "strategy", "env", "job", "agent", "runner")

#: All contexts.
KNOWN = frozenset([*FIXED, *_RUN, "needs", "steps", "jobs", "matrix", SECRETS])

_FUNCTIONS = expr.PLAIN_FUNCTIONS
_CONDITION_FUNCTIONS = _FUNCTIONS | expr.STATUS_FUNCTIONS

_UNAVAILABLE: dict[str, str] = {
    SECRETS: "secrets are only available in env and with; their values are filled in when the step is sent to its server",
    "matrix": "matrix belongs to a job; use it in the keys of jobs",
    "strategy": "strategy belongs to a job; use it in the keys of jobs",
    "loop": "loop is only available in the steps of a loop",
    "jobs": "jobs is only available in the outputs of workflow_call; use needs here",
}
_ONLY_IN_COMPOSITE = (
    "github.action_path is only available in the steps of a composite step; write the path from the job's directory"
)


class ServerValue(Enum):
    """The kinds of values that only the server knows."""

    SECRET = "secret"
    PATH = "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededJob:
    """What is known of a job to those that need it."""

    #: Names of its outputs; None when they are known only with the workflow that it calls.
    outputs: expr.Names | None = None
    has_matrix: bool = False
    is_each: bool = False


#: Why the name below the context cannot be used, as a sentence, although it exists; None if it does not exist. The name is in
#: lower case. Asked only for an error: making the sentences of all names for each key would cost the square of their number.
OutOfReach = Callable[[str, str], str | None]


@dataclass(frozen=True, kw_only=True)
class Availability:
    """The names that an expression may use, and why others cannot be used, with a sentence about each."""

    contexts: Mapping[str, expr.Names | None]
    #: Names below contexts that exist but cannot be used here, the innermost scope last.
    out_of_reach: tuple[OutOfReach, ...] = ()
    #: Contexts that exist elsewhere, and why they are not available here.
    unavailable: Mapping[str, str] = field(default_factory=dict)
    #: What is known of jobs, by lower-case id.
    jobs: Mapping[str, NeededJob] = field(default_factory=dict)
    #: False in a job without a matrix, where every value of `matrix` is null.
    has_matrix: bool = True
    #: The matrix of the job, as far as the file determines it.
    matrix: MatrixPlan | None = None
    #: The boolean inputs, in lower case.
    booleans: frozenset[str] = frozenset()
    #: The variables of `env` with values that only the server knows, by name in lower case.
    server_env: Mapping[str, ServerValue] = field(default_factory=dict)
    #: Whether the value is sent to a server, which fills in what only it knows.
    is_sent: bool = False

    @property
    def scope(self) -> expr.Scope:
        """The names for a value."""
        return expr.Scope(contexts=self.contexts, functions=_FUNCTIONS)

    @property
    def condition_scope(self) -> expr.Scope:
        """The names for an `if`."""
        return expr.Scope(contexts=self.contexts, functions=_CONDITION_FUNCTIONS)

    @property
    def with_secrets(self) -> Availability:
        """The same for a value that is sent to a server: with secrets, unless they are excluded here."""
        contexts = self.contexts if SECRETS in self.unavailable else {**self.contexts, SECRETS: None}
        return replace(self, contexts=contexts, is_sent=True)

    def without_secrets(self, sentence: str) -> Availability:
        """The same without secrets; the sentence says why."""
        return replace(self, unavailable={**self.unavailable, SECRETS: sentence})

    def within(
        self,
        contexts: Mapping[str, expr.Names | None],
        *out_of_reach: OutOfReach,
    ) -> Availability:
        """The same with more names, such as earlier steps."""
        return replace(self, contexts={**self.contexts, **contexts}, out_of_reach=(*self.out_of_reach, *out_of_reach))

    def reason_out_of_reach(self, context: str, name: str) -> str | None:
        """Why a name below a context that is available cannot be used here; None if it does not exist."""
        if (context, name.lower()) == ("github", ACTION_PATH_FIELD):
            return _ONLY_IN_COMPOSITE
        reasons = (reason_for(context, name.lower()) for reason_for in reversed(self.out_of_reach))
        return next((reason for reason in reasons if reason is not None), None)

    def reason_against(self, context: str) -> str:
        """Why a context that exists cannot be used here."""
        return self.unavailable.get(context) or _UNAVAILABLE.get(context, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """How a job becomes several instances, as far as names are concerned."""

    has_matrix: bool = False
    is_each: bool = False
    matrix: MatrixPlan | None = None


@dataclass(frozen=True, kw_only=True)
class WorkflowNames:
    """The names of one workflow file that expressions may use."""

    inputs: expr.Names
    #: None when the file declares none: then the start request defines them.
    variables: expr.Names | None
    jobs: Mapping[str, NeededJob]
    #: The boolean inputs, in lower case.
    booleans: frozenset[str] = frozenset()

    def for_variables(self, earlier: expr.Names) -> Availability:
        """The values of `vars`: each sees those before it, which are added to `earlier` one by one."""

        def reason(context: str, name: str) -> str | None:
            variable = self.variables.get(name) if self.variables is not None else None
            if context != "vars" or variable is None or variable in earlier:
                return None
            return f"the variable {quote(variable)} is defined further down; use only those above"

        return Availability(contexts=self._contexts(_TRIGGER) | {"vars": earlier}, out_of_reach=(reason,))

    def for_workflow(self) -> Availability:
        """The workflow's `env` and `concurrency`, which belong to no job."""
        return Availability(contexts=self._contexts(_RUN))

    def for_call_outputs(self) -> Availability:
        """The outputs of `workflow_call`, which see all jobs."""
        contexts = {**self._contexts(_RUN), "jobs": self._job_names}
        unavailable = {"needs": "the outputs of workflow_call can use all jobs; write jobs instead of needs"}
        return Availability(contexts=contexts, unavailable=unavailable, jobs=self._needed)

    def for_job_condition(self, needs: expr.Names) -> Availability:
        """The `if` of a job, and its `strategy`: both come before its instances."""
        sentence = "the if of a job is evaluated before its instances exist; use {0} in the if of a step"
        return Availability(
            contexts={**self._contexts(_RUN), "needs": needs},
            out_of_reach=(self._other_jobs(needs),),
            unavailable={name: sentence.format(name) for name in ("matrix", "strategy")},
            jobs=self._needed,
            booleans=self.booleans,
        )

    def for_strategy(self, needs: expr.Names) -> Availability:
        """`strategy` itself."""
        available = self.for_job_condition(needs)
        return replace(
            available,
            unavailable={name: f"strategy defines {name}, so it cannot use it" for name in ("matrix", "strategy")},
        )

    def for_job(self, needs: expr.Names, instances: Instances, *, has_env: bool = False) -> Availability:
        """The keys of a job; its `env` may refer to the workflow's."""
        contexts = self._contexts((*_RUN, "env") if has_env else _RUN)
        # As on GitHub, both exist in every job. A name that no instance has is a warning, see `matrix`.
        contexts |= {"needs": needs, "matrix": None, "strategy": FIXED["strategy"]}
        return Availability(
            contexts=contexts,
            out_of_reach=(self._other_jobs(needs),),
            jobs=self._needed,
            has_matrix=instances.has_matrix,
            matrix=instances.matrix,
            booleans=self.booleans,
        )

    def for_steps(self, needs: expr.Names, instances: Instances) -> Availability:
        """The keys of steps; the step builder adds `steps`."""
        available = self.for_job(needs, instances, has_env=True)
        return available.within({name: FIXED[name] for name in ("job", "agent", "runner")})

    def _contexts(self, names: Iterable[str]) -> dict[str, expr.Names | None]:
        known = {**FIXED, "inputs": self.inputs, "vars": self.variables}
        return {name: known.get(name) for name in names}

    @cached_property
    def _needed(self) -> dict[str, NeededJob]:
        return {name.lower(): job for name, job in self.jobs.items()}

    @cached_property
    def _job_names(self) -> expr.Names:
        return expr.Names(self.jobs)

    def _other_jobs(self, needs: expr.Names) -> OutOfReach:
        def reason(context: str, name: str) -> str | None:
            job = self._job_names.get(name)
            if context != "needs" or job is None or job in needs:
                return None
            return f"the job {quote(job)} is not in the needs of this job; add it there"

        return reason


def for_composite(inputs: expr.Names) -> Availability:
    """The keys of the steps of a composite step, which see nothing of the calling workflow except for its job."""
    sentence = "composite steps cannot use {0}; declare an input, and pass the value under with"
    unavailable = {name: sentence.format(name) for name in ("vars", "needs", "loop")}
    unavailable[SECRETS] = "composite steps cannot use secrets; declare an input, and pass the secret under with"
    contexts = {**{name: FIXED.get(name) for name in _COMPOSITE}, "inputs": inputs, "github": _GITHUB_IN_COMPOSITE}
    return Availability(contexts=contexts, unavailable=unavailable)


def for_composite_defaults() -> Availability:
    """The defaults of a composite step's inputs, which are evaluated before it begins."""
    names = tuple(name for name in _COMPOSITE if name != "env")
    sentence = "the default of an input is evaluated before the composite step begins; it cannot use {0}"
    unavailable = {name: sentence.format(name) for name in ("inputs", "steps", "env", SECRETS)}
    return Availability(contexts={name: FIXED.get(name) for name in names}, unavailable=unavailable, is_sent=True)
