"""Script safety: an expression in `run` is data, never code.

In a script for bash or sh, each expression becomes an environment variable, and the script gets a reference to that
variable with the quoting its context needs (shell/scanner.py determines the context). Where no reference is safe, the error
contains the `env:` lines that fix it. A script for another interpreter may contain no such expressions.

Constants of the workflow file, such as matrix values, are the author's own text and are pasted as on GitHub: one with a
single text at once, the others when the caller renders the script. The script is scanned with every text that they may have.

`Script.env` holds each variable's `${{ }}` source; the caller renders it with `to_text`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from waterflowd.expr.errors import UNSAFE_EXPRESSION, ExpressionError
from waterflowd.expr.nodes import Literal, Node
from waterflowd.expr.scope import ANY, references
from waterflowd.expr.shell.scanner import BARE, Scanner
from waterflowd.expr.template import OPEN, EmbeddedExpression, Template, parse_template
from waterflowd.expr.values import to_text


@dataclass(frozen=True, slots=True)
class Constant:
    """An expression whose value strangers cannot choose, and every text that it may have.

    `texts` is None for values that only the run knows, such as its id or its commit: they consist of harmless characters.
    """

    texts: tuple[str, ...] | None = None


#: Returns the constant that an expression is in its workflow file; None for any other expression.
FindConstant = Callable[[Node], Constant | None]

#: Variables are numbered from 1.
VARIABLE_PREFIX = "WF_EXPR_"

#: The script is scanned once for each combination of constants with special characters; beyond this, they become variables.
_SCANS_MAX = 64
_SCANNED_CHARACTERS_MAX = 1 << 20

_HARMLESS = re.compile(r"[A-Za-z0-9._/:@-]*")
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


def lower_script(text: str, shell: str, *, unsafe: bool = False, constant: FindConstant | None = None) -> Script:
    """Return the script with every expression turned into data, except for constants.

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


def check_script(text: str, shell: str, *, constant: FindConstant | None = None) -> list[ExpressionError]:
    """Return an error for each expression without a safe reference; raises ExpressionError if a template is malformed."""
    template = parse_template(text)
    return _Lowering(template, shell, constant).errors if template.expressions else []


def interpreter(shell: str) -> str:
    """Return the program of a `shell`, such as `bash` for `/bin/bash -e {0}`."""
    words = shell.split()
    return words[0].rsplit("/", 1)[-1] if words else ""


def common_shell(shells: Collection[str]) -> str | None:
    """Return a shell for which a script is the same as for each of these; None if there is none.

    Empty text is the default shell.
    """
    programs = {interpreter(shell) or "bash" for shell in shells}
    if programs and programs <= _POSIX_SHELLS:
        return "bash"
    return next(iter(shells)) if len(programs) == 1 else None


