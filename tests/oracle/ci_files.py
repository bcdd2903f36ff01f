"""Turns a workflow file of GitHub into workflows to compare, one for each job.

The scripts stay as they are. All programs that they call, except for a few that only handle text and files, record their
arguments instead. A value that only GitHub or an action knows becomes an input; the values of a matrix, variables and
outputs of earlier steps stay expressions.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.oracle.reference import SHELLS
from waterflowd.dsl import Severity, compile_workflow


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Programs that run for real: they only read and print, or handle files of the job's directory.
_REAL = _words(
    """
    cat cut dirname basename echo env expr false find fold grep head join ls mkdir nl paste printenv printf
    pwd realpath rev sed seq sort sha256sum md5sum tail tee test touch tr true uniq wc xargs awk jq base64
    dash bash sh args end
    """
)
_BUILTINS = _words(
    """
    alias break builtin cd command compgen continue declare eval exec exit export for if then else elif fi do
    done case esac in while until function getopts hash let local mapfile popd pushd read readarray readonly
    return select set shift shopt source time trap type typeset ulimit umask unset wait
    """
)
#: Always recorded, wherever a script names them.
_RECORDED = _words(
    """
    apt apt-get brew cargo chmod chown cmake composer cp curl date dd docker dotnet gem gh git go gpg gradle
    helm install java kill kubectl ln make mktemp mount mv mvn nc node nproc npm npx pip pip3 pipx pkill pnpm
    python python3 rm rsync ruby rustup scp service sleep ssh sudo systemctl tar terraform uname unzip uv wget
    yarn zip
    """
)
_COMMAND = re.compile(
    r"(?:^|[;&|(!]|\$\(|\b(?:then|do|else|if|while|until|env|exec|sudo|time)\s)\s*(?:\w+=\S*\s+)*([A-Za-z][\w.+-]*)",
    re.M,
)
#: Scripts that touch what is outside of the job's directory, never end, or give another result each time.
_UNSUITABLE = re.compile(
    r"(^|[\s>=\"':(])(/(?!dev/null|dev/stdout|dev/stderr)[a-zA-Z]|~|\$\{?HOME)|\$RANDOM|\$\$|/dev/tcp|\bsleep\b|[^&>|]&\s*$|\$\{?RUNNER_"
    r"|\$\{?GITHUB_(?!OUTPUT|ENV|PATH|STEP_SUMMARY|WORKSPACE)|\$SECONDS|\bps\b|\bwhoami\b|\bhostname\b|\bdf\b|\bid\b|\bps\b",
    re.M,
)
_EXPRESSION = re.compile(r"\$\{\{((?:[^'}]|'[^']*'|\}(?!\}))*)\}\}", re.DOTALL)
#: Comments, escaped characters, texts in double quotes, also up to the end, and texts in single quotes that end.
_QUOTED = re.compile(r"""(?:^|(?<=\s))\#.*|\\.|"(?:\\.|[^"\\])*(?:"|\Z)|'[^']*'""", re.M)
_INERT = re.compile(r"[\w./:@%+,-]+")
_VALUES = [
    "v1.2.3",
    "refs/heads/main",
    "octo-org/octo-repo",
    "true",
    "x86_64-unknown-linux-gnu",
    "a1b2c3d4",
    "3.12",
    "",
    "release notes",
]
STEPS_MAX = 12


@dataclass(frozen=True, kw_only=True)
class CiJob:
    """A job of a real file as a workflow to compare, and the programs that have to record their arguments."""

    name: str
    workflow: dict[str, Any]
    recorders: frozenset[str]
    #: The number of its scripts, and of those that cannot be compared.
    scripts: int
    unsuitable: int


def jobs(name: str, content: str) -> Iterator[CiJob]:
    """Yields the jobs of a file that have scripts for bash or sh."""
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError:
        # A template that its generator completes.
        return
    for job_id, job in (document.get("jobs") or {}).items():
        if isinstance(job, dict) and (made := _job(f"{name}:{job_id}", document, job)) is not None:
            yield made


