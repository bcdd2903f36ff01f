"""Writes a playbook as one workflow: each play is a job, after the one in front of it. Inventories become files of agents."""

from __future__ import annotations

import re
from collections.abc import Sequence

from waterflowd.dsl.reading.tree import Entry, Node
from waterflowd.importers import detection, generated, writing
from waterflowd.importers.ansible import inventory, jinja
from waterflowd.importers.ansible.jinja import Names, Untranslatable
from waterflowd.importers.ansible.modules import is_true
from waterflowd.importers.ansible.tasks import Place, TaskWriter
from waterflowd.importers.findings import Imported, WrittenFile
from waterflowd.importers.origin import Names as FileNames
from waterflowd.importers.origin import Origin, Unreadable, folder_of, joined, slug, stem_of
from waterflowd.importers.source_yaml import YamlSource, entries_of, items_of, texts_of, value_of
from waterflowd.model.plan import Json

_TRANSLATED = frozenset(
    (
        *(
            "name",
            "hosts",
            "tasks",
            "pre_tasks",
            "post_tasks",
            "handlers",
            "roles",
            "vars",
            "serial",
            "max_fail_percentage",
        ),
        *(
            "any_errors_fatal",
            "become",
            "become_user",
            "gather_facts",
            "environment",
            "connection",
            "tags",
            "remote_user",
        ),
    )
)
_PLAIN_TEMPLATE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def import_files(paths: Sequence[str], origin: Origin) -> Imported:
    """Import playbooks, inventories and files of variables."""
    imported, names = Imported(), FileNames()
    for path in paths:
        try:
            text = origin.text(path)
            if text.startswith("$ANSIBLE_VAULT;"):
                raise Unreadable("the file is encrypted by ansible-vault; store its values as secrets")
            if detection.holds_variables(path):
                _variables_file(text, path, imported)
            elif inventory.is_inventory(text, path):
                inventory.add_inventory(text, path, imported)
            else:
                _Writer(YamlSource(text, path, imported), origin, imported).write(names.take(stem_of(path)))
        except Unreadable as error:
            imported.refuse(path, str(error))
    return imported


def _variables_file(text: str, path: str, imported: Imported) -> None:
    values = value_of(YamlSource(text, path, imported).root)
    shown = writing.flow_text(values)
    imported.change(path, 0, f"not imported: write what the jobs need under vars, or as labels of the agents: {shown}")


