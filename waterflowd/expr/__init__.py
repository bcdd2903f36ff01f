"""Expressions: `${{ ... }}` from text to value, and scripts in which an expression is data, never code.

The language is GitHub's, with its coercions, plus arithmetic on numbers and a few functions. The data flow, one module
for each arrow:

    source ─lexer─▶ tokens ─parser─▶ nodes ─scope─▶ errors and references
                                        ├─evaluation (values, functions, json_text)─▶ value, for an Env
                                        └─explain─▶ source with its values, for people
    text with ${{ }} ─template─▶ value or text          script ─scripts─▶ script + environment

Rules of the package:

- Pure: what an expression can see is in its `Env`, so the same `Env` gives the same value at every replay.
- Total: whatever a hostile author wrote, parsing raises only ExpressionError, and so does evaluation if the contexts
  contain JSON values. No source makes Python recurse deeply.
- Bounded: 8 KiB of source, 64 levels, 1 MiB of result; no function builds more than that, not even temporarily.
- Text that an expression yields is never parsed again.

Every error has a code of `errors.CODES` and a character offset in the parsed text.
"""

from waterflowd.expr.env import Env, Status
from waterflowd.expr.errors import CODES, ExpressionError
from waterflowd.expr.evaluation import evaluate, evaluate_condition
from waterflowd.expr.explain import explain, unparse
from waterflowd.expr.functions import FUNCTIONS, PLAIN_FUNCTIONS, STATUS_FUNCTIONS
from waterflowd.expr.nodes import Binary, Call, Context, Filter, Index, Literal, Logical, Node, Not
from waterflowd.expr.parser import parse
from waterflowd.expr.scope import Names, Scope, check, references
from waterflowd.expr.scripts import Constant, FindConstant, Script, check_script, common_shell, lower_script
from waterflowd.expr.template import (
    EmbeddedExpression,
    Template,
    is_static,
    is_success_implied,
    parse_condition,
    parse_template,
    render,
)
from waterflowd.expr.values import Value, is_truthy, to_number, to_text

__all__ = [
    "CODES",
    "FUNCTIONS",
    "PLAIN_FUNCTIONS",
    "STATUS_FUNCTIONS",
    "Binary",
    "Call",
    "Constant",
    "Context",
    "Env",
    "ExpressionError",
    "Filter",
    "FindConstant",
    "Index",
    "Literal",
    "Logical",
    "Names",
    "Node",
    "Not",
    "EmbeddedExpression",
    "Scope",
    "Script",
    "Status",
    "Template",
    "Value",
    "check",
    "check_script",
    "common_shell",
    "evaluate",
    "evaluate_condition",
    "explain",
    "is_static",
    "is_success_implied",
    "is_truthy",
    "lower_script",
    "parse",
    "parse_condition",
    "parse_template",
    "references",
    "render",
    "to_number",
    "to_text",
    "unparse",
]
