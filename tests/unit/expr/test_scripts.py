"""Expressions as data in scripts: the safe reference for each position, and the positions without one."""

from __future__ import annotations

import pytest

from waterflowd import expr
from waterflowd.expr import errors

X = "${{ inputs.x }}"
BARE = "${WF_EXPR_1}"
SINGLE = "'\"${WF_EXPR_1}\"'"
ANSI = "'\"${WF_EXPR_1}\"$'"
QUOTED = '${WF_EXPR_1:+"${WF_EXPR_1}"}'


@pytest.mark.parametrize(
    ("script", "reference"),
    [
        ("echo @", BARE),
        ("a=@", BARE),
        ('echo "a @ b"', BARE),
        ('echo "it\'s @"', BARE),
        ("echo 'a @ b'", SINGLE),
        ("echo 'a\\@'", SINGLE),
        ("echo $'a\\'@'", ANSI),
        ('echo $"a @"', BARE),
        ("echo \\' @", BARE),
        ("echo \\'; echo '@'", SINGLE),
        ("echo 'a' @ 'b'", BARE),
        ("echo \"$(echo '@')\"", SINGLE),
        ('echo "$(echo "@")" \'x\'', BARE),
        ("echo `echo '@'`", SINGLE),
        ("echo \"`echo '@'`\"", SINGLE),
        ("echo `echo \\`echo @\\``", BARE),
        ("(echo '@')", SINGLE),
        ("# it's\necho '@'", SINGLE),
        ("# don't @", BARE),
        ("echo a#'@'", SINGLE),
        ("echo $# '@'", SINGLE),
        ("echo ${#a} '@'", SINGLE),
        ("echo ${x:-@}", BARE),
        ("echo ${x:-'@'}", SINGLE),
        ("echo \"${x:-'@'}\"", BARE),
        ("echo \"${x#'@'}\"", SINGLE),
        ('echo "${x:-"@"}" \'b\'', BARE),
        ("echo ${x/a/@}", BARE),
        ("echo ${x[0]:-@}", BARE),
        ("echo $((1 + 2)) '@'", SINGLE),
        ("((n = 1)); echo '@'", SINGLE),
        ("for ((i = 0; i < 3; i++)); do echo '@'; done", SINGLE),
        ("(( (1) )) && echo '@'", SINGLE),
        ("( (echo '@') )", SINGLE),
        ("case $x in a) echo '@';; esac", SINGLE),
        ("case @ in (a|b) :;; *) :;; esac", BARE),
        ("x=$(case y in y) echo '@';; esac)", SINGLE),
        ("x=$(case y in (y) echo b;& z) echo c;; esac); echo '@'", SINGLE),
        ("f() { echo '@'; }", SINGLE),
        ("a=(x '@' y)", SINGLE),
        ("if [[ @ == 'x' ]]; then :; fi", BARE),
        ("if [[ $x =~ ^(a|b)$ ]]; then echo '@'; fi", SINGLE),
        ("[ @ -eq 1 ]", QUOTED),
        ("if ! [ -n @ ]; then :; fi", QUOTED),
        ("[ \"@\" = '' ]", BARE),
        ("[ x ] && echo @", BARE),
        ("command test a = @", QUOTED),
        ("[ -n ${x:-@} ]", QUOTED),
        ('[ -n "$(echo @)" ]', BARE),
        ("printf @", QUOTED),
        ("printf '%s' @", BARE),
        ("cat <<EOF\n'@'\nEOF", BARE),
        ("cat <<EOF\nit's\nEOF\necho '@'", SINGLE),
        ("cat <<'EOF'\nit's\nEOF\necho '@'", SINGLE),
        ("cat <<\"EOF\" > file\nit's\nEOF\necho '@'", SINGLE),
        ("cat <<\\EOF\nit's\nEOF\necho '@'", SINGLE),
        ("cat <<-EOF\n\tit's\n\tEOF\necho '@'", SINGLE),
        ("cat <<A <<'B'\nit's @\nA\nit's\nB\n", BARE),
        ("cat <<A <<'B'\nit's\nA\nit's\nB\necho '@'", SINGLE),
        ("cat <<EOF\n$(echo '@')\nEOF", SINGLE),
        ("cat <<EOF\n`echo '@'`\nEOF", SINGLE),
        ("x=$(cat <<EOF\nit's\nEOF\n); echo '@'", SINGLE),
        ("cat <<<it\\'s; echo '@'", SINGLE),
        ("cat <<< '@'", SINGLE),
        ("echo 1 <<EOF\n\\$(' \\`'\nEOF\necho '@'", SINGLE),
        ("cat <<EOF\nunclosed $(echo '\nEOF\necho @", BARE),
        ("diff <(echo '@') b", SINGLE),
        ("echo hi > @ 2>&1", BARE),
        ("echo a \\\n  '@'", SINGLE),
        ("sudo docker run img python app.py @", BARE),
        ("python3 script.py @", BARE),
        ("python3 - @ <<EOF\nprint(1)\nEOF", BARE),
        ("bash deploy.sh @", BARE),
        ("ssh -p 22 user@host-@", QUOTED),
        ("psql -p @ -c 'select 1'", QUOTED),
        ("awk -v x=@ '{ print x }'", BARE),
        ("declare x=@", BARE),
        ("declare -a x=('@')", SINGLE),
        ("x=(a); x=@", BARE),
        ("x=(a); y[0]=@", BARE),
        ("declare -i n=1; echo @", BARE),
        ("export -n x; x=@", BARE),
        ("ENV=@ ./deploy.sh", BARE),
        ("echo a &> '@'", SINGLE),
        ("echo a 2>&1 '@'", SINGLE),
        ("bash -c 'echo \"$1\"' -- @", BARE),
        ('echo "a[@]"', BARE),
        ("export x=@", BARE),
        ("echo eval @", BARE),
        ("echo @ | grep bash", BARE),
        ("echo $$@", BARE),
        ("echo \\$@", BARE),
        ("echo `echo \\`eval x\\`; echo '@'`", SINGLE),
        ("echo `echo 'a\\`b' '@'`", SINGLE),
        ("function f { echo '@'; }", SINGLE),
        ("echo @ | while read -r x; do echo $x; done; bash deploy.sh", BARE),
        ("echo @ | (cat); echo 1 | bash", BARE),
    ],
)
def test_a_reference_matches_its_shell_quoting(script: str, reference: str) -> None:
    """`@` marks the expression; the rest of the script does not change."""
    script = script.replace("user@host", "user\0host")
    lowered = expr.lower_script(script.replace("@", X), "bash")

    assert lowered.text == script.replace("@", reference)
    assert lowered.env == {"WF_EXPR_1": X}


