"""Steps of a declarative pipeline as steps of a job.

Rules of this file: a step that has no counterpart becomes one that fails, with its source as a comment; one that only
reports (test results, messages) becomes one that logs, so that a run does not fail because of it. Blocks around steps
(`dir`, `withEnv`, `timeout`) become keys of these steps.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from waterflowd.importers import writing
from waterflowd.importers.generated import WHOLE_PATHS, written_minutes
from waterflowd.importers.jenkins import groovy
from waterflowd.importers.jenkins.groovy import Statement
from waterflowd.importers.jenkins.values import (
    NotLiteral,
    arguments_of,
    list_of,
    minutes_of,
    secret_name,
    text_of,
    whole_number_of,
)
from waterflowd.importers.origin import Names, Unreadable, slug
from waterflowd.model.plan import Json

#: Steps that show results or tell people.
_REPORTS = frozenset(
    (
        *(
            "junit",
            "publishHTML",
            "publishCoverage",
            "cobertura",
            "jacoco",
            "recordIssues",
            "recordCoverage",
            "step",
            "xunit",
        ),
        *("mail", "emailext", "slackSend", "office365ConnectorSend", "hipchatSend", "telegramSend", "fingerprint"),
        *("githubNotify", "updateGitlabCommitStatus", "currentBuild.result", "currentBuild.displayName"),
    )
)
#: Steps that are not necessary here, and why.
_UNNECESSARY = {
    "cleanWs": "each run has its own directory",
    "deleteDir": "each run has its own directory",
    "checkout": "the job's directory has the files of the commit",
}
#: Blocks that only change how the output looks.
_LOOKS = frozenset(("timestamps", "ansiColor", "wrap", "node", "stage"))


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the blocks around a step, and its stage, say about it."""

    name: str = ""
    condition: str = ""
    directory: str = ""
    env: tuple[tuple[str, str], ...] = ()
    minutes: float | None = None
    attempts: int | None = None
    continues: bool = False
    #: Tells the instances of a matrix apart.
    instance: str = ""