class _Writer:
    """Writes one playbook."""

    def __init__(self, source: YamlSource, origin: Origin, imported: Imported) -> None:
        self._source = source
        self._origin = origin
        self._imported = imported
        self._variables: dict[str, Json] = {}
        self._notes: list[str] = []
        self._sources = [source]

    def write(self, name: str) -> None:
        """Write the workflow."""
        plays = items_of(self._source.root)
        if not plays or not all(entries_of(play) for play in plays):
            raise Unreadable("a playbook is a list of plays")
        jobs, ids = writing.Block(), FileNames()
        last: str | None = None
        for number, play in enumerate(plays, 1):
            comments = self._source.comments_at(play)
            id_ = ids.take(slug(self._play_name(play) or f"play-{number}", "play"))
            jobs.set(id_, self._play(play, last, comments), *comments)
            last = id_
        workflow = writing.Block()
        workflow.set("name", name)
        workflow.set("on", "workflow_dispatch")
        if self._variables:
            workflow.set("vars", self._variables)
        workflow.set("jobs", jobs)
        workflow.closing += [comment for source in self._sources for comment in source.left_over()]
        heading = [f"Imported from {', '.join(dict.fromkeys(source.path for source in self._sources))}.", *self._notes]
        generated.add_workflow(self._imported, self._origin, name, self._source.path, workflow, heading)

    def _decide(self, node: Node, text: str) -> str:
        return self._imported.decide(self._source.path, self._source.line(node), text)

    def _play_name(self, play: Node) -> str:
        entries = entries_of(play)
        return str(value_of(entries["name"].value)) if "name" in entries else ""

    def _play(self, play: Node, last: str | None, comments: list[str]) -> writing.Block:
        entries = entries_of(play)
        job = writing.Block()
        name = self._play_name(play)
        if name:
            job.set("name", name)
        if "hosts" in entries:
            job.set("runs-on", self._runs_on(entries, comments))
        else:
            job.set("runs-on", self._origin.group)
        if last is not None:
            job.set("needs", last)
        self._user(entries, job, comments)
        self._add_variables(entries, play, comments)
        for key, entry in entries.items():
            if key in ("connection", "gather_facts", "tags"):
                shown = writing.flow_text(value_of(entry.value))
                self._imported.change(
                    self._source.path, self._source.line(entry.key), f"{key} {shown} of a play is left out"
                )
            if key not in _TRANSLATED and not key.endswith("import_playbook"):
                comments += [
                    self._decide(entry.key, f"{key} of a play has no counterpart"),
                    self._source.source_of(entry),
                ]
        steps = writing.Items()
        self._steps(entries, steps, comments)
        if not steps.items:
            steps.add({"uses": "log", "with": {"message": "this play has no tasks"}})
        job.set("steps", steps)
        return job

    def _runs_on(self, entries: dict[str, Entry], comments: list[str]) -> Json:
        hosts = ":".join(texts_of(value_of(entries["hosts"].value)))
        node = entries["hosts"].key
        is_local = (
            hosts in ("localhost", "127.0.0.1")
            or value_of(entries["connection"].value if "connection" in entries else node) == "local"
        )
        if is_local:
            self._imported.change(
                self._source.path, self._source.line(node), f"hosts {hosts}: now one server of {self._origin.group}"
            )
            return self._origin.group
        group = re.split(r"[:,&!]", hosts)[0]
        if group != hosts or "{{" in hosts or "*" in hosts:
            comments.append(self._decide(node, f"hosts {hosts}: one group runs a job: choose it, and labels"))
            group = group if re.fullmatch(r"[A-Za-z0-9_.-]+", group) else self._origin.group
        if group == "all":
            group = "all-servers"
        runs_on: dict[str, Json] = {"group": group, "target": "each"}
        serial = value_of(entries["serial"].value) if "serial" in entries else None
        if serial is not None:
            runs_on["batch"] = serial
        percentage = value_of(entries["max_fail_percentage"].value) if "max_fail_percentage" in entries else None
        if percentage is not None:
            runs_on["max-failures"] = f"{percentage}%"
        elif "any_errors_fatal" in entries and is_true(value_of(entries["any_errors_fatal"].value)):
            runs_on["max-failures"] = 0
        return runs_on

    def _user(self, entries: dict[str, Entry], job: writing.Block, comments: list[str]) -> None:
        become = value_of(entries["become"].value) if "become" in entries else None
        remote = str(value_of(entries["remote_user"].value)) if "remote_user" in entries else ""
        other = str(value_of(entries["become_user"].value)) if "become_user" in entries else ""
        user = (other or "root") if is_true(become) else remote
        if other and not is_true(become):
            text = f"become_user {other} is left out, because the play itself does not become it"
            self._imported.change(self._source.path, self._source.line(entries["become_user"].key), text)
        if "{{" in str(become):
            comments.append(self._decide(entries["become"].key, f"become {become}: use user of the job, or sudo"))
        if user:
            key = next(entries[name].key for name in ("become_user", "become", "remote_user") if name in entries)
            comments.append(
                self._decide(key, f"this ran as {user}: the configuration of the agents must allow that user")
            )
            job.set("user", user)
        environment = value_of(entries["environment"].value) if "environment" in entries else None
        if isinstance(environment, dict):
            try:
                job.set("env", {key: jinja.text(value, self._names()) for key, value in environment.items()})
            except Untranslatable as error:
                comments += [
                    self._decide(entries["environment"].key, f"environment: {error}"),
                    self._source.source_of(entries["environment"]),
                ]

    def _names(self) -> Names:
        return Names(variables=set(self._variables))

    def _add_variables(self, entries: dict[str, Entry], play: Node, comments: list[str]) -> None:
        for name, entry in entries_of(entries["vars"].value if "vars" in entries else None).items():
            value = value_of(entry.value)
            if self._source.tag_of(entry.value) == "!vault":
                comments.append(
                    self._decide(entry.key, f"{name} is encrypted: store it as a secret, and use it in env")
                )
                continue
            try:
                expanded = jinja.expanded(value, self._names())
            except Untranslatable as error:
                comments += [self._decide(entry.key, f"the variable {name}: {error}"), self._source.source_of(entry)]
                continue
            if name in self._variables and self._variables[name] != expanded:
                comments.append(
                    self._decide(entry.key, f"{name} has another value in an earlier play: {writing.flow_text(value)}")
                )
                continue
            self._variables[name] = expanded

    def _steps(self, entries: dict[str, Entry], steps: writing.Items, comments: list[str]) -> None:
        names = self._names()
        writer = TaskWriter(self._imported, names, self._included, lambda path: self._template(path, names))
        handlers: list[tuple[Node | None, YamlSource]] = []
        if "pre_tasks" in entries:
            writer.write(entries["pre_tasks"].value, self._source, steps, Place())
        for role in items_of(entries["roles"].value if "roles" in entries else None):
            self._role(role, writer, steps, handlers, comments)
        for key in ("tasks", "post_tasks"):
            if key in entries:
                writer.write(entries[key].value, self._source, steps, Place())
        for key, entry in entries.items():
            if key.endswith("import_playbook"):
                steps.add(
                    {"uses": "fail", "with": {"message": "import_playbook"}},
                    self._decide(entry.key, f"import {value_of(entry.value)} too, and call it"),
                )
        if "handlers" in entries:
            handlers.append((entries["handlers"].value, self._source))
        for node, source in handlers:
            writer.handlers(node, source, steps)
        for name in writer.notified:
            comments.append(self._imported.decide(self._source.path, 0, f"the handler {name} does not exist"))

    def _role(
        self,
        role: Node,
        writer: TaskWriter,
        steps: writing.Items,
        handlers: list[tuple[Node | None, YamlSource]],
        comments: list[str],
    ) -> None:
        value = value_of(role)
        name = value.get("role") or value.get("name") if isinstance(value, dict) else value
        if isinstance(value, dict) and set(value) - {"role", "name", "tags"}:
            comments.append(
                self._decide(role, f"the role {name} is imported without its settings: {writing.flow_text(value)}")
            )
        base = f"roles/{name}"
        for part in ("defaults", "vars"):
            self._role_variables(f"{base}/{part}/main.yml", writer)
        source = self._included(f"{base}/tasks/main.yml", None)
        if source is None:
            text = f"the role {name} has no tasks/main.yml among the files: write its steps here"
            steps.add({"uses": "fail", "with": {"message": text}}, self._decide(role, text))
            return
        writer.write(source.root, source, steps, Place())
        other = self._included(f"{base}/handlers/main.yml", None)
        if other is not None:
            handlers.append((other.root, other))

    def _role_variables(self, path: str, writer: TaskWriter) -> None:
        source = self._included(path, None)
        for name, entry in entries_of(source.root if source is not None else None).items():
            try:
                self._variables.setdefault(name, jinja.expanded(value_of(entry.value), self._names()))
                writer.names.variables.add(name)
            except Untranslatable as error:
                self._notes.append(
                    self._imported.decide(
                        path, 0, f"the variable {name}: {error}: {writing.flow_text(value_of(entry.value))}"
                    )
                )

    def _included(self, file: str, source: YamlSource | None) -> YamlSource | None:
        """Return another file of the playbook; relative to the file that names it, or to the playbook."""
        bases = [folder_of(source.path)] if source is not None else []
        for base in [*bases, folder_of(self._source.path)]:
            path = joined(base, file)
            if path is not None and self._origin.read(path) is not None:
                try:
                    found = YamlSource(self._origin.text(path), path, self._imported)
                except Unreadable as error:
                    self._notes.append(self._imported.decide(path, 0, f"{path} is not imported: {error}"))
                    return None
                self._sources.append(found)
                return found
        return None

    def _template(self, file: str, names: Names) -> tuple[str, dict[str, Json]] | None:
        """Write a template whose only Jinja is plain variables as one of `file/template`."""
        for folder in ("templates", ""):
            path = joined(folder_of(self._source.path), f"{folder}/{file}")
            if path is not None and self._origin.read(path) is not None:
                break
        else:
            return None
        text = self._origin.text(path)
        if re.search(r"\{[%#]", text) or "{{" in _PLAIN_TEMPLATE.sub("", text):
            return None
        try:
            values: dict[str, Json] = {
                name: f"${{{{ {names.expression([name])} }}}}" for name in _PLAIN_TEMPLATE.findall(text)
            }
        except Untranslatable:
            return None
        new = f"templates/{file.rpartition('/')[2].removesuffix('.j2')}"
        # The node replaces ${name}, and $${ by ${.
        content = _PLAIN_TEMPLATE.sub(lambda found: f"${{{found[1]}}}", text.replace("${", "$${"))
        if all(each.path != new for each in self._imported.files):
            self._imported.files.append(WrittenFile(path=new, content=content, source=path))
        return self._origin.target(new), values
