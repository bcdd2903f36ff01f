"""Builds the plans of steps, block by block.

Rules of this file: a step sees the named steps before it, in its own block and in the enclosing ones. The ids of a whole block
are registered before its steps are built, so no inner step has the id of an outer one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from waterflow_agent.display import quote
from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import secret_references, server_values
from waterflowd.dsl.building.block_scope import (
    COMPOSITE,
    DEPTH_MAX,
    BlockScope,
    UnreachableSteps,
    with_secrets,
)
from waterflowd.dsl.building.compilation import LOCAL, Compilation, SourceFile
from waterflowd.dsl.building.constants import constant_texts
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.control_flow import ControlFlow
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.building.job_and_step_keys import (
    check_shell,
    check_variable_names,
    check_working_directory,
    retry_policy,
)
from waterflowd.dsl.building.lints import jobs_and_steps as lints
from waterflowd.dsl.building.uses import cache_action, checkout_action, composite_values
from waterflowd.dsl.building.uses.checkouts import refuse_in_composite
from waterflowd.dsl.building.uses.child_workflows import WORKFLOW_RUN, ChildWorkflows
from waterflowd.dsl.building.uses.composite_steps import CompositeSteps, CompositeUse, reads_own_files
from waterflowd.dsl.building.uses.nodes import NodeChecker
from waterflowd.dsl.building.uses.own_nodes import OwnNode, OwnNodes
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.ids import StepId
from waterflowd.model.plan import (
    BlockPlan,
    Json,
    LimitsPlan,
    OnLost,
    RetryPolicy,
    StepPlan,
    StopPolicy,
    without_expressions,
)

STEPS_PER_BLOCK_MAX = 1_000
#: In the environment of one step, with those of its job and workflow: the plan holds their names once for each step.
SECRETS_PER_STEP_MAX = 100

#: The shell of a script without `shell`; a server without bash uses `sh`, which expands variables in the same way.
_DEFAULT_SHELL = "bash"
_SCRIPT_NAME_CHARACTERS_MAX = 60
#: What is read of a script's first line for its name: a search in all of a long line can take very long.
_FIRST_LINE_CHARACTERS_MAX = 200


#: Keys that are only valid for steps with a process, and why nodes that the engine runs do not have them.
_PROCESS_KEYS: dict[str, str] = {
    "shell": "it does not run a script",
    "unsafe-interpolation": "it does not run a script",
    "working-directory": "it does not run in a directory",
    "retry": "it is not retried as a whole; set retry in the steps that can fail",
    "retry-strategy": "it is not retried as a whole; set retry in the steps that can fail",
    "on-lost": "it does not run on a server, so it cannot be lost",
    "stop": "it has no process to stop",
    "output-max-bytes": "it has no output",
    "limits": "it has no process to limit",
}
#: Keys among them that `workflow/run` accepts nevertheless: each attempt starts a new run.
_RETRY_KEYS = ("retry", "retry-strategy")

_NO_SECRETS = "this node runs in the daemon, which records its values"


class StepBuilder:
    """Builds the steps of one file."""

    def __init__(
        self,
        source: SourceFile,
        compilation: Compilation,
        expressions: ExpressionChecker,
        composite_steps: CompositeSteps,
    ) -> None:
        self._source = source
        self._document = source.document
        self._report = source.report
        self._expressions = expressions
        self._compilation = compilation
        self._composite_steps = composite_steps
        self._node_checker = NodeChecker(source.document, source.report)
        self._own_nodes = OwnNodes(source, compilation)
        self._child_workflows = ChildWorkflows(compilation)
        self._control_flow = ControlFlow(source, expressions, self.build)

    def build(self, path: Path, steps: list[models.Step], scope: BlockScope) -> tuple[StepPlan, ...]:
        """The steps of one block, in order, without those that have errors."""
        if not self._is_within_bounds(path, steps, scope):
            return ()
        ids = scope.ids.inner() if scope.ids is not None else Ids("step", self._report)
        named = [(position, step.id) for position, step in enumerate(steps) if step.id]
        for position, taken in named:
            ids.take(taken, self._document.value_start((*path, position, "id")))
        # Both grow as steps are built, because each step sees those before it.
        visible = expr.Names(outer=scope.visible)
        unreachable = UnreachableSteps(expr.Names(taken for _, taken in named), visible)
        available = scope.available.within({"steps": visible}, unreachable.reason)
        inside = replace(scope, available=available, visible=visible, ids=ids, depth=scope.depth + 1)
        built: list[StepPlan] = []
        restoring: set[StepId] = set()
        for position, step in enumerate(steps):
            plan = self._build((*path, position), step, inside)
            if plan is not None:
                built.append(plan)
                unreachable.add_inside(plan)
                if cache_action.is_cache(step):
                    restoring.add(plan.id)
            if step.id:
                visible.add(step.id)
        self._compilation.count(self._source, path, steps=len(restoring))
        return cache_action.with_saves(built, restoring, len(steps))

    def _is_within_bounds(self, path: Path, steps: list[models.Step], scope: BlockScope) -> bool:
        if scope.depth > DEPTH_MAX:
            text = f"steps are nested more than {DEPTH_MAX - 1} levels deep"
            self._source.at_key(path, codes.BOUND, text, "move some of the steps into a separate job")
            return False
        if len(steps) > STEPS_PER_BLOCK_MAX:
            what = "the job" if scope.depth == 1 else "the block"
            text = f"{what} has {len(steps):,} steps; the limit is {STEPS_PER_BLOCK_MAX:,}"
            self._source.at_key(path, codes.BOUND, text, "split the job")
            return False
        self._compilation.count(self._source, path, steps=len(steps))
        return True

    def _build(self, path: Path, step: models.Step, scope: BlockScope) -> StepPlan | None:
        """The plan of the step at `path`; None after an error, which is reported."""
        available = self._check_expressions(path, step, scope.available)
        lints.warn_never(self._source, path, "step", step.if_)
        lints.warn_timeout(self._source, path, step.timeout_minutes, scope.timeout_minutes)
        own_secrets = secret_references.names_in(dict(step.env))
        # What is inside the step inherits its variables.
        scope = replace(
            scope,
            available=available,
            secrets=self._secrets(path, (*scope.secrets, *own_secrets)),
            variables=scope.variables | step.env.keys(),
        )
        if step.uses is not None and step.run is None and step.uses.startswith((".", *LOCAL)):
            return self._composite(path, step, scope, available)
        if step.uses is not None and step.run is None:
            own = self._own_nodes.find((*path, "uses"), step.uses)
            if own is not None:
                return self._own_node(path, step, own, scope, available)
        if step.uses is not None and step.run is None and checkout_action.is_checkout(step.uses):
            return self._checkout(path, step, scope, available)
        node = self._node(path, step)
        if node is None:
            return None
        if node.name in models.CONTROL_FLOW:
            self._check_engine_keys(path, step, node.name)
            parts = self._control_flow.parts(path, node.name, available.without_secrets(_NO_SECRETS), scope)
            if parts is None:
                return None
            return msgspec.structs.replace(self._plain(path, step, node.name, scope), params=parts[0], blocks=parts[1])
        if node.runs_in is node_schema.RunsIn.ENGINE:
            self._check_engine_keys(path, step, node.name)
        if node.name == WORKFLOW_RUN:
            self._child_workflows.check(self._source, path, step.with_)
        is_engine = node.runs_in is node_schema.RunsIn.ENGINE
        self._expressions.value(
            (*path, "with"),
            step.with_,
            available.without_secrets(_NO_SECRETS) if is_engine else available.with_secrets,
        )
        params, script_env = self._params(path, step, node, scope)
        run_path: Path = (*path, "run") if step.run is not None else (*path, "with", "run")
        lints.warn_github_variables(self._source, run_path, params.get("run"), scope.variables)
        lints.warn_state_commands(self._source, run_path, params.get("run"))
        secrets = (*scope.secrets, *secret_references.names_in(params), *secret_references.names_in(dict(script_env)))
        is_script = node.name == "shell"
        plan = self._plain(path, step, node.name, scope)
        lints.warn_repeat(self._source, path, node.name, params, plan.retry)
        return msgspec.structs.replace(
            plan,
            params=params,
            env={**step.env, **script_env},
            working_directory=plan.working_directory or (scope.defaults.working_directory if is_script else None),
            secrets=tuple(dict.fromkeys(secrets)),
            is_unsafe=step.unsafe_interpolation and not expr.is_static(params.get("run")),
        )

    def _secrets(self, path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
        """The secrets in the environment of a step, without duplicates; none when there are too many, which is reported."""
        found = tuple(dict.fromkeys(names)) if names else names
        if len(found) <= SECRETS_PER_STEP_MAX:
            return found
        text = f"the step has {len(found):,} secrets in its environment; the limit is {SECRETS_PER_STEP_MAX}"
        self._source.at_key(path, codes.BOUND, text, "define them in the env of the steps that need them")
        return ()

    def _composite(self, path: Path, step: models.Step, scope: BlockScope, available: Availability) -> StepPlan | None:
        assert step.uses is not None
        # An input with a secret holds a reference to it, which is filled in where the input is used.
        self._expressions.value((*path, "with"), step.with_, available.with_secrets)
        self._check_engine_keys(path, step, "a composite step")
        parts = self._composite_steps.parts(self._source, path, step.uses, step.with_, scope.depth)
        if parts is None:
            return None
        self._check_computed(path, step, parts, available)
        if scope.checkouts is not None and reads_own_files(parts.steps):
            scope.checkouts.require_repository(path)
        secrets = tuple(dict.fromkeys((*scope.secrets, *secret_references.names_in(parts.arguments))))
        steps = tuple(with_secrets(inner, secrets) for inner in parts.steps)
        return msgspec.structs.replace(
            self._plain(path, step, COMPOSITE, scope),
            params=parts.arguments,
            inputs=parts.inputs,
            outputs=parts.outputs,
            folder=parts.folder,
            blocks=(BlockPlan(name="steps", steps=steps),),
        )

    def _checkout(self, path: Path, step: models.Step, scope: BlockScope, available: Availability) -> StepPlan:
        self._expressions.value((*path, "with"), step.with_, available.with_secrets)
        self._refuse_script_keys(path, step, "actions/checkout")
        wish = checkout_action.wish(self._source, (*path, "with"), step.with_)
        if scope.checkouts is None:
            refuse_in_composite(self._source, (*path, "with"), wish)
        else:
            scope.checkouts.add_step(path, wish)
        plan = self._plain(path, step, checkout_action.NODE, scope)
        return msgspec.structs.replace(plan, params=checkout_action.parameters(wish), env={}, secrets=())

    def _check_computed(self, path: Path, step: models.Step, parts: CompositeUse, available: Availability) -> None:
        """Reports values that only the server knows, and with which the composite step computes."""
        values = composite_values.values_of_caller(parts.arguments, available.server_env)
        for context, name in sorted(composite_values.computed(parts.steps, parts.outputs, values)):
            hint = "let it pass the value on to its scripts through env, and compute there"
            if context == "inputs":
                key = next((key for key in step.with_ if key.lower() == name), None)
                # Not given: its default.
                at = (*path, "uses") if key is None else (*path, "with", key)
                what = f"its input {quote(key or name)}"
            else:
                own = next((key for key in step.env if key.lower() == name), None)
                at = (*path, "uses") if own is None else (*path, "env", own)
                what = f"env.{own or name}"
            text = f"the composite step computes with {what}, whose value only the server knows"
            self._source.at_key(at, codes.WRONG_SECRET, text, hint)

    def _own_node(
        self, path: Path, step: models.Step, node: OwnNode, scope: BlockScope, available: Availability
    ) -> StepPlan:
        self._expressions.value((*path, "with"), step.with_, available.with_secrets)
        self._refuse_script_keys(path, step, node.name)
        parameters: dict[str, Any] = dict(step.with_)
        params = self._own_nodes.parameters((*path, "with") if step.has("with_") else path, node, parameters)
        secrets = tuple(dict.fromkeys((*scope.secrets, *secret_references.names_in(params))))
        return msgspec.structs.replace(self._plain(path, step, node.name, scope), params=params, secrets=secrets)

    def _refuse_script_keys(self, path: Path, step: models.Step, node: str) -> None:
        for key, is_set in (("shell", step.shell is not None), ("unsafe-interpolation", step.unsafe_interpolation)):
            if is_set:
                text = f"{key} is only valid for a script (run), not for {node}"
                self._source.at_key((*path, key), codes.EXCLUSIVE_KEYS, text, "remove it")

    def _plain(self, path: Path, step: models.Step, node: str, scope: BlockScope) -> StepPlan:
        """The plan of a step without the part that depends on its node."""
        return StepPlan(
            id=StepId(step.id or str(int(path[-1]) + 1)),
            is_named=step.id is not None,
            name=step.name or _default_name(step),
            node=node,
            env=dict(step.env),
            condition=step.if_,
            working_directory=step.working_directory,
            timeout_minutes=step.timeout_minutes,
            continue_on_error=step.continue_on_error,
            retry=self._retry(path, step),
            on_lost=OnLost(step.on_lost),
            stop=StopPolicy(signal=step.stop.signal, grace_ms=step.stop.grace),
            output_bytes_max=step.output_max_bytes,
            limits=_limits(step.limits),
            secrets=() if node in models.CONTROL_FLOW else scope.secrets,
            line=self._source.line(path),
        )

    def _check_engine_keys(self, path: Path, step: models.Step, node: str) -> None:
        for key in step.present_keys():
            reason = _PROCESS_KEYS.get(key)
            if key in _RETRY_KEYS and node == WORKFLOW_RUN:
                continue
            if node == "approval" and key == "timeout-minutes":
                reason = "set timeout under with instead"
            if reason is not None:
                text = f"{key} is not valid for {node}: {reason}"
                self._source.at_key((*path, key), codes.EXCLUSIVE_KEYS, text, "remove it")

    def _check_expressions(self, path: Path, step: models.Step, outer: Availability) -> Availability:
        """Checks the expressions of a step's keys; returns what they may use, which includes the step's own `env`."""
        available = replace(outer, server_env=server_values.variables_with(step.env, outer.server_env))
        self._expressions.condition((*path, "if"), step.if_, available)
        check_variable_names((*path, "env"), step.env, self._document, self._report)
        check_working_directory(self._source, (*path, "working-directory"), step.working_directory)
        self._expressions.value((*path, "env"), dict(step.env), outer.with_secrets)
        self._expressions.value(
            (*path, "run"), step.run, available if step.unsafe_interpolation else available.with_secrets
        )
        for key, value in (
            ("name", step.name),
            ("working-directory", step.working_directory),
            ("timeout-minutes", step.timeout_minutes),
            ("continue-on-error", step.continue_on_error),
        ):
            self._expressions.value((*path, key), value, available)
        return available

    def _node(self, path: Path, step: models.Step) -> node_schema.NodeSchema | None:
        if step.run is not None and step.uses is not None:
            text = "a step has either run or uses, not both"
            self._report.add(
                self._document.key_start((*path, "uses")), codes.EXCLUSIVE_KEYS, text, "split it into two steps"
            )
            return None
        if step.run is not None:
            return node_schema.BUILT_IN["shell"]
        if step.uses is not None:
            return self._node_checker.find((*path, "uses"), step.uses)
        node, _ = self._document.find(path)
        if not self._report.has_within(node.start, node.end):
            text = "a step requires run or uses"
            self._report.add(node.start, codes.EXCLUSIVE_KEYS, text, "add run with a script, or uses with a node")
        return None

    def _params(
        self, path: Path, step: models.Step, node: node_schema.NodeSchema, scope: BlockScope
    ) -> tuple[dict[str, Json], dict[str, str]]:
        """The node's parameters, and the variables that a script needs for its expressions."""
        is_script = node.name == "shell"
        if not is_script and node.runs_in is not node_schema.RunsIn.ENGINE:
            self._refuse_script_keys(path, step, node.name)
        parameters: dict[str, Any] = dict(step.with_)
        if step.run is None:
            params = self._node_checker.parameters((*path, "with") if step.has("with_") else path, node, parameters)
        else:
            params = {"run": step.run}
            if step.has("with_"):
                text = "with is only valid with uses, not with run"
                hint = "pass values to the script through env"
                self._report.add(self._document.key_start((*path, "with")), codes.EXCLUSIVE_KEYS, text, hint)
        if not is_script:
            return params, {}
        if scope.defaults.shell is not None and step.shell is None and "shell" not in params:
            params = {**params, "shell": scope.defaults.shell}
        return self._script(path, step, params, scope.available)

    def _script(
        self, path: Path, step: models.Step, params: dict[str, Json], available: Availability
    ) -> tuple[dict[str, Json], dict[str, str]]:
        if step.shell is not None:
            if "shell" in params:
                text = "shell is given twice: here and under with"
                self._report.add(
                    self._document.key_start((*path, "shell")), codes.EXCLUSIVE_KEYS, text, "remove one of them"
                )
            params = {**params, "shell": step.shell}
        source, shell = params.get("run"), params.get("shell") or _DEFAULT_SHELL
        if not isinstance(source, str) or not isinstance(shell, str):
            return params, {}
        if step.shell is not None:
            self._expressions.text((*path, "shell"), shell, available)
            check_shell(self._source, (*path, "shell"), shell, available)
        elif "shell" in step.with_:
            check_shell(self._source, (*path, "with", "shell"), shell, available)
        # The same script for each value of an expression is better than none.
        shell = expr.common_shell(constant_texts(shell, available) or ()) or shell
        run_path: Path = (*path, "run") if step.run is not None else (*path, "with", "run")
        script = self._expressions.script(run_path, source, shell, available, unsafe=step.unsafe_interpolation)
        if script is None:
            return params, {}
        return {**params, "run": script.text}, dict(script.env)

    def _retry(self, path: Path, step: models.Step) -> RetryPolicy | None:
        if step.retry is not None and step.retry_strategy is not None:
            text = "retry-strategy is an alias of retry; only one of them may be given"
            self._report.add(
                self._document.key_start((*path, "retry-strategy")), codes.EXCLUSIVE_KEYS, text, "remove one of them"
            )
        key = "retry" if step.retry is not None else "retry-strategy"
        return retry_policy(self._source, (*path, key), step.retry or step.retry_strategy)


def _limits(limits: models.Limits) -> LimitsPlan | None:
    plan = LimitsPlan(memory_bytes=limits.memory, processes=limits.processes, cpu_percent=limits.cpu)
    return None if plan == LimitsPlan() else plan


def _default_name(step: models.Step) -> str:
    """GitHub's rule: the first line of the script, or the node."""
    if step.run is None:
        return (step.uses or "").removesuffix("@v1")
    first = next(iter(step.run.lstrip()[:_FIRST_LINE_CHARACTERS_MAX].splitlines()), "").rstrip()
    # Names are rendered; a name made of script source must not be.
    readable = without_expressions(first)
    return f"Run {readable[:_SCRIPT_NAME_CHARACTERS_MAX]}" + (
        "..." if len(readable) > _SCRIPT_NAME_CHARACTERS_MAX else ""
    )