@dataclass
class StepWriter:
    """Writes steps, with the comments of the source above them."""

    #: Records a decision about a line; returns the comment.
    decide: Callable[[int, str], str]
    change: Callable[[int, str], None]
    steps: writing.Items = field(default_factory=writing.Items)
    #: Names of the archives of the pipeline.
    archives: Names = field(default_factory=Names)

    def write(self, statements: list[Statement], around: Around) -> None:
        """Add the steps of a block."""
        for statement in statements:
            try:
                self._write(statement, around)
            except NotLiteral as error:
                self._fail(statement, around, f"{statement.name or 'this step'} uses {error}, which a program computes")

    def _write(self, statement: Statement, around: Around) -> None:
        positional, named = arguments_of(statement.arguments)
        first = positional[0] if positional else ""
        match statement.name:
            case "sh":
                self._shell(statement, around, named.get("script", first), named)
            case "echo" | "println" | "print":
                message = text_of(named.get("message", first) or "''")
                self._add(around, statement, {"uses": "log", "with": {"message": message}})
            case "error":
                self._add(
                    around, statement, {"uses": "fail", "with": {"message": text_of(named.get("message", first))}}
                )
            case "sleep":
                self._sleep(statement, around, named.get("time", first), named)
            case "input":
                self._input(statement, around, named.get("message", first), named)
            case "stash" | "archiveArtifacts":
                self._upload(statement, around, first, named)
            case "unstash":
                parameters = {"name": text_of(named.get("name", first))}
                self._add(around, statement, {"uses": "artifact/download", "with": parameters})
            case "script":
                self._script(statement, around)
            case name if statement.block is not None:
                self._block(statement, name, around, first, named)
            case name if name in _UNNECESSARY and "scm" in (first or "scm"):
                self.change(statement.line, f"{statement.text}: left out, {_UNNECESSARY[name]}")
            case name if name in _REPORTS:
                sentence = f"{name} is not done here; see summaries and notices"
                comment = self.decide(statement.line, sentence)
                self._add(around, statement, {"uses": "log", "with": {"message": sentence}}, comment, statement.text)
            case name:
                self._fail(statement, around, f"{name or 'this'} has no counterpart")

    def _shell(self, statement: Statement, around: Around, script: str, named: dict[str, str]) -> None:
        text = text_of(script, is_script=True)
        extra = [key for key in ("returnStdout", "returnStatus") if named.get(key) == "true"]
        if extra:
            raise NotLiteral(", ".join(extra))
        body = textwrap.dedent(text.strip("\n").rstrip())
        step: dict[str, Json] = {"run": body + "\n" if "\n" in body else body}
        name = text_of(named["label"]) if "label" in named else around.name
        self._add(replace(around, name=name), statement, step)

    def _sleep(self, statement: Statement, around: Around, time: str, named: dict[str, str]) -> None:
        seconds = minutes_of(time, named.get("unit"), "SECONDS") * 60
        self._add(around, statement, {"uses": "sleep", "with": {"duration": f"{round(seconds)}s"}})

    def _input(self, statement: Statement, around: Around, message: str, named: dict[str, str]) -> None:
        parameters: dict[str, Json] = {"message": text_of(message)}
        if "submitter" in named:
            parameters["approvers"] = [name.strip() for name in text_of(named["submitter"]).split(",")]
        comments = []
        if set(named) - {"message", "submitter", "ok"}:
            comments.append(
                self.decide(statement.line, "parameters of input have no counterpart: use inputs of the workflow")
            )
            comments.append(statement.text)
        self._add(around, statement, {"uses": "approval", "with": parameters}, *comments)

    def _upload(self, statement: Statement, around: Around, first: str, named: dict[str, str]) -> None:
        included = text_of(named.get("includes") or named.get("artifacts") or first or "'**'")
        excluded = text_of(named["excludes"]) if "excludes" in named else ""
        paths = [path.strip() for path in included.split(",")] + [
            f"!{path.strip()}" for path in excluded.split(",") if path
        ]
        name = text_of(named["name"]) if "name" in named else self._archive_name(around)
        comments = []
        left = set(named) - {"includes", "artifacts", "excludes", "name", "allowEmpty", "allowEmptyArchive"}
        if left:
            comments.append(
                self.decide(statement.line, f"{', '.join(sorted(left))} of {statement.name}: no counterpart")
            )
            comments.append(statement.text)
        parameters: dict[str, Json] = {"name": name, "path": "\n".join(paths), **WHOLE_PATHS}
        if "true" not in (named.get("allowEmpty"), named.get("allowEmptyArchive")):
            parameters["if-no-files-found"] = "error"
        if statement.name == "stash":
            # A later stash of the same name replaces it.
            parameters["overwrite"] = True
        step: dict[str, Json] = {"uses": "artifact/upload", "with": parameters}
        self._add(around, statement, step, *comments)

    def _archive_name(self, around: Around) -> str:
        """A name of its own for each archive of the pipeline, because names of artifacts are unique in a run."""
        name = self.archives.take(f"archive-{slug(around.name, 'files')}")
        return f"{name}-{around.instance}" if around.instance else name

    def _script(self, statement: Statement, around: Around) -> None:
        """Write a script block whose statements are steps; anything else in it is a program."""
        try:
            inner = groovy.parse(statement.body, statement.line)
        except Unreadable:
            inner = []
        trial = StepWriter(decide=lambda line, text: text, change=lambda line, text: None)
        trial.write(inner, around)
        is_program = not inner or any(_is_failure(value) for value, _ in trial.steps.items)
        if is_program:
            self._fail(statement, around, "a script block is a program in Groovy: write it as run")
        else:
            self.write(inner, around)

    def _block(self, statement: Statement, name: str, around: Around, first: str, named: dict[str, str]) -> None:
        inner = statement.block or []
        match name:
            case "dir":
                path = text_of(named.get("path", first))
                inside = f"{around.directory}/{path}" if around.directory else path
                # Jenkins creates the directory; a step needs one that exists.
                made = Around(name=around.name, condition=around.condition)
                self._add(made, statement, {"run": f"mkdir -p {shlex.quote(inside)}"})
                self.write(inner, replace(around, directory=inside))
            case "withEnv":
                pairs = [text_of(item).partition("=") for item in list_of(first)]
                self.write(inner, replace(around, env=(*around.env, *((key, value) for key, _, value in pairs))))
            case "withCredentials":
                self.write(inner, replace(around, env=(*around.env, *self._credentials(statement, first))))
            case "timeout":
                minutes = minutes_of(named.get("time", first), named.get("unit"), "MINUTES")
                self.write(inner, replace(around, minutes=minutes))
            case "retry":
                self._retry(statement, around, whole_number_of(named.get("count", first)))
            case "catchError" | "warnError":
                self.write(inner, replace(around, continues=True))
            case _ if name in _LOOKS:
                self.change(statement.line, f"{name}: its steps are imported without it")
                self.write(inner, around)
            case _:
                self._fail(statement, around, f"{name} has no counterpart")

    def _retry(self, statement: Statement, around: Around, attempts: int) -> None:
        if len(statement.block or []) > 1:
            comment = self.decide(
                statement.line, "retry repeats these steps together; here each step is tried again alone"
            )
            self.write(statement.block or [], replace(around, attempts=attempts))
            self._comment_last(comment)
            return
        self.write(statement.block or [], replace(around, attempts=attempts))

    def _comment_last(self, comment: str) -> None:
        if self.steps.items:
            value, comments = self.steps.items[-1]
            self.steps.items[-1] = (value, (*comments, comment))

    def _credentials(self, statement: Statement, source: str) -> list[tuple[str, str]]:
        pairs = []
        for item in list_of(source):
            call = groovy.parse(item, statement.line)[0]
            _, named = arguments_of(call.arguments)
            secret = secret_name(text_of(named.get("credentialsId", "''")))
            names = {
                "string": {"variable": ""},
                "usernamePassword": {"usernameVariable": "_USR", "passwordVariable": "_PSW"},
                "usernameColonPassword": {"variable": ""},
            }.get(call.name)
            if names is None:
                raise NotLiteral(item)
            for key, suffix in names.items():
                if key in named:
                    pairs.append((text_of(named[key]), f"${{{{ secrets.{secret}{suffix} }}}}"))
                    self.change(
                        statement.line, f"credentials {named['credentialsId']}: the secret {secret}{suffix}: store it"
                    )
        return pairs

    def _fail(self, statement: Statement, around: Around, sentence: str) -> None:
        comment = self.decide(statement.line, sentence)
        message = sentence.replace("${{", "$ {{")
        self._add(around, statement, {"uses": "fail", "with": {"message": message}}, comment, statement.text)

    def _add(self, around: Around, statement: Statement, step: dict[str, Json], *comments: str) -> None:
        block = writing.Block()
        is_script = "run" in step
        if around.name:
            block.set("name", around.name)
        if around.condition:
            block.set("if", around.condition)
        for key, value in step.items():
            block.set(key, value)
        if around.directory and is_script:
            block.set("working-directory", around.directory)
        if around.env and is_script:
            block.set("env", dict(around.env))
        if around.minutes is not None:
            block.set("timeout-minutes", written_minutes(around.minutes))
        if around.attempts is not None and is_script:
            block.set("retry", {"max-attempts": around.attempts})
        if around.continues:
            block.set("continue-on-error", True)
        self.steps.add(block, *statement.comments, *comments)


def _is_failure(value: writing.Value) -> bool:
    return isinstance(value, writing.Block) and any(
        each.key == "uses" and each.value == "fail" for each in value.entries
    )
