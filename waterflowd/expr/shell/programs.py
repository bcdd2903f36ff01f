"""Programs that run code from their arguments or their input: how each one takes it. Tables only.

The tables cover programs that scripts commonly use, not all. invocations.py applies them to the commands of a script.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Operands(Enum):
    """Which operands of a program are code."""

    NONE = "none"
    FIRST = "the first, such as the program of awk"
    AFTER_FIRST = "all but the first, such as the command of `ssh host command`"
    ALL = "all"


class Input(Enum):
    """When a program runs its standard input as code."""

    NEVER = "never"
    #: Interpreters: without code in an argument, and without an operand that names a script.
    WITHOUT_SCRIPT = "unless an argument names or contains a script"
    #: Clients that read statements or commands, whatever their operands are.
    WITHOUT_CODE = "unless an argument contains code"
    NAMED = "if an argument names standard input"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How a program takes code.

    Options are regular expressions for the text of an option with its dashes, and of a long option up to its `=`. A value is
    the next argument, or the rest of the same one (`-eCODE`, `--eval=CODE`).
    """

    #: Options whose value is code.
    code_options: str = ""
    #: Options whose value is code that runs beside the script, so that the program still reads one.
    load_options: str = ""
    #: Options whose value is a setting `KEY=VALUE`, and the settings that are commands.
    setting_options: str = ""
    command_settings: str = ""
    #: Other options that take the next argument as their value, so that it is not an operand.
    value_options: str = ""
    operands: Operands = Operands.NONE
    #: Options after which no operand is code, such as `-f` of awk.
    without_operands: str = ""
    #: An argument after which every other one is code, such as `eval` of deno.
    code_after: str = ""
    input: Input = Input.NEVER
    #: An example of an option that runs code, for programs that may take a value for it: `--` must precede the value.
    risky_option: str = ""
    #: An option with which the program runs no commands.
    safe_option: str = ""
    #: Whether it is recognized anywhere in a command (`kubectl exec web -- bash -c`), not only where a command starts.
    is_interpreter: bool = False


