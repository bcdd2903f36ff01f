"""Errors of expressions, and their positions.

Every error has one of the codes below and a character offset in the text: the source
for `parse`, the whole text for `parse_template`, `parse_condition` and scripts. The caller, which knows the file,
turns the offset into line and column. `suggestion` is the name that the author probably meant; the text does not repeat it.
"""

from __future__ import annotations

from waterflow_agent.errors import Rejected

SYNTAX = "WF120"
BOUND = "WF121"
UNKNOWN_CONTEXT = "WF122"
UNKNOWN_FUNCTION = "WF123"
WRONG_ARITY = "WF124"
UNKNOWN_NAME = "WF125"
WRONG_VALUE = "WF126"
UNTERMINATED = "WF127"
UNSAFE_EXPRESSION = "WF128"
NOT_HERE = "WF129"

#: Every code of this package and its meaning; codes are stable.
CODES: dict[str, str] = {
    SYNTAX: "the text is not a valid expression",
    BOUND: "an expression, its depth, or its result is too large",
    UNKNOWN_CONTEXT: "a context does not exist or is not available here",
    UNKNOWN_FUNCTION: "a function does not exist or is not available here",
    WRONG_ARITY: "a function was called with too few or too many arguments",
    UNKNOWN_NAME: "a step, job, input or other name below a context does not exist",
    WRONG_VALUE: "an operator or a function got a value that it cannot use",
    UNTERMINATED: "`${{` without its `}}`",
    UNSAFE_EXPRESSION: "an expression in a script where its value could be executed as code",
    NOT_HERE: "a value that is not available here, such as the status outside of `if`",
}


class ExpressionError(Rejected):
    """An error of an expression; `offset` is its position in the parsed text, in characters from 0."""

    def __init__(self, code: str, text: str, offset: int, *, suggestion: str | None = None) -> None:
        super().__init__(code, text)
        self.offset = offset
        self.suggestion = suggestion

    def __str__(self) -> str:
        hint = f' (did you mean "{self.suggestion}"?)' if self.suggestion else ""
        return f"{self.text}{hint} [{self.code}]"

    def moved(self, distance: int) -> ExpressionError:
        """Return the same error for a text in which the source starts `distance` characters later."""
        return ExpressionError(self.code, self.text, self.offset + distance, suggestion=self.suggestion)
