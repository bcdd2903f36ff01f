"""The steps of a Rundeck job as steps of a job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from waterflowd.importers import writing
from waterflowd.importers.generated import as_literal
from waterflowd.importers.rundeck.options import Options, is_true
from waterflowd.importers.validity import stand_ins
from waterflowd.importers.writing import flow_text
from waterflowd.model.plan import Json

_KNOWN = frozenset(
    (
        *("exec", "script", "scriptfile", "scripturl", "jobref", "args", "scriptargs", "description", "errorhandler"),
        *("scriptinterpreter", "scriptInterpreter", "keepgoingOnSuccess", "fileExtension", "interpreterArgsQuoted"),
    )
)


@dataclass
class StepWriter:
    """Writes the steps of one job."""

    options: Options
    decide: Callable[[str], str]
    #: Names of the workflow files of other jobs, by their names on Rundeck.
    files: dict[str, str]
    keeps_going: bool

    def write(self, commands: list[Json]) -> writing.Items:
        """Return the steps."""
        steps = writing.Items()
        for number, command in enumerate(commands, 1):
            if not isinstance(command, dict):
                sentence = self.decide(f"step {number} is not imported: {flow_text(command)}")
                steps.add(_failing(sentence), sentence)
                continue
            handler = command.get("errorhandler")
            block, comments = self._step(command, number)
            if number > 1 and self.keeps_going:
                block.entries.insert(0, _entry("if", "!cancelled()"))
            if isinstance(handler, dict):
                self._with_handler(steps, block, comments, handler, number)
            else:
                steps.add(block, *comments)
        return steps

    def _with_handler(
        self, steps: writing.Items, block: writing.Block, comments: list[str], handler: dict[str, Json], number: int
    ) -> None:
        block.entries.insert(0, _entry("id", f"step-{number}"))
        keeps_going = is_true(handler.get("keepgoingOnSuccess"))
        if keeps_going:
            block.set("continue-on-error", True)
        steps.add(block, *comments)
        rescue, others = self._step(handler, number)
        condition = f"steps.step-{number}.outcome == 'failure'"
        rescue.entries.insert(0, _entry("if", condition if keeps_going else f"failure() && {condition}"))
        steps.add(rescue, *others)

    def _step(self, command: dict[str, Json], number: int) -> tuple[writing.Block, list[str]]:
        block = writing.Block()
        comments: list[str] = []
        if command.get("description"):
            block.set("name", as_literal(str(command["description"])))
        if "exec" in command:
            block.set("run", self._expanded(str(command["exec"])))
        elif "script" in command:
            comments += self._script(block, command, number)
        elif "scriptfile" in command or "scripturl" in command:
            comments += self._script_file(block, command, number)
        elif "jobref" in command:
            comments += self._job_reference(block, command["jobref"], number)
        else:
            sentence = self.decide(f"step {number}: a plugin has no counterpart: {flow_text(command)}")
            block.entries += _failing(sentence).entries
            return block, [sentence]
        left = {key: value for key, value in command.items() if key not in _KNOWN}
        if left:
            comments.append(self.decide(f"step {number}: no counterpart: {flow_text(left)}"))
        return block, comments

    def _script(self, block: writing.Block, command: dict[str, Json], number: int) -> list[str]:
        text = str(command["script"]).replace("\r\n", "\n")
        arguments = str(command.get("args") or command.get("scriptargs") or "")
        interpreter = str(command.get("scriptInterpreter") or command.get("scriptinterpreter") or "")
        shebang = re.match(r"#!\s*(\S.*)", text)
        comments = []
        if interpreter or shebang:
            program = interpreter or (shebang[1].strip() if shebang else "")
            block.set("shell", f"{program} {{0}}{' ' + self._expanded(arguments) if arguments else ''}")
        elif arguments:
            block.set("shell", f"bash {{0}} {self._expanded(arguments)}")
        expanded = self.options.expanded(text, self.decide, is_script=True)
        block.set("run", expanded if expanded.endswith("\n") or "\n" not in expanded else expanded + "\n")
        for key in ("fileExtension", "interpreterArgsQuoted"):
            if command.get(key) is not None:
                comments.append(self.decide(f"step {number}: {key} is left out: {command[key]}"))
        return comments

    def _script_file(self, block: writing.Block, command: dict[str, Json], number: int) -> list[str]:
        where = str(command.get("scriptfile") or command.get("scripturl"))
        arguments = self._expanded(str(command.get("args") or command.get("scriptargs") or ""))
        interpreter = str(command.get("scriptInterpreter") or command.get("scriptinterpreter") or "bash")
        if "scripturl" in command:
            sentence = self.decide(f"step {number}: the script {where} is not fetched here: put it into the repository")
            block.entries += _failing(sentence).entries
            return [sentence]
        block.set("run", f"{interpreter} {shlex.quote(where)} {arguments}".strip())
        return [self.decide(f"step {number}: {where} is a file of the Rundeck server: put it into the repository")]

    def _job_reference(self, block: writing.Block, reference: Json, number: int) -> list[str]:
        found = reference if isinstance(reference, dict) else {"name": reference}
        name = str(found.get("name") or found.get("uuid") or "")
        file = self.files.get(name)
        argument = found.get("args") or (found.get("arg") or {})
        line = argument.get("line", "") if isinstance(argument, dict) else str(argument)
        if file is None:
            sentence = self.decide(f"step {number}: the job {name} is not among the imported ones: {flow_text(found)}")
            block.entries += _failing(sentence).entries
            return [sentence]
        block.set("uses", "workflow/run")
        parameters: dict[str, Json] = {"workflow": f"{file}.yml"}
        if inputs := self._arguments(str(line)):
            parameters["inputs"] = inputs
        block.set("with", parameters)
        left = {key: value for key, value in found.items() if key not in ("name", "args", "arg", "group", "uuid")}
        return [self.decide(f"step {number}: no counterpart: {flow_text(left)}")] if left else []

    def _arguments(self, line: str) -> dict[str, Json]:
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        pairs: dict[str, Json] = {}
        name = ""
        for word in words:
            if word.startswith("-") and len(word) > 1:
                name = word.lstrip("-")
                pairs[name] = ""
            elif name:
                pairs[name] = f"{pairs[name]} {self._expanded(word)}".strip()
        return pairs

    def _expanded(self, text: str) -> str:
        return self.options.expanded(text, self.decide)


def _failing(sentence: str) -> writing.Block:
    step = stand_ins.failing_step(sentence.partition(": ")[2])
    block = writing.Block()
    for key, value in step.items():
        block.set(key, value)
    return block


def _entry(key: str, value: Json) -> writing.Entry:
    return writing.Entry(key=key, value=value)
