"""One step: from what people write to its plan."""

from __future__ import annotations

import re
from typing import Any

from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import codes, schema
from waterflowd.dsl.environment import check_environment
from waterflowd.dsl.expressions import Expressions, Place
from waterflowd.dsl.ids import Ids
from waterflowd.dsl.nodes import Nodes
from waterflowd.dsl.places import quoted
from waterflowd.dsl.report import Report
from waterflowd.dsl.tree import Document, Path
from waterflowd.model.ids import StepId
from waterflowd.model.plan import Json, OnLost, RetryPolicy, StepPlan, StopPolicy

#: What runs a script when the step does not say; a server without bash takes `sh`, which reads references alike.
_DEFAULT_SHELL = "bash"
_SCRIPT_NAME_CHARACTERS_MAX = 60
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Steps:
    """Builds the steps of one file."""

    def __init__(self, document: Document, report: Report, expressions: Expressions) -> None:
        self._document = document
        self._report = report
        self._expressions = expressions
        self._nodes = Nodes(document, report)

    def build(self, path: Path, step: schema.Step, place: Place, ids: Ids) -> StepPlan | None:
        """The plan of the step at `path`; None when it has an error that leaves none, which is reported."""
        number = int(path[-1]) + 1
        if step.id is not None:
            ids.take(step.id, self._document.value_start((*path, "id")))
        self._check_expressions(path, step, place)
        node = self._node(path, step)
        if node is None:
            return None
        params, script_env = self._params(path, step, node, place)
        return StepPlan(
            id=StepId(step.id or str(number)),
            is_named=step.id is not None,
            name=step.name or _default_name(step),
            node=node.name,
            params=params,
            env={**step.env, **script_env},
            condition=step.if_,
            working_directory=self._working_directory(path, step.working_directory),
            timeout_minutes=step.timeout_minutes,
            continue_on_error=step.continue_on_error,
            retry=self._retry(path, step),
            on_lost=OnLost(step.on_lost),
            stop=StopPolicy(signal=step.stop.signal, grace_ms=step.stop.grace),
            line=self._document.lines.position(self._document.value_start(path))[0],
        )

    def _check_expressions(self, path: Path, step: schema.Step, place: Place) -> None:
        self._expressions.condition((*path, "if"), step.if_, place)
        check_environment((*path, "env"), step.env, self._document, self._report)
        for key, value in (
            ("name", step.name),
            ("run", step.run),
            ("env", step.env),
            ("with", step.with_),
            ("working-directory", step.working_directory),
            ("timeout-minutes", step.timeout_minutes),
            ("continue-on-error", step.continue_on_error),
        ):
            self._expressions.value((*path, key), value, place)

    def _node(self, path: Path, step: schema.Step) -> node_schema.NodeSchema | None:
        if step.run is not None and step.uses is not None:
            text = "a step has either run or uses, not both"
            self._report.add(
                self._document.key_start((*path, "uses")), codes.EXCLUSIVE_KEYS, text, "make two steps of it"
            )
            return None
        if step.run is not None:
            return node_schema.BUILT_IN["shell"]
        if step.uses is not None:
            return self._nodes.find((*path, "uses"), step.uses)
        node, _ = self._document.find(path)
        if not self._report.has_within(node.start, node.end):
            text = "a step needs run or uses"
            self._report.add(node.start, codes.EXCLUSIVE_KEYS, text, "add run with a script, or uses with a node")
        return None

    def _params(
        self, path: Path, step: schema.Step, node: node_schema.NodeSchema, place: Place
    ) -> tuple[dict[str, Json], dict[str, str]]:
        """The node's parameters, and the environment that a script needs for its expressions."""
        is_script = node.name == "shell"
        if not is_script:
            for key, is_given in (
                ("shell", step.shell is not None),
                ("unsafe-interpolation", step.unsafe_interpolation),
            ):
                if is_given:
                    text = f"{key} belongs to a script (run), not to {node.name}"
                    self._report.add(self._document.key_start((*path, key)), codes.EXCLUSIVE_KEYS, text, "remove it")
        given: dict[str, Any] = dict(step.with_)
        if step.run is None:
            params = self._nodes.parameters((*path, "with") if step.has("with_") else path, node, given)
        else:
            params = {"run": step.run}
            if step.has("with_"):
                text = "with belongs to uses, not to run"
                hint = "give the script its values by env"
                self._report.add(self._document.key_start((*path, "with")), codes.EXCLUSIVE_KEYS, text, hint)
        if not is_script:
            return params, {}
        return self._script(path, step, params)

    def _script(self, path: Path, step: schema.Step, params: dict[str, Json]) -> tuple[dict[str, Json], dict[str, str]]:
        if step.shell is not None:
            if "shell" in params:
                text = "shell is given twice: here and under with"
                self._report.add(
                    self._document.key_start((*path, "shell")), codes.EXCLUSIVE_KEYS, text, "remove one of the two"
                )
            params = {**params, "shell": step.shell}
        source, shell = params.get("run"), params.get("shell") or _DEFAULT_SHELL
        if not isinstance(source, str) or not isinstance(shell, str):
            return params, {}
        if not expr.is_static(shell):
            self._report.add(
                self._document.value_start((*path, "with", "shell")),
                codes.WRONG_VALUE,
                "shell: an expression cannot stand here",
            )
            return params, {}
        run_path: Path = (*path, "run") if step.run is not None else (*path, "with", "run")
        script = self._expressions.script(run_path, source, shell, unsafe=step.unsafe_interpolation)
        if script is None:
            return params, {}
        return {**params, "run": script.text}, dict(script.env)

    def _retry(self, path: Path, step: schema.Step) -> RetryPolicy | None:
        if step.retry is not None and step.retry_strategy is not None:
            text = "retry-strategy is another name of retry; both are given"
            self._report.add(
                self._document.key_start((*path, "retry-strategy")), codes.EXCLUSIVE_KEYS, text, "remove one of the two"
            )
        retry = step.retry or step.retry_strategy
        if retry is None:
            return None
        return RetryPolicy(
            max_attempts=retry.max_attempts,
            initial_interval_ms=retry.initial_interval,
            backoff_coefficient=retry.backoff_coefficient,
            max_interval_ms=retry.max_interval,
            jitter=retry.jitter,
            on=tuple(retry.on),
            never_on=tuple(retry.never_on),
        )

    def _working_directory(self, path: Path, directory: str | None) -> str | None:
        if directory is None or not expr.is_static(directory):
            return directory
        what = "absolute" if directory.startswith("/") else "above it" if ".." in directory.split("/") else ""
        if _CONTROL.search(directory):
            what = "with a control character"
        if what:
            text = f"working-directory {quoted(directory)} is {what}; it is a path inside of the job's directory"
            hint = "use cd in the script to leave it" if what != "with a control character" else ""
            self._report.add(self._document.value_start((*path, "working-directory")), codes.OUTSIDE_PATH, text, hint)
        return directory


def _default_name(step: schema.Step) -> str:
    """GitHub's rule: the first line of the script, or the node."""
    if step.run is None:
        return (step.uses or "").removesuffix("@v1")
    first = next((line.strip() for line in step.run.splitlines() if line.strip()), "")
    # A name is rendered, which must not happen to a piece of a script: expressions are shown by their source.
    shown = _EXPRESSION.sub(r"{\1}", first).replace("${{", "{")
    return f"Run {shown[:_SCRIPT_NAME_CHARACTERS_MAX]}" + ("..." if len(shown) > _SCRIPT_NAME_CHARACTERS_MAX else "")
