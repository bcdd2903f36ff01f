"""Scripts with expressions compared with the same scripts in which the values are pasted as text, as on GitHub.

Both run in bash. Where the values contain no character that the shell interprets except blanks, the commands must get the same
arguments, or the script must be refused.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patience import PATIENCE_S
from waterflowd import expr

#: Print the number of their arguments and each of them.
_COMMANDS = ("cargo", "go", "npm", "show", "printenv", "helm")
_PRELUDE = "".join(f"{name}() {{ printf '%s|' $# \"$@\"; echo; }}\n" for name in _COMMANDS)

_VALUES = st.one_of(
    st.sampled_from(["", "--all --release", "-v", "test", " padded ", "x"]),
    st.text("ab-= ", max_size=8),
)
_PLACES = ["@", "--name=@", "@@", '"@"', "'@'", "a@b", '"a @ b"', "x$(printf %s @)y", "@ test @", "${unset:-@}"]
_WORDS = ["test", "run", "--", "-v", "if", "printf"]


@dataclass(frozen=True)
class Line:
    """One command; each `@` is an expression."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


_LINES = st.builds(
    lambda command, words: Line((command, *words)),
    st.sampled_from([*_COMMANDS, "command show", "! show", "X=1 show"]),
    st.lists(st.sampled_from([*_PLACES, *_WORDS]), min_size=1, max_size=5),
)


def _run(script: str, env: dict[str, str]) -> tuple[int, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", _PRELUDE + script],
            cwd=folder,
            env={"PATH": os.environ["PATH"], **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    return done.returncode, done.stdout


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(_LINES, min_size=1, max_size=6), values=st.lists(_VALUES, min_size=1, max_size=6), data=st.data())
def test_commands_get_the_arguments_that_pasting_gives(
    lines: list[Line], values: list[str], data: st.DataObject
) -> None:
    """An empty value is no argument, and an unquoted one splits into words, whatever the command's arguments are called."""
    # given a script, some of whose expressions are constants of the file
    pieces = "\n".join(line.text for line in lines).split("@")
    chosen = [data.draw(st.integers(0, len(values) - 1)) for _ in pieces[1:]]
    constants = data.draw(st.sets(st.integers(0, len(values) - 1)))
    contexts = {
        "matrix": {f"x{n}": values[n] for n in constants},
        "inputs": {f"x{n}": text for n, text in enumerate(values)},
    }
    names = [f"{'matrix' if number in constants else 'inputs'}.x{number}" for number in chosen]
    script = pieces[0] + "".join(f"${{{{ {name} }}}}{piece}" for name, piece in zip(names, pieces[1:], strict=True))
    pasted = pieces[0] + "".join(values[number] + piece for number, piece in zip(chosen, pieces[1:], strict=True))

    # when it is compiled, and rendered as the engine does
    def constant(node: expr.Node) -> expr.Constant | None:
        context, name = expr.unparse(node).split(".")
        return expr.Constant((contexts["matrix"][name],)) if context == "matrix" else None

    try:
        lowered = expr.lower_script(script, "bash", constant=constant)
    except expr.ExpressionError:
        return
    evaluation = expr.Env(contexts=contexts)
    env = {name: expr.to_text(expr.render(source, evaluation)) for name, source in lowered.env.items()}

    # then both do the same
    assert _run(expr.to_text(expr.render(lowered.text, evaluation)), env) == _run(pasted, {})