def without_rejected(workflow: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns a workflow without the scripts that the compiler rejects, and the codes of their errors."""
    made = copy.deepcopy(dict(workflow))
    codes: list[str] = []
    remaining = _errors(made)
    for step in made["jobs"]["job"]["steps"]:
        if not remaining:
            break
        script, step["run"] = step["run"], ":"
        if len(fewer := _errors(made)) < len(remaining):
            codes.append(remaining[0])
            remaining = fewer
        else:
            step["run"] = script
    return made, codes


def as_data(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the workflow with a variable for each expression of its scripts, except for those of the matrix."""
    made = copy.deepcopy(dict(workflow))
    for step in made["jobs"]["job"]["steps"]:
        variables: dict[str, str] = {}
        step["run"] = _with_variables(step["run"], variables)
        if variables:
            step["env"] = {
                **step.get("env", {}),
                **{name: f"${{{{ {source} }}}}" for source, name in variables.items()},
            }
    yield made


def _with_variables(script: str, variables: dict[str, str]) -> str:
    """Returns the script with variables for its expressions, which are named and added to `variables`."""

    def replaced(found: re.Match[str]) -> str:
        source = found.group(1).strip()
        if source.startswith("matrix."):
            return found.group()
        name = variables.setdefault(source, f"DATA_{len(variables) + 1}")
        return f"'\"${{{name}}}\"'" if _is_in_single_quotes(script[: found.start()]) else f"${{{name}}}"

    return _EXPRESSION.sub(replaced, script)


def _is_in_single_quotes(before: str) -> bool:
    return before.endswith("'") or _QUOTED.sub("", before).count("'") % 2 == 1


def is_interpreted(substituted: Mapping[str, set[str]]) -> bool:
    """Returns whether a shell may interpret one of the texts that expressions were replaced by."""
    return any(not _INERT.fullmatch(text) for texts in substituted.values() for text in texts)


def _errors(workflow: Mapping[str, Any]) -> list[str]:
    found = compile_workflow("compared.yml", json.dumps(workflow, ensure_ascii=False).encode()).diagnostics
    return [each.code for each in found if each.severity is Severity.ERROR]


def _job(name: str, document: Mapping[str, Any], job: Mapping[str, Any]) -> CiJob | None:
    defaults = {**_run_defaults(document), **_run_defaults(job)}
    written = [{**defaults, **step} for step in job.get("steps") or [] if isinstance(step, dict) and "run" in step]
    scripts = [step for step in written if step.get("shell") in SHELLS and isinstance(step["run"], str)]
    chosen = [step for step in scripts if not _UNSUITABLE.search(step["run"])][:STEPS_MAX]
    if not chosen:
        return None
    values = _Values(_matrix(job), {step["id"] for step in chosen if "id" in step})
    steps = [values.step(step) for step in chosen]
    words = {word for step in chosen for word in _COMMAND.findall(_EXPRESSION.sub(" ", step["run"]))}
    env = values.table({**_table(document), **_table(job)})
    return CiJob(
        name=name,
        workflow=_workflow(values, env, steps),
        recorders=frozenset(words - _REAL - _BUILTINS) | _RECORDED,
        scripts=len(scripts),
        unsuitable=len(scripts) - len(chosen),
    )


def _workflow(values: _Values, env: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    begin = {"run": 'mkdir -p "$RECORD"; echo "$BIN" >> "$GITHUB_PATH"'}
    folders = sorted({step["working-directory"] for step in steps if "working-directory" in step})
    if folders:
        begin["run"] += "\nmkdir -p " + " ".join(f'"{folder}"' for folder in folders)
    job: dict[str, Any] = {"runs-on": "web", "env": {**env, "RECORD": "PLACE/0", "BIN": "PROGRAMS"}}
    if values.matrix:
        job["strategy"] = {"matrix": {key: [value] for key, value in values.matrix.items()}}
    job["steps"] = [begin, *steps, {"if": "always()", "run": "end"}]
    inputs = {name: {"default": value} for name, value in values.inputs.items()}
    return {"on": {"workflow_dispatch": {"inputs": inputs}}, "jobs": {"job": job}}


def _run_defaults(part: Mapping[str, Any]) -> dict[str, Any]:
    found = (part.get("defaults") or {}).get("run") or {}
    return {key: value for key, value in found.items() if key in ("shell", "working-directory")}


def _table(part: Mapping[str, Any]) -> dict[str, Any]:
    found = part.get("env")
    return found if isinstance(found, dict) else {}


def _matrix(job: Mapping[str, Any]) -> dict[str, Any]:
    """The first value of each dimension that the file has as text or a number."""
    found = (job.get("strategy") or {}).get("matrix")
    if not isinstance(found, dict):
        return {}
    first = {
        key: values[0] for key, values in found.items() if isinstance(values, list) and values and key != "exclude"
    }
    included = first.pop("include", {})
    first |= included if isinstance(included, dict) else {}
    return {
        key: value
        for key, value in first.items()
        if isinstance(value, str | bool | int) and "${{" not in str(value) and re.fullmatch(r"[A-Za-z_][\w-]*", key)
    }


class _Values:
    """Replaces the expressions of a job by ones that have a value here."""

    def __init__(self, matrix: dict[str, Any], ids: set[str]) -> None:
        self.matrix = matrix
        self.inputs: dict[str, str] = {}
        self._ids = ids

    def step(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a step with its script, environment, shell, id and directory."""
        made: dict[str, Any] = {"run": self._replaced(step["run"]), "continue-on-error": True}
        made |= {key: step[key] for key in ("id", "shell") if key in step}
        if (folder := step.get("working-directory")) is not None:
            made["working-directory"] = re.sub(r"[^\w./-]+", "-", str(folder)).lstrip("/")
        if env := self.table(_table(step)):
            made["env"] = env
        return made

    def table(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """Returns variables; those that name programs or the home directory of a machine are left out."""
        kept = {name: value for name, value in env.items() if name not in ("PATH", "HOME")}
        return {name: self._replaced(value) if isinstance(value, str) else value for name, value in kept.items()}

    def _replaced(self, text: str) -> str:
        return _EXPRESSION.sub(lambda found: self._known(found.group(1).strip()), text)

    def _known(self, source: str) -> str:
        path = re.fullmatch(r"(env|matrix|steps)\.([\w-]+)((?:\.[\w-]+)*)", source)
        if path is not None:
            context, name, rest = path.groups()
            is_output = context == "steps" and name in self._ids and rest.startswith(".outputs.")
            if (
                is_output
                or (context == "env" and not rest)
                or (context == "matrix" and name in self.matrix and not rest)
            ):
                return f"${{{{ {source} }}}}"
        number = hashlib.sha256(source.encode()).digest()[0]
        name = f"v{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        self.inputs[name] = _VALUES[number % len(_VALUES)]
        return f"${{{{ inputs.{name} }}}}"