@pytest.mark.parametrize(
    "script",
    [
        "cat <<'EOF'\n@\nEOF",
        "cat <<\\EOF\n@\nEOF",
        "cat <<A <<'B'\nx\nA\n@\nB",
        "cat <<@\nx",
        "echo $((1 + @))",
        "echo $(( $(echo @) ))",
        "echo $((${x:-@}))",
        "((x = @))",
        "for ((i = 0; i < @; i++)); do :; done",
        "echo $[@]",
        "let x=@",
        "[[ @ -eq 1 ]]",
        "[[ 1 -lt '@' && -n x ]]",
        "[[ -n x && \\\n 1 -lt @ ]]",
        "if [[ -v @ ]]; then :; fi",
        "test -v @",
        "a[@]=1",
        "a=([@]=1)",
        "declare -i x=@",
        "declare @=1",
        "declare -n ref=@",
        "printf -v @ x",
        "[ -n $(echo @) ]",
        "printf `echo @`",
        "read @",
        "unset '@'",
        "echo ${x:@}",
        "echo ${x:1:@}",
        "echo ${x[@]}",
        'echo "${x[1+@]}"',
        "echo ${@}",
        "echo ${!@}",
        "echo $@",
        "echo \\@",
        'echo "C:\\@"',
        "echo $'\\@'",
        "eval echo @",
        "if eval '@'; then :; fi",
        "if [[ a ]]; then eval '@'; fi",
        "[[ a ]]&&eval '@'",
        "[[ a ]]\neval '@'",
        "f() { eval '@'; }",
        "trap 'echo @' EXIT",
        "bash -c 'echo @'",
        'sudo -u root /bin/bash -ec "echo @"',
        "su user -c 'echo @'",
        "docker exec web sh -c 'echo @'",
        "find . -exec sh -c 'ls @' \\;",
        "ssh host 'cd @'",
        "ssh -p 22 -o A=b host cd @",
        "ssh host <<EOF\ncd @\nEOF",
        "bash <<EOF\necho @\nEOF",
        "cat <<EOF | sudo bash -s\necho @\nEOF",
        "cat <<EOF | sudo -u deploy bash\necho @\nEOF",
        "cat <<EOF |\necho @\nEOF\nbash",
        "bash <<< 'echo @'",
        "echo @ | sh",
        "(echo @) | sh",
        "{ echo @; } | sh",
        "for x in 1; do echo @; done | bash",
        "echo @ | xargs -I% sh -c 'ls %'",
        "bash <(echo @)",
        "bash < <(echo @)",
        "source <(echo @)",
        ". /dev/stdin <<< '@'",
        "python3 -c 'print(\"@\")'",
        "python3.12 - <<EOF\nprint('@')\nEOF",
        "perl -pe 's/x/@/' f",
        "node -e 'f(\"@\")'",
        "node --eval='f(@)'",
        "php -r 'echo @;'",
        "psql db -c 'select @'",
        "psql db <<EOF\nselect '@';\nEOF",
        'mysql -e"select @"',
        "awk '{ print @ }' f",
        'eval "$(echo @)"',
        "declare -i x\nx=@",
        "x='@'\ndeclare -xi x",
        "f() { local -i n; n+=@; }",
        "declare -n ref; ref=@",
        "declare -a a='@'",
        'declare -a a="$(echo @)"',
        "f() { local -A a=@; }",
        "export -a a='@'",
        "a=(1 2); declare a='@'",
        "a[0]=1; f() { local a='@'; }",
        "declare 'a[@]=1'",
        "a['@']=1",
        'a["$(echo @)"]=1',
        'a=(["@"]=1)',
        "exec {a[@]}< f",
        "printf -v'@' x",
        "trap -- '@' EXIT",
        "PS4='@'; set -x",
        "env BASH_ENV=@ bash x.sh",
        "alias x='@'",
        "compgen -W '@'",
        "cat <<< '@' | bash",
        "bash -c -- '@'",
        "bash -c -o pipefail '@'",
        "$SHELL -c '@'",
        "${SHELL:-bash} -c '@'",
        "bash /proc/self/fd/0 <<< '@'",
        "script -q -c '@' /dev/null",
        "flock lock -c '@'",
        "watch -n1 '@'",
        "echo a >& '@'",
        "echo a>&@",
        "exec <&'@'",
        "function f { eval '@'; }",
        "function f() (eval '@')",
        "echo `echo \\`eval '@'\\``",
        'x="`echo \\`bash -c @\\``"',
        "echo `echo \\`echo \\\\\\`eval '@'\\\\\\`\\``",
        "echo @ | (bash)",
        "echo @ | { cat | bash; }",
        "echo @ | while :; do bash; break; done",
        "echo @ | if true; then bash; fi",
        "echo @ | for i in 1; do (cd /tmp && bash); done",
        "echo @ | case a in a) bash;; esac",
        "echo @ | eval bash",
        "while :; do bash; break; done <<EOF\n@\nEOF",
        "{ bash; } < <(echo @)",
        "(bash) <<< '@'",
        "eval '@' | { x",
    ],
)
def test_a_position_without_a_safe_reference_is_an_error_with_its_fix(script: str) -> None:
    """The shell would evaluate the value again or reads no variable there; the error contains the `env:` lines."""
    text = script.replace("$@", "$" + X).replace("@", X)

    found = expr.check_script(text, "bash")

    assert [error.code for error in found] == [errors.UNSAFE_EXPRESSION]
    assert found[0].offset == text.index(X)
    assert "env:\n    X: ${{ inputs.x }}\n" in found[0].text
    with pytest.raises(expr.ExpressionError):
        expr.lower_script(text, "bash")


