"""Random shell scripts with expressions in every position where one is allowed, and shells that run many of them at once.

A script consists of parts of one or more lines. There are three kinds of parts:

- exact: the value arrives byte for byte and is printed once, followed by a mark;
- loose: the value is unquoted, where it may split and expand to file names, and is not checked;
- noise: no expression, but quotes, comments, here-documents and brackets that could confuse a careless scanner.

Shells have bugs: if a script does not print harmless words either (`Case.reference`), it proves nothing about the values.

Exact parts nest: the next part captures the output of the previous one in a substitution. No expression is in the position
of the command, because a value that is a command would be executed there (as documented).
"""

from __future__ import annotations

import random
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from waterflowd import expr

MARK = "|END|"
#: What a value would do if it were executed.
CANARY = "touch canary"

PRELUDE = f'show() {{ printf \'%s{MARK}\' "$1"; }}\nraw() {{ printf %s "$1"; }}\n'

_PIECES = [
    *(
        "'",
        '"',
        "`",
        "$(",
        ")",
        "${",
        "}",
        "$((",
        "))",
        "\\",
        "\\\\",
        "\n",
        ";",
        "&",
        "|",
        "#",
        " ",
        "\t",
        "*",
        "?",
        "~",
        "!",
        "<",
        ">",
    ),
    *(
        "\nEOF\n",
        "\n\tEOF\n",
        "$'",
        "\\'",
        '\\"',
        "a[",
        "]",
        "[[",
        "]]",
        "((",
        "esac",
        ";;",
        "fi",
        "done",
        "{",
        "%s",
        "%n",
        "\\n",
        "-n",
    ),
    *(
        CANARY,
        f"$({CANARY})",
        f"`{CANARY}`",
        f"; {CANARY};",
        f"\n{CANARY}\n",
        f"a[$({CANARY})]",
        "touch${IFS}canary",
        "é",
        "€",
        "\r",
    ),
    *(
        "$x",
        "${HOME}",
        "$1",
        "$@",
        "${WF_EXPR_1}",
        "${{ inputs.y }}",
        "=",
        "==",
        "-eq",
        "-v",
        "1",
        "x",
        "",
        "/",
        "&&",
        "||",
        "\x7f",
        "\x01",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A script, the values of its expressions by name, and its expected output: one value for each exact part."""

    script: str
    values: dict[str, str]
    expected: list[str]

    def reference(self) -> Case:
        """Returns the same script with harmless words in place of its expressions, to see what the shell itself prints."""
        script, expected = self.script, self.expected
        for name, value in self.values.items():
            script = script.replace(f"${{{{ inputs.{name} }}}}", f"word-{name}")
            expected = [f"word-{name}" if item == value else item for item in expected]
        return Case(script=script, values={}, expected=expected)


def value(chance: random.Random, known: list[str]) -> str:
    """Returns a hostile value: a known one, or fragments of shell code in any order."""
    if chance.random() < 0.3:
        return chance.choice(known)
    return "".join(chance.choice(_PIECES) for _ in range(chance.randint(0, 8)))


class Writer:
    """Writes one script; `chance` makes every choice."""

    def __init__(self, chance: random.Random, shell: str) -> None:
        self._chance = chance
        self._is_bash = shell == "bash"
        self._variables = 0

    def case(self, values: dict[str, str]) -> Case:
        """Returns a script of several parts for these values."""
        lines, expected = [], []
        for _ in range(self._chance.randint(1, 5)):
            name = self._chance.choice(sorted(values))
            expression = f"${{{{ inputs.{name} }}}}"
            kind = self._chance.random()
            if kind < 0.55:
                lines.append(self._exact(expression, "show", 3))
                expected.append(values[name])
            elif kind < 0.8:
                lines.append(self._loose(expression))
            else:
                lines.append(self._noise())
        return Case(script=PRELUDE + "\n".join(lines), values=values, expected=expected)

    def _variable(self) -> str:
        self._variables += 1
        return f"v{self._variables}"

    def _word(self, x: str) -> str:
        """Returns a word that expands to exactly the value."""
        words = [
            f'"{x}"',
            f"'{x}'",
            f"''\"{x}\"",
            f"'{x}'\"\"",
            f'"${{unset:-{x}}}"',
            f"${{unset:-'{x}'}}",
            f'${{unset:-"{x}"}}',
        ]
        words += [f"\"\"'{x}'", f"\"{x}\"''", f'"${{unset-{x}}}"', f"${{unset-'{x}'}}"]
        if self._is_bash:
            words += [f"$'{x}'", f'$"{x}"', f"''$'{x}'\"\"", f'"${{unset:-"{x}"}}"']
        return self._chance.choice(words)

    def _exact(self, x: str, out: str, depth: int) -> str:
        choices: list[Callable[[str, str, int], str]] = [self._plain, self._plain, self._document]
        if depth:
            choices += [self._caught, self._caught, self._wrapped, self._wrapped]
        text = self._chance.choice(choices)(x, out, depth)
        return f"{self._noise()}\n{text}" if self._chance.random() < 0.2 else text

    def _plain(self, x: str, out: str, depth: int) -> str:
        w, v = self._word(x), self._variable()
        parts = [
            f"{out} {w}",
            f'{v}={w}; {out} "${v}"',
            f'export {v}={self._quoted(x)}; {out} "${{{v}}}"',
            f'set -- a {w}; {out} "$2"',
            f'for {v} in {w}; do {out} "${v}"; done',
            f'f{v}() {{ {out} "$1"; }}; f{v} {w}',
            # Some words are excluded: bash itself keeps a stray mark of `''` in a subject such as `${unset-''"$x"''}`.
            f"case {self._quoted(x)} in {self._quoted(x)}) {out} {self._quoted(x)};; esac",
            f"case a{w} in b|c) :;; (a*) {out} {w};; esac",
            f'if [ x{w} = "x{x}" ]; then {out} {w}; fi',
            f"[ x{self._quoted(x)} != x ] && {out} {w} || {out} {w}",
            f"{out} {w} # it's \" $( ` a comment with '{x}'",
            f"{out} \\\n  {w}",
            f"# \"don't {x}\n{out} {w}",
            f"{out} {w} 2>/dev/null",
            f"! : {w} && : || {out} {w}",
        ]
        if self._is_bash:
            parts += [
                f'{v}=(a {w} b); {out} "${{{v}[1]}}"',
                f'{v}=([3]={w}); {out} "${{{v}[3]}}"',
                f"if [[ {w} == {self._quoted(x)} && ! (a < a) ]]; then {out} {w}; fi",
                f'declare {v}={w}; {out} "${v}"',
                f'f{v}() {{ local l{v}={w}; {out} "$l{v}"; }}; f{v}',
                f'{v}=; {v}+={w}; {out} "${v}"',
                f'{v}=$(cat <<< {w}; printf .); {v}="${{{v}%??}}"; {out} "${v}"',
                f"((1 < 2)) && {out} {w}",
                f'printf -v {v} %s {w}; {out} "${v}"',
            ]
        return self._chance.choice(parts)

    def _quoted(self, x: str) -> str:
        return self._chance.choice([f'"{x}"', f"'{x}'"])

    def _document(self, x: str, out: str, depth: int) -> str:
        """Returns a here-document with an unquoted delimiter; a final point preserves trailing line breaks of the value."""
        v = self._variable()
        opening, closing = self._chance.choice(
            [("<<EOF", "EOF"), ("<<-EOF", "\tEOF"), ("<< E_1", "E_1"), ("<<-  X", "X")]
        )
        body = self._chance.choice(
            [x, f"${{unset:-{x}}}", f"$(raw '{x}'; printf .)", f'`raw "{x}"; printf .`', f"$(printf '%s.' '{x}')"]
        )
        end = "." if body in (x, f"${{unset:-{x}}}") else ""
        return f'{v}=$(cat {opening}\n{body}{end}\n{closing}\n)\n{out} "${{{v}%.}}"'

    def _caught(self, x: str, out: str, depth: int) -> str:
        """Returns a part whose output is captured in a variable and printed from there."""
        v = self._variable()
        inner = self._exact(x, "raw", depth - 1)
        simple = self._chance.choice([f"raw '{x}'", f'raw "{x}"', f"raw '{x}' ; : # it is"])
        forms = [
            f"{v}=$(\n{inner}\nprintf .\n)",
            f'{v}="$(\n{inner}\nprintf .)"',
            f'{v}="${{unset:-$(\n{inner}\nprintf .)}}"',
            f"{v}=`{simple}\nprintf .`",
        ]
        chosen = self._chance.choice(forms)
        return f'{chosen}\n{out} "${{{v}%.}}"'

    def _wrapped(self, x: str, out: str, depth: int) -> str:
        inner, v = self._exact(x, out, depth - 1), self._variable()
        forms = [
            f"(\n{inner}\n)",
            f"{{\n{inner}\n}}",
            f'if true; then\n{inner}\nelse echo "it\'s"; fi',
            f"for {v} in 1; do\n{inner}\ndone",
            f"f{v}() {{\n{inner}\n}}\nf{v}",
            f"f{v}() (\n{inner}\n); f{v}",
            f"case ')' in ')')\n{inner}\n;; *) echo '(' ;; esac",
            f"( (\n{inner}\n) )",
            f"while :; do\n{inner}\nbreak; done",
            f"{{\n{inner}\n}} | cat",
            f"true && {{\n{inner}\n}} || :",
        ]
        return self._chance.choice(forms)

    def _loose(self, x: str) -> str:
        v = self._variable()
        parts = [
            f"echo {x}",
            f"{v}={x}",
            f'echo a{x}b "c"{x}',
            f"for {v} in {x}; do :; done",
            f"case {x} in {x}|a) echo {x};; esac",
            f"[ -n {x} ] || test {x} = x || [ {x} ]",
            f"printf {x}",
            f"printf '%s' {x} {self._word(x)}",
            f"cat <<EOF {x}\n'{x}' \"{x}\" $(echo '{x}' {x}) `echo {x}`\nEOF",
            f'echo `echo {x}` "`echo "{x}"`"',
            f"echo ${{x:-{x}}} \"${{x:-'{x}'}}\" \"${{x#'{x}'}}\" ${{x%%{x}}}",
            f"set -- {x}",
            f"echo hi > /dev/null {x}",
            f"{v}={x} env",
            f"export {v}={x}",
            f"echo '{x}'{x}\"{x}\"",
            f"echo $(echo {x} $(echo {x}))",
            f"! echo {x} && : {x}",
            f"# {x}\necho a#{x} # '{x}'",
            f"trap : {x}",
            f"cd {x}/nowhere",
            f"read {v} <<EOF\n{x}\nEOF",
            f"grep {x}",
            f"f{v}() {{ echo $* $@; }}; f{v} {x}",
            f"x{v}=$(echo {x}) y={x}",
        ]
        if self._is_bash:
            parts += [
                f"{v}=({x} a)",
                f"[[ {x} == {x} || -n {x} ]]",
                f"[[ a =~ {x} ]]",
                f"cat <<< {x}",
                f"cat <(echo {x})",
                f"declare {v}={x}",
                f"echo ${{x/{x}/{x}}} ${{x^^{x}}}",
                f"echo {{a,{x}}} $'{x}'{x}",
            ]
        return f"{{\n{self._chance.choice(parts)}\n}} > /dev/null 2>&1"

    def _noise(self) -> str:
        parts = [
            "# it's \"unbalanced $( ` ${ (( <<EOF",
            "cat <<EOF > /dev/null\nit's \" ) } ;; esac\nEOF",
            "cat <<'EOF' > /dev/null\nit's $( ` \" ${\nEOF",
            "cat <<A <<-\\B > /dev/null\n(\nA\n\t$(' `\n\tB",
            ": \\' \\\" 'a'\\''b' \"\\\"'\\`\" a\\#b",
            ": $((1 + (2 << 1))) ${#x} $# $$ ${x#\\'} \"${x%'}'}\"",
            "case x in a|b) ;; (x) : ';;' ;; *) ;; esac",
            "n1() { :; }; n1 '{' \"(\" ; { :; }; ( : )",
            ": \"$(: ')' # it's )\n)\" `: \"'\"`",
            ': ${unset:-"}"} ${unset:-\'}\'} "${unset:-\\}}"',
            "for i in 1 2; do :; done; while false; do :; done",
            "x=a\\\nb; : \"a\\\nb\" 'c\\'",
        ]
        if self._is_bash:
            parts += [
                "((i = 1 << 2)); for ((i = 0; i < 2; i++)); do :; done",
                ": $'it\\'s' $\"a'b\" $[1 + 1]",
                "[[ a =~ ^(a|\\)|\\')$ && x == *'\"'* ]]",
                'a=(1 \'(\' ")" [5]=x); : ${a[0]} "${a[@]}" ${#a[@]}',
                'cat <<< "it\'s" > /dev/null; : <(:) >&2',
            ]
        return self._chance.choice(parts)


def run(shell: str, cases: list[Case], folder: Path) -> list[tuple[list[str] | None, list[str]]]:
    """Runs the scripts in one shell, each in its own subshell and folder.

    Returns for each script what its exact parts printed (None if the end is missing), and the files that it left behind.
    """
    driver = []
    for number, case in enumerate(cases):
        lowered = expr.lower_script(case.script, shell)
        (folder / str(number)).mkdir()
        (folder / f"{number}.sh").write_text(lowered.text, newline="")
        exports = "".join(
            f"export {name}={shlex.quote(case.values[source.removeprefix('${{ inputs.').removesuffix(' }}')])}\n"
            for name, source in lowered.env.items()
        )
        driver.append(f"(\ncd {number}\n{exports}. ../{number}.sh\n) > {number}.out 2> {number}.err < /dev/null\n")
    (folder / "driver").write_text("".join(driver), newline="")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run([shell, "driver"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=300, check=False)
    results: list[tuple[list[str] | None, list[str]]] = []
    for number in range(len(cases)):
        printed = (folder / f"{number}.out").read_bytes().decode("utf-8", "surrogateescape")
        values, end = printed.split(MARK)[:-1], printed.endswith(MARK) or not printed
        results.append((values if end else None, sorted(file.name for file in (folder / str(number)).iterdir())))
    return results
