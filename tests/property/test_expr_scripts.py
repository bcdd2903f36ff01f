"""Lowered scripts in real shells: a quoted value arrives byte for byte, and no value is ever executed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.patience import PATIENCE_S
from tests.property import expr_scripts
from waterflowd import expr

#: Number of generated scripts for each shell; `WATERFLOW_ROUNDS` multiplies it.
SCRIPTS = 100 * int(os.environ.get("WATERFLOW_ROUNDS", "1"))
#: Number of scripts that one shell runs.
BATCH = 100

SHELLS = [shell for shell in ("bash", "dash") if shutil.which(shell)]

#: What the value would run if it were executed.
CANARY = "touch canary"

HOSTILE = [
    f"'; {CANARY} #",
    f'"; {CANARY} #',
    f"$({CANARY})",
    f"`{CANARY}`",
    f"'\"$({CANARY})\"'",
    f"\n{CANARY}\n",
    f"x\nEOF\n{CANARY}\n",
    f"}}; {CANARY}; {{",
    f"a[$({CANARY})]",
    "x -o -v a[$(touch${IFS}canary)]",
    "-v a[$(touch${IFS}canary)] x",
    f"\\'; {CANARY}; \\'",
    f") {CANARY} ;; esac; {CANARY}; (",
    "${IFS}$HOME ~ * ? [a-z] {a,b} !! \\ \\\\ %s \t # & | < > ;",
    "-n -e",
    "",
    " two  spaces ",
    "trailing newline\n",
    "ünï \u202e € 😀",
]

#: Positions where the value must arrive unchanged; each prints it once between the marks.
EXACT = {
    "double quotes": 'show "@"',
    "single quotes": "show '@'",
    "text around": 'show \'a "@" $b\' | sed \'s/^a "//; s/" $b$//\' > /dev/null; show "@"',
    "assignment": 'x=@; show "$x"',
    "substitution in quotes": "x=$(raw '@'; printf .); show \"${x%.}\"",
    "backticks in quotes": 'x="`raw \'@\'; printf .`"; show "${x%.}"',
    "default of a parameter": 'show "${unset:-@}"',
    "quoted default of a parameter": "show ${unset:-'@'}",
    "case": "case 'x@' in x*) show '@';; esac",
    "case in a substitution": "x=$(case a in a) raw '@';; esac; printf .); show \"${x%.}\"",
    "after a comment": "# it's $( \" ` @\nshow '@'",
    "function": "f() { show \"$1\"; }\nf '@'",
    "after here-documents": "cat <<A <<-'B' > /dev/null\nit's \"\nA\n\tit's ( $( \"\n\tB\nshow '@'",
    "after escapes": "echo \\' \\\" 'a'\\''b' > /dev/null; show '@'",
    "group and loop": "for i in 1; do { if true; then (show '@'); fi; }; done",
}
EXACT_BASH = {
    "ansi quotes": "show $'@'",
    "ansi quotes with escapes": "x=$'\\'@\\''; x=${x#\\'}; show \"${x%\\'}\"",
    "array": "a=(x '@' y); show \"${a[1]}\"",
    "test": "if [[ '@' == \"@\" && ! -n '' ]]; then show '@'; fi",
    "arithmetic before": "((i = 1 << 2)); x=$((i << 1)); show '@'",
}
#: Positions where the value may split or expand to file names like a variable, or lose its last line break.
LOOSE = [
    "[ -n @ ] || test @ = x || [ @ ]",
    "printf @",
    "echo @",
    'echo a@b "c"@',
    "cat <<EOF\n'@' \"@\" $(echo '@')\nEOF",
    "cat <<-EOF\n\t@\n\tEOF",
    'echo `echo @` "`echo "@"`"',
    "echo ${x:-@} \"${x:-'@'}\" \"${x#'@'}\"",
    'echo "$(echo "$(echo \'@\')")"',
    "case @ in @) echo @;; esac",
    "# @\necho a#@ # '@'",
    "[ '@' = \"@\" ] && echo '@'",
    "x=@ y='@' env > /dev/null",
    "echo hi > /dev/null 2>&1 '@'",
    "cat <<EOF\n`echo '@'` \\$@ $x\nEOF",
    "echo '@'@\"@\"'@'",
    "printf '%s' @ '@'",
]

SHOW = 'show() { printf \'%s|END|\' "$1"; }\nraw() { printf %s "$1"; }\n'


def run(shell: str, script: str, value: str) -> tuple[bytes, list[str]]:
    """Runs a script with every expression bound to `value`; returns its output and the files that it left behind."""
    lowered = expr.lower_script(script.replace("@", "${{ inputs.x }}").replace("\\$$", "\\$ $"), shell)
    with tempfile.TemporaryDirectory() as folder:
        # `set --` keeps the script from reading arguments; stdin is closed so that nothing waits.
        done = subprocess.run(
            [shell, "-c", lowered.text],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **dict.fromkeys(lowered.env, value)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout, sorted(path.name for path in Path(folder).iterdir())


def printed(value: str) -> bytes:
    return f"{value}|END|".encode()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_arrive_unchanged_in_every_quoted_position(shell: str, value: str) -> None:
    """All positions are in one script, so each also sees the effects of the earlier ones."""
    locations = EXACT | EXACT_BASH if shell == "bash" else EXACT
    script = SHOW + "\n".join(locations.values())

    output, files = run(shell, script, value)

    assert output.split(b"|END|")[:-1] == [value.encode()] * len(locations)
    assert files == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", LOOSE)
def test_hostile_values_are_never_executed_in_unquoted_positions(shell: str, script: str) -> None:
    """Each position is tested with all values: joined to save processes, and one by one where a value ends the script."""
    for value in (HOSTILE[0], HOSTILE[2], HOSTILE[6], HOSTILE[9], HOSTILE[10], " ".join(HOSTILE)):
        _, files = run(shell, script, value)

        assert "canary" not in files


@settings(max_examples=40, deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
    | st.lists(st.sampled_from([CANARY, "'", '"', "$(", ")", "`", "\n", ";", "EOF", "\\", "}", "#", " "])).map("".join),
    st.lists(st.sampled_from(sorted(EXACT)), min_size=1, max_size=4),
)
@example("\r\n", ["double quotes"])
def test_any_value_arrives_unchanged_in_any_mix_of_positions(value: str, names: list[str]) -> None:
    """Positions are in random order, and the value is random text or fragments of shell code."""
    output, files = run("bash", SHOW + "\n".join(EXACT[name] for name in names), value)

    assert output == printed(value) * len(names)
    assert files == []


PIECES = st.sampled_from(
    [
        *"'\"`);}#@@@\n \\|&",
        "$(",
        "((",
        "))",
        "${x:-",
        "$'",
        "<<EOF\n",
        "EOF\n",
        "case x in x)",
        " esac",
        ";;",
        "echo ",
        *("[[ ", " ]]", "$((", "${x#", "a="),
    ]
)


#: A broken script may put the expression in the position of the command, and an expression that is the command itself is
#: executed (as documented): this test therefore excludes values that are commands.
NO_COMMANDS = [value for value in HOSTILE[:13] if value.split()[:1] != ["touch"]]


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=3, max_size=14).map("".join), st.sampled_from(NO_COMMANDS))
def test_no_broken_script_executes_its_values(script: str, value: str) -> None:
    """The scanner may misread text that is not valid shell, but even then the value is not executed."""
    script = script.replace("@@", "@ @")
    try:
        _, files = run("bash", "echo a '@'\n" + script, value)
    except expr.ExpressionError:
        return

    assert "canary" not in files


@pytest.mark.slow
@pytest.mark.timeout(600 + 2 * SCRIPTS)
@pytest.mark.parametrize("shell", SHELLS)
def test_generated_scripts_print_their_values_and_never_run_them(shell: str, tmp_path: Path) -> None:
    """The scripts contain nested quotes, substitutions, here-documents, functions and loops, with hostile values."""
    beyond_the_shell = 0
    for seed in range(SCRIPTS // BATCH):
        chance = random.Random(seed)
        cases = [
            expr_scripts.Writer(chance, shell).case({name: expr_scripts.value(chance, HOSTILE) for name in ("x", "y")})
            for _ in range(BATCH)
        ]
        folder = tmp_path / str(seed)
        folder.mkdir()

        for number, (case, (printed, files)) in enumerate(
            zip(cases, expr_scripts.run(shell, cases, folder), strict=True)
        ):
            assert "canary" not in files, f"seed {seed}: {case}"
            if printed != case.expected:
                reference, again = case.reference(), folder / f"reference-{number}"
                again.mkdir()
                [(words, _)] = expr_scripts.run(shell, [reference], again)
                assert words != reference.expected, f"seed {seed}: printed {printed} by {case}"
                beyond_the_shell += 1
        shutil.rmtree(folder)
    assert beyond_the_shell <= SCRIPTS // 50
