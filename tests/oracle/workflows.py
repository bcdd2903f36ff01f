"""Generates workflows whose scripts use expressions in every position, with values of every kind.

Each script exists three times: with `${{ }}`, and in the two forms in which it may run here (docs/workflows.md). In one form,
each expression is a quoted variable; in the other, constants of the file are pasted as text. The results of the three differ
only where the text of a value would be code, or a part of the shell's syntax.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

#: Values without a character that a shell interprets, except blanks.
PLAIN = [
    *("x", "v1.2.3", "feature/login-form", "a b", "--all --release", "-n", "--", "-", "", "0", "007", "true", "null"),
    *("key=value", "a,b:c@d%e+f", "  padded  ", "héllo", "日本 語", "0123456789abcdef0123456789abcdef01234567"),
    *("https://example.org/x?", "a" * 300, "👍 ok"),
]
#: Values that a shell interprets in some positions. What they would run is harmless.
SPECIAL = [
    *("it's", 'say "hi"', "$HOME", "${HOME}", "$(echo run)", "`echo run`", "a;echo b", "a|cat", "a & b", "a&&b"),
    *("*", "?.txt", "[ab]*", "{a,b}", "#c", "a #c", "line1\nline2", "trailing\n", "\nleading", "back\\slash", "a\\"),
    *(
        "a>b",
        "(x)",
        "!x",
        "~",
        "~/x",
        "tab\there",
        "EOF",
        "x\nEOF\ny",
        "$",
        "'",
        '"',
        "%s\\n",
        "-e a\\nb",
        "$'a'",
    ),
]

#: Each `@` is an expression. The letter after it names its position: b bare, q in double quotes or a here-document, s in single
#: quotes, a assignment, r redirection, p pattern, t operand of `[ ]`, c comment, n arithmetic, h here-document with a quoted
#: delimiter.
LINES = [
    *(
        "args @b",
        "args @b @b",
        "args --name=@b",
        "args x@b@b-y",
        'args "@q"',
        'args "a @q b"',
        'args "@q@q"',
        "args '@s'",
    ),
    *(
        "args 'a @s b'",
        "args 'it'\"'\"'s @s'",
        'args "$(printf %s "@q")"',
        "args $(printf %s @b)",
        "args `printf %s @b`",
    ),
    *('x=@a; args "$x"', 'x="@q"; args "$x"', "x='@s'; args $x", 'x=a@a-b y=@a; args "$x" "$y"', 'export X="@q"; args'),
    *('a=(@b "@q"); args "${a[@]}"', 'a=([2]="@q"); args "${!a[@]}" "${a[@]}"', 'a+=("@q"); args "${#a[@]}" "${a[@]}"'),
    *(
        "cat > f1 <<EOF\n@q\nand @q\nEOF",
        "cat > f2 <<-EOF\n\t@q\n\tEOF",
        "cat > f3 <<'EOF'\n@h\nEOF",
        'cat > f4 <<< "@q"',
    ),
    *("echo one > @r", 'echo two >> "dir-@q"', 'mkdir -p "d/@q" && touch "d/@q/file"', "printf '%s\\n' @b > words"),
    *("case x@p in xa*) args a ;; *) args other ;; esac", 'case "@q" in a*) args a ;; *) args "@q" ;; esac'),
    *("case abc in @p) args yes ;; *) args no ;; esac", 'if [ "@q" = "x" ]; then args yes; else args no; fi'),
    *("if [ @t = x ]; then args yes; else args no; fi", "if [[ '@s' == \"@q\" ]]; then args same; else args other; fi"),
    *('if [ -n "@q" ]; then args full; else args empty; fi', '[[ -z "@q" ]] && args empty || args full'),
    *('for i in @b; do args "$i"; done', 'for i in "@q" end; do args "$i"; done', 'f() { args "$@"; }; f @b "@q"'),
    *(
        "# @c\nargs after",
        "args a # @c",
        'args \\\n  @b \\\n  "@q"',
        "args $(( @n + 1 ))",
        "(( @n > 0 )) && args positive",
    ),
    *('echo "@q" | sed -n 1p > piped', "printf '%s' '@s' > exact", 'echo "name=@q" >> "$GITHUB_OUTPUT"'),
    *(
        'echo "LATER=@q" >> "$GITHUB_ENV"',
        'printf "o<<E_1\\n%s\\nE_1\\n" "@q" >> "$GITHUB_OUTPUT"',
        'set -- @b; args $# "$@"',
    ),
    *(
        'echo "$PWD/@q" >> "$GITHUB_PATH"',
        'printf "LATER<<E_1\\n%s\\nE_1\\n" "@q" >> "$GITHUB_ENV"',
        'x=${y:-@q}; args "$x"',
    ),
    *(
        'args "${nothing:-@q}"',
        "x=$'@s'; args \"$x\"",
        'args "$LATER" "$S"',
        "args $S",
        'args "${S}" "@q" \'@s\' @b',
        "! args @b",
    ),
    *(
        "(args @b; exit 3)",
        "args @b && false",
        "{ args '@s'; } > grouped 2>&1",
        'while read -r l; do args "$l"; done <<< "@q"',
    ),
    *(
        "args ${x:-@b}",
        'echo "::notice::@q"',
        "true @b || args never",
        'read -r first rest <<< "@q"; args "$first" "$rest"',
    ),
    *("ln -s '@s' link-@r", "umask 077; echo secret > 'private-@s'", "chmod +x $(echo words) 2>/dev/null || args none"),
]
#: How docs/workflows.md says that an expression in each position runs.
_DATA = {
    **dict.fromkeys("bqaprnh", "${{{0}}}"),
    "s": "'\"${{{0}}}\"'",
    "t": '${{{0}:+"${{{0}}}"}}',
    "c": "",
}
#: The characters of a value that the shell does not interpret in each position.
_INERT = {
    "b": r"[\w./:@%+=, \t?*\[\]-]*",
    "t": r"[\w./:@%+=,-]*",
    "a": r"[\w./:@%+=,?*\[\]-]*",
    "r": r"[\w./:@%+=,-]+",
    "p": r"[\w./:@%+=,?*\[\]-]+",
    "q": r"(?!.*^\s*(EOF|E_1)$)[^$`\\\"]*",
    "s": r"[^'\\]*",
    "c": r"[^\n]*",
    "n": r"\d+",
    "h": r"(?!.*^EOF$)[\s\S]*",
}
_PLACE = re.compile("@([bqsarptcnh])")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step with expressions; with a variable for each that is no constant; with a variable for each."""

    written: dict[str, Any]
    data: dict[str, Any]
    all_data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workflow whose job `work` has these steps, and the positions of each expression."""

    frame: dict[str, Any]
    steps: list[Step]
    positions: dict[str, set[str]]

    @property
    def workflow(self) -> dict[str, Any]:
        """The workflow with expressions."""
        return self._with([step.written for step in self.steps])

    def as_data(self) -> Iterator[dict[str, Any]]:
        """Yields the workflow with expressions as data; constants are, or are not, data in all of a script."""
        for steps in product(*([step.data, step.all_data] for step in self.steps)):
            yield self._with(list(steps))

    def _with(self, steps: list[dict[str, Any]]) -> dict[str, Any]:
        jobs = self.frame["jobs"]
        work = {**jobs["work"], "steps": [_BEGIN, *steps, _end(len(steps))]}
        return {**self.frame, "jobs": {**jobs, "work": work}}

    def is_interpreted(self, substituted: dict[str, set[str]]) -> bool:
        """Returns whether a shell would interpret one of the texts that expressions have."""
        return any(
            re.fullmatch(_INERT[position], text, re.DOTALL | re.MULTILINE) is None
            for source, positions in self.positions.items()
            for text in substituted.get(source, ())
            for position in positions
        )


class Writer:
    """Writes one case; `chance` makes every choice."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        #: Half of the cases have only values that mean the same as text and as data.
        self._values = PLAIN if chance.random() < 0.5 else [*PLAIN, *SPECIAL, *SPECIAL]
        self._positions: dict[str, set[str]] = {}

    def case(self) -> Case:
        """Returns a case with a job that makes outputs, and one that uses values of every context."""
        chance = self._chance
        value = self._value
        prepare = {
            "runs-on": "web",
            "outputs": {"o": "${{ steps.make.outputs.o }}"},
            "steps": [
                {
                    "id": "make",
                    "env": {"V": value()},
                    "run": 'printf "o<<END_OF_IT\\n%s\\nEND_OF_IT\\n" "$V" >> "$GITHUB_OUTPUT"',
                }
            ],
        }
        matrix = {"m": [value() for _ in range(chance.randint(1, 2))], "n": [chance.randint(0, 20)]}
        steps = [self._step(number) for number in range(1, chance.randint(2, 4) + 1)]
        work = {
            "runs-on": "web",
            "needs": "prepare",
            "strategy": {"matrix": matrix, "fail-fast": False},
            "env": {"J": value(), "RECORD": "PLACE/${{ strategy.job-index }}", "BIN": "PROGRAMS"},
        }
        head = {
            "on": {"workflow_dispatch": {"inputs": {"i": {"default": value()}, "k": {"default": value()}}}},
            "env": {"W": value()},
        }
        if chance.random() < 0.3:
            work["defaults"] = {"run": {"shell": "bash"}}
        frame = {**head, "jobs": {"prepare": prepare, "work": work}}
        return Case(frame=frame, steps=steps, positions=self._positions)

    def _value(self) -> str:
        return self._chance.choice(self._values)

    def _step(self, number: int) -> Step:
        common: dict[str, Any] = {"id": f"s{number}", "continue-on-error": True}
        env = {"S": self._chance.choice([self._value(), _expression(self._source(number))])}
        lines = [self._line(number) for _ in range(self._chance.randint(1, 4))]
        return Step(
            written={**common, "env": env, "run": "\n".join(_filled(line, _texts(places)) for line, places in lines)},
            data=_as_data(common, env, lines, is_constant_data=False),
            all_data=_as_data(common, env, lines, is_constant_data=True),
        )

    def _line(self, number: int) -> tuple[str, list[tuple[str, str]]]:
        """Returns a line, and expression and position of each of its places."""
        line = self._chance.choice(LINES)
        places = [(self._source_at(position, number), position) for position in _PLACE.findall(line)]
        for source, position in places:
            self._positions.setdefault(source, set()).add(position)
        return line, places

    def _source_at(self, position: str, number: int) -> str:
        """Returns an expression for a position; mostly a constant where anything else is an error."""
        is_refused = position in "nh" and self._chance.random() < 0.9
        return self._chance.choice(["matrix.m", "matrix.n", "'7'"]) if is_refused else self._source(number)

    def _source(self, number: int) -> str:
        """Returns an expression that the step may use."""
        simple = ["inputs.i", "inputs.k", "env.W", "env.J", "matrix.m", "matrix.n", "needs.prepare.outputs.o"]
        simple += [f"steps.s{self._chance.randrange(number)}.outputs.name", "inputs.i", "env.W"]
        one, other = self._chance.choice(simple), self._chance.choice(simple)
        return self._chance.choice(
            [
                *(one, one, one, one, one, one, one, "env.LATER", "github.job", "'a literal'", "matrix.n"),
                *(f"format('{{0}}-{{1}}', {one}, {other})", f"{one} || 'none'", f"{one} == '' && 'empty' || {other}"),
                *(f"toJSON({one})", f"join(fromJSON('[1, 2]'), {one})", f"contains({one}, 'a')", f"{one} == {other}"),
            ]
        )