def test_each_expression_has_one_variable() -> None:
    """Variables are numbered in the order of the script."""
    lowered = expr.lower_script("a ${{ x.b }} '${{ x.a }}' \"${{x.b}}\"", "sh")

    assert lowered.text == "a ${WF_EXPR_1} ''\"${WF_EXPR_2}\"'' \"${WF_EXPR_1}\""
    assert lowered.env == {"WF_EXPR_1": "${{ x.b }}", "WF_EXPR_2": "${{ x.a }}"}


def test_all_unsafe_positions_are_reported_at_once() -> None:
    """They are listed in the order of the script, and nothing else is."""
    found = expr.check_script("eval ${{ x.a }}\necho ${{ x.b }}\necho $((${{ x.c }}))", "bash")

    assert [error.offset for error in found] == [5, 40]


@pytest.mark.parametrize("template", ["eval @", "cat <<'EOF'\n@\nEOF", "echo '@'", "echo $((@))", "echo \\@", "a[@]=1"])
def test_a_literal_of_harmless_characters_is_pasted_anywhere(template: str) -> None:
    """A constant in the file is the author's own text."""
    lowered = expr.lower_script(template.replace("@", "${{ 'v1.2/a_b:c@d-e' }}"), "bash")

    assert lowered.text == template.replace("@", "v1.2/a_b:c@d-e", 1)
    assert lowered.env == {}


def test_a_literal_is_pasted_with_all_its_characters() -> None:
    """It is the author's own text, as on GitHub; text that looks like an expression stays data."""
    assert expr.lower_script("echo ${{ '$(id) a b' }}", "bash") == expr.Script(text="echo $(id) a b")
    assert expr.lower_script("echo ${{ '${{' }}", "bash").text == "echo ${{ '${{' }}"