class _Lowering:
    """The conversion of one script; `script` is only meaningful when there are no errors."""

    def __init__(self, template: Template, shell: str, constant: FindConstant | None) -> None:
        self._shell = interpreter(shell)
        self._template = template
        self._constants = _constants(template, constant)
        self._names: dict[str, str] = {}
        self.errors: list[ExpressionError] = []
        lowered = self._lowered()
        self.script = Script(text=lowered, env={name: f"${{{{ {source} }}}}" for source, name in self._names.items()})

    def _lowered(self) -> str:
        references: Mapping[int, str] = {}
        if self._shell in _POSIX_SHELLS:
            references = self._references()
        else:
            is_known = self._shell and OPEN not in self._shell
            location = f"the source of {self._shell if is_known else 'an unknown interpreter'}"
            unresolved = (each for each in self._template.expressions if each.start not in self._constants)
            self.errors.extend(self._unsafe(expression, location) for expression in unresolved)
        return "".join(
            part if isinstance(part, str) else self._replacement(part, references) for part in self._template.parts
        )

    def _replacement(self, expression: EmbeddedExpression, references: Mapping[int, str]) -> str:
        constant = self._constants.get(expression.start)
        if constant is None:
            return references.get(expression.start, BARE).format(self._variable(expression))
        if constant.texts is not None and len(constant.texts) == 1 and OPEN not in constant.texts[0]:
            return constant.texts[0]
        return self._template.text[expression.start : expression.end]

    def _references(self) -> Mapping[int, str]:
        """A reference for each expression that is not a constant, the same for all texts of the constants."""
        if len(self._constants) == len(self._template.expressions):
            return {}
        special = {start: texts for start, found in self._constants.items() if (texts := _special(found))}
        count = math.prod(len(texts) for texts in special.values())
        scans: list[_Scan] = []
        if count <= _SCANS_MAX and count * len(self._template.text) <= _SCANNED_CHARACTERS_MAX:
            scans = [_scan(variant, self._constants.keys()) for variant in _variants(self._template, special)]
        if not scans or any(scan.references != scans[0].references for scan in scans):
            # Too many to scan, or a constant that changes the quoting of other expressions.
            for start in special:
                del self._constants[start]
            scans = [_scan(_Variant.of(self._template), self._constants.keys())]
        unsafe = {start: found for scan in reversed(scans) for start, found in scan.unsafe.items()}
        self.errors.extend(self._unsafe(*unsafe[start]) for start in sorted(unsafe))
        return scans[0].references

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


def _constants(template: Template, constant: FindConstant | None) -> dict[int, Constant]:
    """The constants among the expressions of a script, by their start."""
    found: dict[int, Constant] = {}
    for expression in template.expressions:
        if isinstance(expression.node, Literal):
            found[expression.start] = Constant((to_text(expression.node.value),))
        elif constant is not None and (known := constant(expression.node)) is not None:
            found[expression.start] = known
    return found


def _special(constant: Constant) -> Sequence[str]:
    """The texts of a constant if any has characters that a shell could interpret; else none."""
    texts = constant.texts or ()
    return () if all(_HARMLESS.fullmatch(text) for text in texts) else texts


@dataclass(frozen=True, slots=True)
class _Variant:
    """A script with one text for each constant that has special characters: the other expressions with their new positions."""

    text: str
    #: The expressions of the variant and those of the script.
    expressions: tuple[tuple[EmbeddedExpression, EmbeddedExpression], ...]

    @classmethod
    def of(cls, template: Template, pasted: Mapping[int, str] | None = None) -> _Variant:
        pieces: list[str] = []
        expressions: list[tuple[EmbeddedExpression, EmbeddedExpression]] = []
        position = 0
        for part in template.parts:
            piece = part if isinstance(part, str) else (pasted or {}).get(part.start)
            if piece is None:
                assert isinstance(part, EmbeddedExpression)
                piece = template.text[part.start : part.end]
                expressions.append((EmbeddedExpression(part.node, part.source, position, position + len(piece)), part))
            pieces.append(piece)
            position += len(piece)
        return cls("".join(pieces), tuple(expressions))


def _variants(template: Template, special: Mapping[int, Sequence[str]]) -> Iterator[_Variant]:
    for texts in itertools.product(*special.values()):
        yield _Variant.of(template, dict(zip(special, texts, strict=True)))


@dataclass(frozen=True, slots=True)
class _Scan:
    """The references of a variant, and its unsafe expressions with their location, by the start in the script."""

    references: dict[int, str]
    unsafe: dict[int, tuple[EmbeddedExpression, str]]


def _scan(variant: _Variant, constants: Collection[int]) -> _Scan:
    original = {moved.start: written for moved, written in variant.expressions}
    harmless = frozenset(start for start, written in original.items() if written.start in constants)
    scanner = Scanner(variant.text, [moved for moved, _ in variant.expressions], harmless)
    scanner.scan()
    return _Scan(
        {
            written.start: scanner.references[start]
            for start, written in original.items()
            if start in scanner.references
        },
        {original[found.start].start: (original[found.start], location) for found, location in scanner.unsafe_uses},
    )
