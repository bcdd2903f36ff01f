"""Places where a program runs a value as code: each is refused, and real programs show that it has to be."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflowd import expr
from waterflowd.expr import errors
from waterflowd.expr.shell.scanner import BARE, Scanner
from waterflowd.expr.template import parse_template

CANARY = "touch canary"
_PYTHON = f"__import__('os').system('{CANARY}')"
_COMMIT = "git -c user.name=a -c user.email=b commit -q --allow-empty -m"

#: Program that must be installed, script, and a value that runs `CANARY` if the place is allowed. `@` marks the expression.
ATTACKS = [
    ("bash", "S=bash; $S -c 'echo @'", f"x; {CANARY}"),
    ("bash", 'S=bash; "$S" -c "echo @"', f"x; {CANARY}"),
    ("bash", 'S=bash; "${S}" -c "echo @"', f"x; {CANARY}"),
    ("bash", 'S="bash -c"; $S "echo @"', f"x; {CANARY}"),
    ("bash", 'OPTIONS=-c; bash $OPTIONS "echo @"', f"x; {CANARY}"),
    ("bash", 'cmd=(bash -c); "${cmd[#]}" "echo @"', f"x; {CANARY}"),
    ("bash", 'A=bash; B="$A -e"; $B -c "echo @"', f"x; {CANARY}"),
    ("bash", '${UNSET:-bash} -c "echo @"', f"x; {CANARY}"),
    ("bash", '$(command -v bash) -c "echo @"', f"x; {CANARY}"),
    ("bash", '`command -v bash` -c "echo @"', f"x; {CANARY}"),
    ("bash", 'for s in bash; do "${s}" -c "echo @"; done', f"x; {CANARY}"),
    ("bash", 'set -- bash; "$1" -c "echo @"', f"x; {CANARY}"),
    ("bash", "S=bash; timeout 5 $S -c 'echo @'", f"x; {CANARY}"),
    ("python3", "P=python3; $P -c 'print(@)'", _PYTHON),
    ("perl", "P=perl; $P -e '@'", f"system('{CANARY}')"),
    ("bash", 'S=bash; echo "@" | $S', CANARY),
    ("bash", 'S=bash; $S <<< "@"', CANARY),
    ("bash", "S=bash; $S <<EOF\n@\nEOF", CANARY),
    ("env", "env -S 'bash -c \"@\"'", CANARY),
    ("env", 'env -S "@ x=1"', CANARY),
    ("env", "env --split-string=\"bash -c '@'\"", CANARY),
    ("env", 'env -iS "PATH=$PATH @"', CANARY),
    ("env", "env -S 'bash -c' '@'", CANARY),
    ("make", "printf 'all:\\n\\techo @\\n' | make -f -", f"x; {CANARY}"),
    ("make", "make -f - <<EOF\nall:\n\techo @\nEOF", f"x; {CANARY}"),
    ("make", "make -f <(printf 'all:\\n\\techo @\\n')", f"x; {CANARY}"),
    ("make", "printf 'all:\\n\\techo $(V)\\n' > Makefile; make \"V=@\" all", f"$(shell {CANARY})"),
    ("make", 'printf "all:\\n" > Makefile; make "@"', f"--eval=$(shell {CANARY})"),
    ("sed", "echo a | sed 's/a/@/'", f"b/;1e{CANARY}\n;s/x/y"),
    ("sed", 'echo a > f; sed -i -e "s/a/@/" f', f"b/;1e{CANARY}\n;s/x/y"),
    ("python3", "python3 -m timeit -n1 '@'", _PYTHON),
    ("perl", "perl -M'@' -e 1", f"strict;system(qq({CANARY}))"),
    ("find", "find . -maxdepth 0 -exec sh -c 'echo @' \\;", f"x; {CANARY}"),
    ("xargs", "echo x | xargs sh -c 'echo @'", f"x; {CANARY}"),
    ("awk", "awk -f - <<EOF\nBEGIN { print @ }\nEOF", f'system("{CANARY}")'),
    ("node", "node -p '@'", f"require('child_process').execSync('{CANARY}')"),
    ("git", "git init -q .; git -c alias.x='!echo @' x", f"a; {CANARY}"),
    ("git", 'git init -q .; git -c "@" x', f"alias.x=!{CANARY}"),
    ("git", "git init -q .; git config alias.x '!echo @'; git x", f"a; {CANARY}"),
    ("git", 'git init -q .; git fetch "@" .', f"--upload-pack={CANARY};"),
    ("git", 'git init -q .; git fetch --upload-pack="@" .', f"{CANARY};"),
    ("git", f"git init -q .; {_COMMIT} a; {_COMMIT} b; git rebase -q HEAD~1 -x '@'", CANARY),
    ("git", "GIT_SSH_COMMAND='@' git ls-remote host:x", f"{CANARY};"),
    ("tar", "echo a > f; tar cf t.tar f --checkpoint=1 --checkpoint-action=exec='@'", CANARY),
    ("tar", 'echo a > f; tar cf t.tar f; tar xf t.tar "@"', f"--to-command={CANARY}"),
    ("ssh", 'ssh "@" uptime', f"-oProxyCommand={CANARY}"),
    ("ssh", 'ssh -o "ProxyCommand=@" host', CANARY),
    ("bash", "bash -c 'bash' <<< '@'", CANARY),
    ("bash", "bash -c 'cat | sh' <<< '@'", CANARY),
    ("script", "script -qc '@' /dev/null", CANARY),
    ("ed", "ed -s <<EOF\n@\nEOF", f"!{CANARY}"),
    ("vim", "vim -es -c '@' -c q", f"!{CANARY}"),
    ("gdb", "gdb -batch -ex '@'", f"shell {CANARY}"),
    ("sqlite3", "sqlite3 x.db '@'", f".shell {CANARY}"),
    ("sqlite3", "echo '@' | sqlite3 x.db", f".shell {CANARY}"),
    ("psql", 'psql "@" </dev/null', rf"-c\! {CANARY}"),
    ("zip", "touch f; zip -q a.zip f -T -TT '@'", f"{CANARY};"),
    ("busybox", "busybox sh -c '@'", CANARY),
    ("m4", "m4 -DX='@' <<< X", f"syscmd(`{CANARY}')"),
    ("dc", "dc -e '@'", f"!{CANARY}"),
    ("ruby", "ruby -e '@'", f"system('{CANARY}')"),
    ("php", "php -r '@'", f"system('{CANARY}');"),
    ("lua", "lua -e '@'", f"os.execute('{CANARY}')"),
    ("rsync", 'touch f; rsync "@" f localhost:', f"-e{CANARY};"),
    ("parallel", "echo '@' | parallel", CANARY),
]


def text_of(script: str) -> str:
    """Returns the script with its expression; `#` is an `@` of the script itself."""
    return script.replace("@", "${{ inputs.x }}").replace("[#]", "[@]")


@pytest.mark.parametrize(("program", "script", "value"), ATTACKS)
def test_a_place_where_a_program_runs_the_value_is_refused(program: str, script: str, value: str) -> None:
    """It is an error of the file, and there is one error for each expression."""
    found = expr.check_script(text_of(script), "bash")

    assert {error.code for error in found} == {errors.UNSAFE_EXPRESSION}


def test_the_refused_places_are_dangerous() -> None:
    """With a reference in each of them all the same, the installed programs run the value: the refusals are not arbitrary."""
    ran, tried = [], []
    for program, script, value in ATTACKS:
        if shutil.which(program) is None:
            continue
        template = parse_template(text_of(script))
        scanner = Scanner(template.text, template.expressions, frozenset())
        scanner.scan()
        parts = (
            part if isinstance(part, str) else scanner.references.get(part.start, BARE).format("X")
            for part in template.parts
        )
        with tempfile.TemporaryDirectory() as folder:
            environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": folder, "X": value, "LC_ALL": "C.UTF-8"}
            subprocess.run(
                ["bash", "-c", "".join(parts)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            tried.append(script)
            if (Path(folder) / "canary").exists():
                ran.append(script)

    # A program of another distribution or version may differ, and may lack the option; most must agree everywhere.
    assert len(ran) > 0.8 * len(tried), sorted(set(tried) - set(ran))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("ssh -p @ -- host uptime", 'ssh -p ${WF_EXPR_1:+"${WF_EXPR_1}"} -- host uptime'),
        ("ssh -- @ uptime", "ssh -- ${WF_EXPR_1} uptime"),
        ("ssh 'deploy-@' uptime", "ssh 'deploy-'\"${WF_EXPR_1}\"'' uptime"),
        ("ssh -o ConnectTimeout=@ host uptime", 'ssh -o ConnectTimeout=${WF_EXPR_1:+"${WF_EXPR_1}"} host uptime'),
        ("ssh host 'tee log' <<< @", "ssh host 'tee log' <<< ${WF_EXPR_1:+\"${WF_EXPR_1}\"}"),
        ("tar czf @ web", 'tar czf ${WF_EXPR_1:+"${WF_EXPR_1}"} web'),
        ("tar czf web-@.tgz web", 'tar czf web-${WF_EXPR_1:+"${WF_EXPR_1}"}.tgz web'),
        ("tar czf web.tgz -C @ web", 'tar czf web.tgz -C ${WF_EXPR_1:+"${WF_EXPR_1}"} web'),
        ("git checkout '@'", "git checkout ''\"${WF_EXPR_1}\"''"),
        ("git tag v@ && git push origin v@", 'git tag v${WF_EXPR_1} && git push origin v${WF_EXPR_1:+"${WF_EXPR_1}"}'),
        ("git push -- origin @", "git push -- origin ${WF_EXPR_1}"),
        ("git -c user.name=@ commit -m @", "git -c user.name=${WF_EXPR_1} commit -m ${WF_EXPR_1}"),
        ("git config user.email @", "git config user.email ${WF_EXPR_1}"),
        ("sed --sandbox s/a/@/ f", "sed --sandbox s/a/${WF_EXPR_1}/ f"),
        ("sed -n 1p @", "sed -n 1p ${WF_EXPR_1}"),
        ("sed -f script @", "sed -f script ${WF_EXPR_1}"),
        ("make -C @ -j2", "make -C ${WF_EXPR_1} -j2"),
        ("find @ -name @", 'find ${WF_EXPR_1:+"${WF_EXPR_1}"} -name ${WF_EXPR_1:+"${WF_EXPR_1}"}'),
        ("awk -v x=@ -f prog @", "awk -v x=${WF_EXPR_1} -f prog ${WF_EXPR_1}"),
        ("D='docker compose'; $D run -e TAG=@ web", "D='docker compose'; $D run -e TAG=${WF_EXPR_1} web"),
        ("$TOOL --name @", "$TOOL --name ${WF_EXPR_1}"),
        ("kubectl logs $POD --since 1h -c @", "kubectl logs $POD --since 1h -c ${WF_EXPR_1}"),
        ("echo @ | $TOOL import", "echo ${WF_EXPR_1} | $TOOL import"),
        ("psql -v id=@ -f report.sql", 'psql -v id=${WF_EXPR_1:+"${WF_EXPR_1}"} -f report.sql'),
        ("python3 -m http.server @", "python3 -m http.server ${WF_EXPR_1}"),
        ("env -u X NAME=@ ./deploy.sh @", "env -u X NAME=${WF_EXPR_1} ./deploy.sh ${WF_EXPR_1}"),
    ],
)
def test_arguments_that_no_program_runs_stay_allowed(script: str, expected: str) -> None:
    """Where a split value could become an option that runs commands, the reference is in double quotes."""
    assert expr.lower_script(text_of(script), "bash").text == expected


def test_a_long_command_takes_linear_time() -> None:
    """Variables, launchers and values are followed to a limit."""
    many = 10_000
    for part in ("$A ", "docker ", "bash -c x ", "A=$A$A$A ", "env -S ", "git -c "):
        text = "A='" + "x " * 500 + "'\n" + part * many + "${{ inputs.x }}"
        expr.check_script(text, "bash")
