"""Script safety: an expression in `run` is data, never code.

In a script for bash or sh, each expression becomes an environment variable, and the script gets a reference to that
variable with the quoting its context needs (shell/scanner.py determines the context). Where no reference is safe, the error
contains the `env:` lines that fix it. A script for another interpreter may contain no expressions, except constants of
the workflow file made of characters that are special nowhere.

`Script.env` holds each variable's `${{ }}` source; the caller renders it with `to_text`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from waterflowd.expr.errors import UNSAFE_EXPRESSION, ExpressionError
from waterflowd.expr.nodes import Literal, Node
from waterflowd.expr.scope import ANY, references
from waterflowd.expr.shell.scanner import Scanner
from waterflowd.expr.template import EmbeddedExpression, Template, parse_template
from waterflowd.expr.values import ARRAY, OBJECT, Value, kind_of, to_text

#: Returns the value of an expression that is constant in its workflow file, such as a matrix value or an id; else None.
Constant = Callable[[Node], Value]

#: Variables are numbered from 1.
VARIABLE_PREFIX = "WF_EXPR_"

_PASTEABLE = re.compile(r"[A-Za-z0-9._/:@-]*")
_POSIX_SHELLS = frozenset({"bash", "sh", "dash", "ash"})

_READING = {
    "python": 'os.environ["{0}"]',
    "python3": 'os.environ["{0}"]',
    "pwsh": "$env:{0}",
    "powershell": "$env:{0}",
    "node": "process.env.{0}",
    "ruby": 'ENV["{0}"]',
    "perl": "$ENV{{{0}}}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script without unsafe expressions, and its variables: name to `${{ }}` source."""

    text: str
    env: Mapping[str, str] = field(default_factory=dict)


def lower_script(text: str, shell: str, *, unsafe: bool = False, constant: Constant | None = None) -> Script:
    """Return the script with every expression turned into data.

    `shell` is a name or a command line such as `bash -e {0}`. With `unsafe` the text is returned unchanged, as a template
    in which values are pasted. Raises ExpressionError for the first expression without a safe reference.
    """
    template = parse_template(text)
    if unsafe or not template.expressions:
        return Script(text=text)
    lowering = _Lowering(template, shell, constant)
    if lowering.errors:
        raise lowering.errors[0]
    return lowering.script


def check_script(text: str, shell: str, *, constant: Constant | None = None) -> list[ExpressionError]:
    """Return an error for each expression without a safe reference; raises ExpressionError if a template is malformed."""
    template = parse_template(text)
    return _Lowering(template, shell, constant).errors if template.expressions else []


def interpreter(shell: str) -> str:
    """Return the program of a `shell`, such as `bash` for `/bin/bash -e {0}`."""
    words = shell.split()
    return words[0].rsplit("/", 1)[-1] if words else ""


class _Lowering:
    """The conversion of one script; `script` is only meaningful when there are no errors."""

    def __init__(self, template: Template, shell: str, constant: Constant | None) -> None:
        self._shell = interpreter(shell)
        self._constant = constant
        self._text = template.text
        self._names: dict[str, str] = {}
        self.errors: list[ExpressionError] = []
        lowered = self._lowered(template)
        self.script = Script(text=lowered, env={name: f"${{{{ {source} }}}}" for source, name in self._names.items()})

    def _lowered(self, template: Template) -> str:
        pasted = {
            expression.start: text
            for expression in template.expressions
            if (text := self._pasted(expression)) is not None
        }
        unresolved = tuple(expression for expression in template.expressions if expression.start not in pasted)
        replacements = dict(pasted)
        if self._shell in _POSIX_SHELLS:
            scanner = Scanner(template.text, template.expressions, frozenset(pasted))
            scanner.scan()
            for expression in unresolved:
                reference = scanner.references.get(expression.start, "${%s}")
                replacements[expression.start] = reference % self._variable(expression)
            self.errors.extend(self._unsafe(expression, location) for expression, location in scanner.unsafe_uses)
        else:
            location = f"the source of {self._shell or 'an unknown interpreter'}"
            self.errors.extend(self._unsafe(expression, location) for expression in unresolved)
        return "".join(part if isinstance(part, str) else replacements.get(part.start, "") for part in template.parts)

    def _pasted(self, expression: EmbeddedExpression) -> str | None:
        """Return the text of an expression that is safe to paste anywhere, else None."""
        if isinstance(expression.node, Literal):
            value: Value = expression.node.value
        else:
            value = self._constant(expression.node) if self._constant else None
            if value is None:
                return None
        text = None if kind_of(value) in (ARRAY, OBJECT) else to_text(value)
        return text if text is not None and _PASTEABLE.fullmatch(text) else None

    def _variable(self, expression: EmbeddedExpression) -> str:
        source = expression.source.strip()
        if source not in self._names:
            self._names[source] = f"{VARIABLE_PREFIX}{len(self._names) + 1}"
        return self._names[source]

    def _unsafe(self, expression: EmbeddedExpression, location: str) -> ExpressionError:
        name = _variable_name(expression.node)
        reading = _READING.get(
            self._shell, '"${0}"' if self._shell in _POSIX_SHELLS else "the environment variable {0}"
        )
        text = (
            f"the expression is in {location}; assign it to a variable and check the value before you use it there:\n"
            f"  env:\n    {name}: ${{{{ {expression.source.strip()} }}}}\n"
            f"and read it as {reading.format(name)}"
        )
        return ExpressionError(UNSAFE_EXPRESSION, text, expression.start)


def _variable_name(node: Node) -> str:
    """Return a variable name for an expression, made from the last name it refers to."""
    for path, _ in references(node):
        names = [part for part in path if part != ANY and part.lower() != "outputs"]
        name = re.sub(r"[^A-Z0-9]+", "_", names[-1].upper()).strip("_")
        if name:
            return name if name[0].isalpha() else f"VALUE_{name}"
    return "VALUE"