def _constant(node: expr.Node) -> expr.Constant | None:
    texts = {
        "matrix.os": ("ubuntu-24.04", "debian-13"),
        "matrix.flags": ("--all --release", ""),
        "matrix.program": ("bash -c", "echo"),
        "matrix.quote": ("'", ""),
        "run.number": None,
    }
    source = expr.unparse(node)
    return expr.Constant(texts[source]) if source in texts else None


@pytest.mark.parametrize("shell", ["bash", "python"])
def test_a_constant_stays_in_the_script_as_it_is(shell: str) -> None:
    """It is pasted when the script is rendered, also where a variable would not be safe."""
    text = "cat <<'EOF'\n${{ matrix.os }} ${{ matrix.flags }}\nEOF\necho $((${{ run.number }} + 1))"

    assert expr.lower_script(text, shell, constant=_constant) == expr.Script(text=text)


def test_constants_do_not_hide_code_in_which_another_expression_is() -> None:
    """The script is scanned with each text of the constant: with the second one, the value would be code."""
    found = expr.check_script("${{ matrix.program }} ${{ inputs.x }}", "bash", constant=_constant)

    assert [(error.offset, error.code) for error in found] == [(22, errors.UNSAFE_EXPRESSION)]


def test_a_constant_that_changes_the_quoting_of_others_is_a_variable() -> None:
    """No reference would fit both texts."""
    lowered = expr.lower_script("echo ${{ matrix.quote }}${{ inputs.x }}", "bash", constant=_constant)

    assert lowered.text == "echo ${WF_EXPR_1}${WF_EXPR_2}"


@pytest.mark.parametrize(
    "command", ["cargo test", "go test", "npm test --", "sudo cargo test", "echo printf", "./test"]
)
def test_an_argument_called_like_a_builtin_command_does_not_quote_the_next(command: str) -> None:
    """The command word alone decides, so the value still splits into words."""
    assert expr.lower_script(f"{command} {X}", "bash").text == f"{command} {BARE}"


@pytest.mark.parametrize("command", ["test", "[", "builtin test", "command [", "printf", "! test", "X=1 test"])
def test_a_test_takes_the_value_as_one_argument(command: str) -> None:
    """An option among the words of the value would run commands."""
    assert expr.lower_script(f"{command} {X}", "bash").text == f"{command} {QUOTED}"


@pytest.mark.parametrize(
    ("shell", "reading"),
    [
        ("python", 'os.environ["NAME"]'),
        ("/usr/bin/python3 {0}", 'os.environ["NAME"]'),
        ("pwsh", "$env:NAME"),
        ("perl {0}", "$ENV{NAME}"),
        ("zsh", "environment variable NAME"),
        ("sudo bash {0}", "environment variable NAME"),
        ("", "environment variable NAME"),
    ],
)
def test_scripts_of_other_interpreters_cannot_contain_expressions(shell: str, reading: str) -> None:
    """The error says how that interpreter reads the variable; constants are pasted there too."""
    found = expr.check_script("print('${{ steps.a.outputs.name }}') # ${{ 'ok' }}", shell)

    assert len(found) == 1
    assert reading in found[0].text
    assert expr.lower_script("print('${{ 'ok' }}')", shell).text == "print('ok')"


def test_unsafe_interpolation_keeps_the_script_a_template() -> None:
    """The author has asked for the value to be pasted, so the text stays a template."""
    assert expr.lower_script("eval ${{ x.a }}", "python", unsafe=True) == expr.Script(text="eval ${{ x.a }}")


def test_a_script_without_expressions_is_unchanged() -> None:
    """This holds for any content."""
    assert expr.lower_script("echo '$((", "bash") == expr.Script(text="echo '$((")


def test_an_invalid_script_is_scanned_to_its_end() -> None:
    """The shell itself will report unclosed quotes, stray parentheses and the like."""
    for text in ("'", '"$(', "${", "`", "$((", "case x in", ")", "<<", "<<A", "}", "$'", "\\", "((", "[[", "a[", ";;"):
        for script in (text + X, X + text, text + X + text):
            expr.check_script(script, "bash")


def test_excessive_nesting_in_a_script_is_an_error() -> None:
    """The scanner's stack is limited, so its time is linear."""
    for opening in ("$(", "x (", "${x:-", '"$(', "<("):
        with pytest.raises(expr.ExpressionError) as caught:
            expr.check_script(X + "\n" + opening * 200, "bash")
        assert caught.value.code == errors.BOUND
