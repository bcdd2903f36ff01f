"""Control flow: the nodes `condition`, `loop`, `parallel` and `approval`, which the engine runs itself.

Rules of this file: each node has a model of its `with`, so inner steps are checked like all other steps. The steps of a block
see earlier steps of the block and of the enclosing blocks; from outside, only the outputs of the node are visible. In the plan,
`blocks` hold the steps and `params` the rest.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import contexts
from waterflowd.dsl.building.block_scope import BlockScope, BuildBlock
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.models.control_flow import (
    CONTROL_FLOW,
    ApprovalParameters,
    ConditionParameters,
    LoopParameters,
    ParallelParameters,
)
from waterflowd.dsl.models.validation import validate
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import describe, has_expression
from waterflowd.expr.functions import RANGE_ITEMS_MAX
from waterflowd.model.plan import BlockPlan, Json

NodeParts = tuple[dict[str, Json], tuple[BlockPlan, ...]]


class ControlFlow:
    """Builds the control flow nodes of one file; `build_block` builds the steps inside them."""

    def __init__(self, source: SourceFile, expressions: ExpressionChecker, build_block: BuildBlock) -> None:
        self._source = source
        self._expressions = expressions
        self._build_block = build_block

    def parts(self, path: Path, node: str, available: Availability, scope: BlockScope) -> NodeParts | None:
        """Parameters and blocks of the step at `path`; None when its `with` is invalid, which is reported."""
        at: Path = (*path, "with")
        _, key = self._source.document.find(at)
        if key is None or key.text != "with":
            if not _required(node):
                return {}, ()
            text = f"{node} requires parameters"
            self._source.at_value(path, codes.WRONG_PARAMETER, text, f"add with: and {' '.join(_required(node))}")
            return None
        found = validate(self._source.document, self._source.report, CONTROL_FLOW[node], at)
        match found:
            case ConditionParameters():
                return self._condition(at, found, available, scope)
            case LoopParameters():
                return self._loop(at, found, available, scope)
            case ParallelParameters():
                return self._parallel(at, found, available, scope)
            case ApprovalParameters():
                return self._approval(at, found, available), ()
        return None

    def _block(self, name: str, path: Path, steps: list[models.Step], scope: BlockScope) -> BlockPlan:
        return BlockPlan(name=name, steps=self._build_block(path, steps, scope))

    def _parallel(
        self, at: Path, parameters: ParallelParameters, available: Availability, scope: BlockScope
    ) -> NodeParts:
        self._expressions.value((*at, "max-parallel"), parameters.max_parallel, available)
        blocks = (
            self._block(str(number + 1), (*at, "branches", number), branch, scope)
            for number, branch in enumerate(parameters.branches)
        )
        return {} if parameters.max_parallel is None else {"max-parallel": parameters.max_parallel}, tuple(blocks)

    def _condition(
        self, at: Path, parameters: ConditionParameters, available: Availability, scope: BlockScope
    ) -> NodeParts:
        self._expressions.condition((*at, "if"), parameters.if_, available)
        blocks = [self._block("then", (*at, "then"), parameters.then, scope)]
        if parameters.else_:
            blocks.append(self._block("else", (*at, "else"), parameters.else_, scope))
        return {"if": parameters.if_}, tuple(blocks)

    def _loop(self, at: Path, parameters: LoopParameters, available: Availability, scope: BlockScope) -> NodeParts:
        params: dict[str, Json] = {}
        loop: dict[str, Any] = {"loop": contexts.FIXED["loop"]}
        if parameters.has("items") and parameters.has("while_"):
            text = "a loop has either items or while, not both"
            self._source.at_key((*at, "while"), codes.EXCLUSIVE_KEYS, text, "nest one loop inside the other")
        elif parameters.while_ is not None:
            params |= self._while(at, parameters, available.within(loop))
        else:
            params |= self._items(at, parameters, available)
            if self._is_free(at, parameters.as_, scope):
                loop[parameters.as_] = None
        inner = scope.with_loop(loop)
        return params, (self._block("steps", (*at, "steps"), parameters.steps, inner),)

    def _items(self, at: Path, parameters: LoopParameters, available: Availability) -> dict[str, Json]:
        items = parameters.items
        self._expressions.value((*at, "items"), items, available)
        self._expressions.value((*at, "max-parallel"), parameters.max_parallel, available)
        if not parameters.has("items"):
            text = "a loop requires items, or while with max-iterations"
            self._source.at_key(at, codes.WRONG_PARAMETER, text, "add items: a list, or an expression that yields one")
        elif not isinstance(items, list) and not has_expression(items):
            hint = f"write items: ${{{{ range({items}) }}}}" if isinstance(items, int) else ""
            text = f"items: expected a list, or an expression that yields one; found {describe(items)}"
            self._source.at_value((*at, "items"), codes.WRONG_PARAMETER, text, hint)
        elif isinstance(items, list) and len(items) > RANGE_ITEMS_MAX:
            text = f"the loop has {len(items):,} items; the limit is {RANGE_ITEMS_MAX:,}"
            self._source.at_key((*at, "items"), codes.BOUND, text)
        if parameters.has("max_iterations"):
            text = "max-iterations is only valid with while; a loop over items ends after the last one"
            self._source.at_key((*at, "max-iterations"), codes.EXCLUSIVE_KEYS, text, "remove it")
        return {"items": plain(items), "as": parameters.as_, "max-parallel": parameters.max_parallel}

    def _while(self, at: Path, parameters: LoopParameters, available: Availability) -> dict[str, Json]:
        sentence = "the step {0} runs inside the loop; write the value to $WATERFLOW_ENV there, and use env"
        inside = expr.Names(step.id for step in parameters.steps if step.id)

        def reason(context: str, name: str) -> str | None:
            step = inside.get(name) if context == "steps" else None
            return sentence.format(quote(step)) if step is not None else None

        self._expressions.condition((*at, "while"), parameters.while_, available.within({}, reason))
        self._expressions.value((*at, "max-iterations"), parameters.max_iterations, available)
        if parameters.max_iterations is None:
            text = "a loop with while requires max-iterations, so that it always ends"
            self._source.at_key((*at, "while"), codes.WRONG_PARAMETER, text, "add max-iterations: 100")
        for key, field in (("as", "as_"), ("max-parallel", "max_parallel")):
            if parameters.has(field):
                text = f"{key} is only valid with items; the passes of while have no item and run one after another"
                self._source.at_key((*at, key), codes.EXCLUSIVE_KEYS, text, "remove it")
        return {"while": parameters.while_, "max-iterations": parameters.max_iterations}

    def _is_free(self, at: Path, name: str, scope: BlockScope) -> bool:
        """Whether `as` is a valid name that no context has yet."""
        as_path: Path = (*at, "as")
        if not name.replace("-", "_").isidentifier() or not name.isascii():
            text = f"as: {quote(name)} is not a valid name: use letters, digits, _ and -, and begin with a letter or _"
            self._source.at_value(as_path, codes.WRONG_ID, text)
        elif name.lower() in contexts.KNOWN or name.lower() == "github":
            text = f"as: {quote(name)} is the name of a context"
            self._source.at_value(as_path, codes.WRONG_ID, text, "choose another name")
        elif name.lower() in {loop.lower() for loop in scope.loops}:
            text = f"as: an enclosing loop already uses the name {quote(name)}"
            self._source.at_value(as_path, codes.WRONG_ID, text, "set another name with as")
        else:
            return True
        return False

    def _approval(self, at: Path, parameters: ApprovalParameters, available: Availability) -> dict[str, Json]:
        params: dict[str, Json] = {}
        for key in parameters.present_keys():
            params[key] = getattr(parameters, key)
            self._expressions.value((*at, key), params[key], available)
        if parameters.has("default") and not parameters.has("timeout"):
            text = "default is the decision after the timeout, but there is no timeout"
            self._source.at_key((*at, "default"), codes.EXCLUSIVE_KEYS, text, "add timeout, such as timeout: 2d")
        people = parameters.approvers
        if (
            people
            and expr.is_static(list(people))
            and isinstance(parameters.minimum, int)
            and parameters.minimum > len(people)
        ):
            text = f"minimum: {parameters.minimum} approvals are required, but `approvers` lists only {len(people)}"
            self._source.at_value((*at, "minimum"), codes.WRONG_PARAMETER, text)
        return params


def _required(node: str) -> list[str]:
    """The required keys of a node, as they are written."""
    required = [str(field.alias) for field in CONTROL_FLOW[node].model_fields.values() if field.is_required()]
    return [f"{name}: ..." for name in (required if node != "loop" else ["items", *required])]