def _interpreter(
    code_options: str, *, load_options: str = "", code_after: str = "", reads: Input = Input.WITHOUT_SCRIPT
) -> Program:
    return Program(
        code_options=code_options, load_options=load_options, code_after=code_after, input=reads, is_interpreter=True
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _named(program: Program, names: str) -> dict[str, Program]:
    return dict.fromkeys(names.split(), program)


_SSH_COMMANDS = r"(?i)(?:proxycommand|localcommand|remotecommand|knownhostscommand|[^= ]*\0[^= ]*)(?:[ =].*)?"
_SSH = Program(
    setting_options="-[A-Za-z0-9]*o.*",
    command_settings=_SSH_COMMANDS,
    value_options="-[A-Za-z0-9]*[BbcDEeFIiJLlmOPpQRSWw]",
    operands=Operands.AFTER_FIRST,
    input=Input.WITHOUT_CODE,
    risky_option="-oProxyCommand=...",
)
_COPY = Program(
    code_options="-S",
    setting_options="-[A-Za-z0-9]*o.*",
    command_settings=_SSH_COMMANDS,
    value_options="-[A-Za-z0-9]*[bcDFiJlPRXB]",
    input=Input.NAMED,
    risky_option="-oProxyCommand=...",
)
_GIT = Program(
    code_options="--exec|--extcmd|--upload-pack|--receive-pack|--open-files-in-pager|--[a-z]+-filter",
    setting_options="-c",
    command_settings=(
        r"(?i)(?:(?:alias|filter|pager|include|includeif|protocol)\.[^=]*|diff\.external|submodule\.[^=]*\.update"
        r"|core\.(?:sshcommand|editor|pager|fsmonitor|hookspath|askpass|gitproxy|alternaterefscommand)|sequence\.editor"
        r"|[^=]*\.(?:command|cmd|driver|textconv|helper|program|proxycommand|uploadpack|receivepack|vcs)|[^=]*\0[^=]*)"
        r"(?:=.*)?"
    ),
    code_after="foreach",
)
#: Options whose value is a command, and code or a name that a value could be taken for, of single subcommands of Git.
_GIT_CODE_OPTIONS = {"rebase": "-[a-z]*x", "difftool": "-x", "grep": "-O.*", "clone": "-u"}
_GIT_REMOTE_COMMANDS = frozenset({"clone", "fetch", "pull", "push", "ls-remote", "fetch-pack", "send-pack", "archive"})

_DATABASE_OPTIONS = (
    "-[A-Za-z]*[dfFhLopPRTUvDSu]|--dbname|--host|--port|--username|--user|--database|--socket|--set|--file"
)
_STATEMENTS = Input.WITHOUT_CODE

#: Programs by name, without the version in the name (`python3.12`).
_PROGRAMS: dict[str, Program] = {
    **_named(
        _interpreter("-[A-Za-z]*c|--command|--init-command|-C"),
        "$SHELL $BASH bash sh dash ash ksh mksh yash zsh fish csh tcsh rbash su",
    ),
    **_named(Program(code_options="-[A-Za-z]*c|--command|--session-command"), "runuser sg script flock"),
    **_named(_interpreter("-[A-Za-z]*c.*|--command", code_after="timeit|-[A-Za-z]*mtimeit"), "python pypy ipython"),
    "perl": _interpreter("-[A-Za-z0-9]*[eE].*|--eval", load_options="-[MmF].*"),
    "ruby": _interpreter("-[A-Za-z0-9]*e.*|--eval", load_options="-r.*|--require"),
    **_named(_interpreter("-[A-Za-z]*[ep].*|--eval|--print", load_options="-r|--require|--import"), "node nodejs bun"),
    "deno": _interpreter("--eval", code_after="eval"),
    "php": _interpreter(
        "-[A-Za-z]*[rBRE].*|--run|--process-begin|--process-code|--process-end", load_options="-d.*|--define"
    ),
    **_named(_interpreter("-e.*|--eval", load_options="-l.*"), "lua luajit texlua"),
    **_named(_interpreter("(?i:-c[a-z]*|-e[a-z]*)"), "pwsh powershell"),
    **_named(_interpreter("-e"), "R Rscript osascript groovy scala swift ghc runghc clojure elixir irb iex ghci"),
    "julia": _interpreter("-[A-Za-z]*[eE]|--eval|--print", load_options="-L|--load"),
    "erl": _interpreter("-eval|-run"),
    "guile": _interpreter("-[ce]"),
    "racket": _interpreter("-[A-Za-z]*e|--eval"),
    **_named(_interpreter("--?eval|--?execute|-e", reads=Input.NEVER), "sbcl emacs emacsclient"),
    **_named(_interpreter("-[A-Za-z]*c"), "tclsh wish expect jshell"),
    **_named(_interpreter("--eval"), "octave"),
    "gnuplot": _interpreter("-[A-Za-z]*e"),
    "m4": Program(load_options="-D.*|--define", input=Input.WITHOUT_SCRIPT),
    **_named(
        Program(
            code_options="-e|--source",
            value_options="-[vFil]|--assign|--field-separator|--include|--load",
            operands=Operands.FIRST,
            without_operands="-f.*|--file|-E.*|--exec",
            input=Input.NAMED,
        ),
        "awk gawk mawk nawk original-awk",
    ),
    "sed": Program(
        code_options="-[A-Za-z]*e.*|--expression",
        value_options="-l|--line-length",
        operands=Operands.FIRST,
        without_operands="-[A-Za-z]*e.*|--expression|-[A-Za-z]*f.*|--file",
        input=Input.NAMED,
        safe_option="--sandbox",
    ),
    # Database clients have commands that start a shell: `\!`, `system`, `.shell`.
    "psql": Program(
        code_options="-[A-Za-z]*c.*|--command",
        value_options=_DATABASE_OPTIONS,
        input=_STATEMENTS,
        risky_option=r"-c\!...",
        is_interpreter=True,
    ),
    **_named(
        Program(
            code_options="-[A-Za-z]*e.*|--execute|--init-command",
            value_options=_DATABASE_OPTIONS,
            input=_STATEMENTS,
            risky_option=r"-e\!...",
            is_interpreter=True,
        ),
        "mysql mariadb",
    ),
    **_named(
        Program(
            code_options="--?c(?:md)?",
            operands=Operands.AFTER_FIRST,
            input=_STATEMENTS,
            risky_option="-cmd",
            is_interpreter=True,
        ),
        "sqlite sqlite3 duckdb",
    ),
    **_named(
        _interpreter("--eval|-[qQe].*|--execute|--query", reads=Input.ALWAYS), "mongo mongosh sqlcmd sqlplus cqlsh"
    ),
    # So have editors, debuggers, calculators and clients for transfers.
    **_named(Program(code_options=r"-[csS]|--cmd|\+.*", input=Input.ALWAYS), "vi vim nvim view ex rvim gvim"),
    **_named(Program(input=Input.ALWAYS), "ed red at batch"),
    "gdb": _interpreter("--?(?:i?ex|(?:init-)?eval-command)", reads=Input.ALWAYS),
    "lldb": _interpreter("-[oOkK]|--one-line.*", reads=Input.ALWAYS),
    "dc": _interpreter("-e|--expression", reads=Input.ALWAYS),
    **_named(Program(code_options="-[ec]", input=Input.ALWAYS), "lftp ftp"),
    # Programs that start the commands in their arguments, in a file that they read, or in their options.
    **_named(
        Program(
            code_options="--eval|-E",
            value_options="-[A-Za-z]*[CfIjloW]|--directory|--file|--makefile|--include-dir|--jobs|--old-file|--what-if",
            operands=Operands.ALL,
            input=Input.NAMED,
        ),
        "make gmake bmake",
    ),
    "just": Program(value_options="-[fd]|--justfile|--working-directory", operands=Operands.ALL, input=Input.NAMED),
    **_named(_SSH, "ssh rsh mosh slogin"),
    **_named(_COPY, "scp sftp"),
    "rsync": Program(
        code_options="-[A-Za-z]*e.*|--rsh|--rsync-path",
        value_options="-[A-Za-z]*[fBTM]|--exclude|--include|--filter|--files-from|--port|--bwlimit",
        risky_option="-e...",
    ),
    **_named(
        Program(
            code_options="--checkpoint-action|--to-command|-[A-Za-z]*[IF]|--use-compress-program|--info-script"
            "|--new-volume-script|--rsh-command|--rmt-command",
            value_options="-?[A-Za-z]*[fCTXbgHKLNV]|--file|--directory|--files-from|--exclude|--exclude-from|--transform",
            risky_option="--to-command=...",
        ),
        "tar gtar bsdtar",
    ),
    "git": _GIT,
    "zip": Program(code_options="-TT|--unzip-command", risky_option="-TT"),
    "crontab": Program(input=Input.NAMED),
    **_named(Program(operands=Operands.ALL), "eval alias compgen complete watch hyperfine"),
    "tmux": Program(value_options="-[A-Za-z]*[cefLSstTxyn]", operands=Operands.ALL),
    "screen": Program(code_options="-X"),
    **_named(Program(code_options="-e"), "xterm uxterm"),
    **_named(Program(code_options="-[A-Za-z]*[ec]|--exec|--sh-exec|--lua-exec"), "nc ncat netcat"),
    **_named(Program(code_options="-c|--call|--shell-mode"), "npx npm pnpm"),
    **_named(
        Program(code_options="-[ae]|--args|--extra-vars|--ssh-common-args|--ssh-extra-args"), "ansible ansible-playbook"
    ),
}

#: Commands that start the command in their arguments, after their own options.
LAUNCHERS = _names(
    "docker podman kubectl nsenter chroot runuser timeout flock stdbuf lxc unshare strace systemd-run find ionice chrt taskset"
    " setarch setpriv fakeroot xvfb-run script busybox"
)
#: Commands before another command, without operands of their own.
PREFIXES = _names("sudo exec command builtin nohup time env doas nice setsid")
#: Commands that start a command with arguments from their input. Without a command, `parallel` runs its input.
FEEDERS = frozenset({"xargs", "parallel"})
REMOTE = frozenset({"ssh", "rsh", "mosh", "slogin"})

#: Variables whose value bash, or a program that a script commonly starts, runs as code. Not `ENV`, which only interactive
#: shells read and which scripts often use for the name of an environment.
CODE_VARIABLES = _names(
    "PS4 BASH_ENV PROMPT_COMMAND GIT_SSH_COMMAND GIT_SSH GIT_EDITOR GIT_PAGER GIT_ASKPASS GIT_EXTERNAL_DIFF GIT_SEQUENCE_EDITOR"
    " GIT_PROXY_COMMAND RSYNC_RSH TAR_OPTIONS PAGER EDITOR VISUAL LESSOPEN LESSCLOSE SSH_ASKPASS LD_PRELOAD LD_AUDIT MAKEFLAGS"
    " GNUMAKEFLAGS PERL5OPT PERL5DB RUBYOPT NODE_OPTIONS PYTHONSTARTUP JAVA_TOOL_OPTIONS"
)


def program_of(name: str) -> Program | None:
    """Return the program of that name, without regard to a version in it (`python3.12`), or None."""
    return _PROGRAMS.get(name) or _PROGRAMS.get(name.rstrip("0123456789.-"))


def git_program(texts: list[str]) -> Program:
    """Return how Git takes code, with the subcommand among its arguments."""
    subcommand = next((text for text in texts if text in _GIT_CODE_OPTIONS or text in _GIT_REMOTE_COMMANDS), "")
    more = _GIT_CODE_OPTIONS.get(subcommand)
    return replace(
        _GIT,
        code_options=f"{_GIT.code_options}|{more}" if more else _GIT.code_options,
        risky_option="--upload-pack=..." if subcommand in _GIT_REMOTE_COMMANDS else "",
    )