#: Records the arguments of programs from here on.
_BEGIN: dict[str, Any] = {
    "id": "s0",
    "run": 'mkdir -p "$RECORD"; echo "$BIN" >> "$GITHUB_PATH"; echo "name=first" >> "$GITHUB_OUTPUT"',
}


def _end(count: int) -> dict[str, Any]:
    """Returns the last step, which has outputs, outcomes and exit codes of the others in its environment."""
    numbers = range(count + 1)
    results = {f"O{n}": f"${{{{ steps.s{n}.outputs.name }}}}|${{{{ steps.s{n}.outputs.o }}}}" for n in numbers}
    results |= {f"C{n}": f"${{{{ steps.s{n}.outcome }}}} ${{{{ steps.s{n}.exit-code }}}}" for n in numbers}
    return {"if": "always()", "env": results, "run": "end"}


def _as_data(
    common: dict[str, Any],
    env: dict[str, str],
    lines: list[tuple[str, list[tuple[str, str]]]],
    *,
    is_constant_data: bool,
) -> dict[str, Any]:
    """Returns a step with a quoted variable for each expression, except for constants."""
    names: dict[str, str] = {}
    written: list[str] = []
    for line, places in lines:
        texts = []
        for source, position in places:
            if _is_constant(source) and not is_constant_data:
                texts.append(_expression(source))
            else:
                texts.append(_DATA[position].format(names.setdefault(source, f"DATA_{len(names) + 1}")))
        written.append(_filled(line, texts))
    variables = {name: _expression(source) for source, name in names.items()}
    return {**common, "env": {**env, **variables}, "run": "\n".join(written)}


def _expression(source: str) -> str:
    return f"${{{{ {source} }}}}"


def _texts(places: list[tuple[str, str]]) -> list[str]:
    return [_expression(source) for source, _ in places]


def _filled(line: str, texts: list[str]) -> str:
    """Returns a line with a text in each of its places."""
    parts = _PLACE.split(line)[::2]
    return "".join(text + part for text, part in zip(["", *texts], parts, strict=True))


def _is_constant(source: str) -> bool:
    """Returns whether an expression only consists of what the file itself contains."""
    return re.search(r"\b(inputs|env|needs|steps)\.", source) is None


def generated(seed: int) -> Case:
    """Returns the case of a seed."""
    return Writer(random.Random(seed)).case()
