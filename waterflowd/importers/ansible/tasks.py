"""Tasks with their keys, blocks, loops and handlers, as steps of a job.

Rules of this file: a task that cannot be translated becomes a step that fails, with its source as a comment; a condition
that cannot be translated is false, with a decision. A step has an id where another one refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from waterflowd.dsl.reading.tree import Entry, Mapping, Node
from waterflowd.importers import writing
from waterflowd.importers.ansible import jinja, modules
from waterflowd.importers.ansible.jinja import Names, Untranslatable
from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import slug
from waterflowd.importers.source_yaml import YamlSource, entries_of, items_of, texts_of, value_of
from waterflowd.model.plan import Json

#: Keys of a task that are not modules, and that are translated here.
_KEYS = frozenset(
    (
        *("name", "when", "register", "notify", "ignore_errors", "loop", "with_items", "with_list", "loop_control"),
        *("environment", "retries", "delay", "until", "tags", "args", "block", "rescue", "always", "listen", "vars"),
        *("become", "become_user", "become_method"),
    )
)
#: Keys that have no counterpart where one entry stands for several tasks.
_KEYS_OF_ONE_TASK = ("loop", "with_items", "with_list", "register", "notify", "until", "retries")
#: Keys without a counterpart that change what a task does.
_UNKNOWN_KEYS = frozenset(
    (
        *(
            "failed_when",
            "changed_when",
            "delegate_to",
            "run_once",
            "local_action",
            "no_log",
            "async",
            "poll",
            "check_mode",
        ),
        *("with_dict", "with_fileglob", "with_sequence", "with_together", "with_nested", "delegate_facts", "throttle"),
        *("any_errors_fatal", "connection", "remote_user", "module_defaults", "collections", "diff", "timeout"),
    )
)
#: The value of an argument in `key=value`: quoted, or up to a space outside of braces.
_VALUE = r"('[^']*'|\"[^\"]*\"|(?:\{\{.*?\}\}|\S)+)"
_ARGUMENT = re.compile(rf"(?<!\S)(\w+)={_VALUE}(?!\S)")
_FREE_FORM_ARGUMENT = re.compile(rf"(?<!\S)(chdir|creates|removes|executable|warn)={_VALUE}\s*")


@dataclass(frozen=True)
class Place:
    """What the blocks around a task say."""

    condition: str = ""
    env: tuple[tuple[str, str], ...] = ()
    continues: bool = False


@dataclass
class TaskWriter:
    """Writes the tasks of one play."""

    imported: Imported
    names: Names
    #: Returns the tasks of another file: its source, or None with a decision already recorded.
    included: Callable[[str, YamlSource], YamlSource | None]
    #: Writes a template of Jinja as a file; returns its new path and the values.
    template: Callable[[str], tuple[str, dict[str, Json]] | None]
    notified: dict[str, list[str]] = field(default_factory=dict)
    #: Ids of steps, so that a name registered twice, or notified, is unique.
    ids: set[str] = field(default_factory=set)
    depth: int = 0

    def write(self, node: Node | None, source: YamlSource, steps: writing.Items, place: Place) -> None:
        """Add the steps of a list of tasks."""
        for item in items_of(node):
            comments = source.comments_at(item)
            try:
                self._task(item, source, steps, place, comments)
            except Untranslatable as error:
                self._fail(item, source, steps, place, comments, str(error))

    def _decide(self, source: YamlSource, node: Node, text: str) -> str:
        return self.imported.decide(source.path, source.line(node), text)

    def _fail(
        self, item: Node, source: YamlSource, steps: writing.Items, place: Place, comments: list[str], reason: str
    ) -> None:
        task = entries_of(item)
        name = str(value_of(task["name"].value)) if "name" in task else ""
        sentence = f"this task has no counterpart: {reason}"
        comment = self._decide(source, item, sentence)
        block = writing.Block()
        if name and "{{" not in name:
            block.set("name", name)
        if place.condition:
            block.set("if", place.condition)
        block.set("uses", "fail")
        block.set("with", {"message": sentence.replace("${{", "$ {{")})
        steps.add(block, *comments, comment, source_text(item, source))

    def _task(self, item: Node, source: YamlSource, steps: writing.Items, place: Place, comments: list[str]) -> None:
        task = entries_of(item)
        if not task:
            raise Untranslatable("it is not a mapping")
        unknown = [key for key in task if key in _UNKNOWN_KEYS and not _has_no_effect(key, task, source)]
        if unknown:
            raise Untranslatable(f"{', '.join(unknown)}")
        inside = self._place(task, source, item, place, comments)
        if "block" in task:
            comments += self._notes_of_several(task, source, item, "a block")
            self._block(task, source, steps, inside, comments)
            return
        found = [key for key in task if key not in _KEYS | _UNKNOWN_KEYS]
        if len(found) != 1:
            raise Untranslatable(f"it has {len(found)} modules: {', '.join(found)}" if found else "it has no module")
        name = modules.short_name(found[0])
        if name in ("import_tasks", "include_tasks"):
            comments += self._notes_of_several(task, source, item, "included tasks")
            self._include(value_of(task[found[0]].value), source, steps, inside, comments)
            return
        loop = next((task[key] for key in ("loop", "with_items", "with_list") if key in task), None)
        loop_name = self._loop_name(task)
        names = replace(self.names, loop_names=self.names.loop_names | ({loop_name} if loop is not None else set()))
        step = self._step(name, task[found[0]], task, names)
        block = self._written(step, task, inside, names, loop is not None)
        notes = self._notes(task, source, item)
        if loop is None:
            self._remember(task, step, block)
            steps.add(block, *comments, *notes)
            return
        if "register" in task or "notify" in task:
            raise Untranslatable("register or notify of a loop")
        steps.add(self._looped(loop, loop_name, block, inside, task), *comments, *notes)

    def _place(
        self, task: dict[str, Entry], source: YamlSource, item: Node, place: Place, comments: list[str]
    ) -> Place:
        condition = place.condition
        if "when" in task:
            try:
                own = jinja.condition(value_of(task["when"].value), self.names)
            except Untranslatable as error:
                own = "false"
                comments.append(
                    self._decide(
                        source, task["when"].key, f"this condition has no counterpart, so it is false: {error}"
                    )
                )
                comments.append(source.source_of(task["when"]))
            condition = f"({condition}) && ({own})" if condition else own
        env = dict(place.env)
        environment = value_of(task["environment"].value) if "environment" in task else None
        if isinstance(environment, dict):
            env |= {key: jinja.text(value, self.names) for key, value in environment.items()}
        continues = place.continues or (
            "ignore_errors" in task and modules.is_true(value_of(task["ignore_errors"].value))
        )
        return Place(condition=condition, env=tuple(env.items()), continues=continues)

    def _block(
        self, task: dict[str, Entry], source: YamlSource, steps: writing.Items, place: Place, comments: list[str]
    ) -> None:
        before = len(steps.items)
        self.write(task["block"].value, source, steps, place)
        for key, status in (("rescue", "failure()"), ("always", "always()")):
            if key in task:
                condition = f"{status} && ({place.condition})" if place.condition else status
                self.write(task[key].value, source, steps, replace(place, condition=condition))
        if "rescue" in task:
            text = "steps of rescue run after a failure, but the job fails nevertheless"
            comments = [*comments, self._decide(source, task["rescue"].key, text)]
        if len(steps.items) > before:
            value, others = steps.items[before]
            steps.items[before] = (value, (*comments, *others))

    def _include(
        self, value: Json, source: YamlSource, steps: writing.Items, place: Place, comments: list[str]
    ) -> None:
        file = value.get("file") if isinstance(value, dict) else value
        if not isinstance(file, str) or "{{" in file:
            raise Untranslatable(f"a file that is known only at run time: {file}")
        other = self.included(file, source)
        if other is None:
            raise Untranslatable(f"{file} cannot be read")
        if self.depth > 20:
            raise Untranslatable("files include each other more than 20 levels deep")
        self.depth += 1
        before = len(steps.items)
        self.write(other.root, other, steps, place)
        self.depth -= 1
        if comments and len(steps.items) > before:
            first, others = steps.items[before]
            steps.items[before] = (first, (*comments, *others))

    def _loop_name(self, task: dict[str, Entry]) -> str:
        control = value_of(task["loop_control"].value) if "loop_control" in task else None
        if isinstance(control, dict) and set(control) - {"loop_var", "label"}:
            raise Untranslatable("loop_control")
        return str(control.get("loop_var", "item")) if isinstance(control, dict) else "item"

    def _step(self, name: str, module: Entry, task: dict[str, Entry], names: Names) -> dict[str, Json]:
        if name == "template":
            return self._template(value_of(module.value), names)
        translate = modules.MODULES.get(name)
        if translate is None:
            raise Untranslatable(f"the module {name}")
        arguments = _arguments(name, value_of(module.value), value_of(task["args"].value) if "args" in task else None)
        arguments = {key: jinja.expanded(value, names) for key, value in arguments.items()}
        step = translate(arguments)
        if arguments:
            raise Untranslatable(f"{', '.join(arguments)} of {name}")
        return step

    def _template(self, value: Json, names: Names) -> dict[str, Json]:
        if isinstance(value, str):
            value = dict(re.findall(r"(\w+)=(\S+)", value))
        arguments: dict[str, Json] = dict(value) if isinstance(value, dict) else {}
        source = arguments.pop("src", None)
        written = self.template(str(source))
        if written is None:
            raise Untranslatable(f"the template {source} has more than plain variables")
        path, values = written
        arguments["content"] = ""
        step = modules.MODULES["copy"]({key: jinja.expanded(each, names) for key, each in arguments.items()})
        parameters = step["with"]
        assert isinstance(parameters, dict)
        parameters.pop("content")
        return {"uses": "file/template", "with": {**parameters, "source": path, "values": values}}

    def _written(
        self, step: dict[str, Json], task: dict[str, Entry], place: Place, names: Names, is_looped: bool
    ) -> writing.Block:
        block = writing.Block()
        if "name" in task:
            block.set(
                "name",
                jinja.text(value_of(task["name"].value), names if "uses" not in step or is_looped else self.names),
            )
        if place.condition and not is_looped:
            block.set("if", place.condition)
        env = {**dict(place.env), **(step["env"] if isinstance(step.get("env"), dict) else {})}
        for key, value in step.items():
            if key != "env":
                block.set(key, value)
        if env and "run" in step:
            block.set("env", dict(env))
        if place.continues:
            block.set("continue-on-error", True)
        retries = _retries(task)
        if retries is not None:
            retry: dict[str, Json] = {"max-attempts": retries + 1}
            if "delay" in task:
                retry |= {"initial-interval": f"{value_of(task['delay'].value)}s", "backoff-coefficient": 1}
            block.set("retry", retry)
        return block

    def _notes_of_several(self, task: dict[str, Entry], source: YamlSource, item: Node, what: str) -> list[str]:
        """Comments about keys of several tasks; raises Untranslatable for keys that repeat them or use their result."""
        refused = [key for key in _KEYS_OF_ONE_TASK if key in task]
        if refused:
            raise Untranslatable(f"{', '.join(refused)} of {what}")
        return self._notes(task, source, item)

    def _notes(self, task: dict[str, Entry], source: YamlSource, item: Node) -> list[str]:
        notes = []
        if "until" in task:
            until = writing.flow_text(value_of(task["until"].value))
            notes.append(self._decide(source, item, f"until: the step is tried again when it fails: {until}"))
        if "retries" in task and _retries(task) is None:
            written = writing.flow_text(value_of(task["retries"].value))
            sentence = f"retries is not a number here, so the step is not tried again; write retry: {written}"
            notes.append(self._decide(source, item, sentence))
        for key in ("become", "become_user", "become_method", "vars"):
            if key in task:
                text = writing.flow_text(value_of(task[key].value))
                notes.append(
                    self._decide(source, item, f"{key} of a task: use user of the job, or sudo; env or vars: {text}")
                )
        if "tags" in task:
            tags = ", ".join(texts_of(value_of(task["tags"].value)))
            self.imported.change(source.path, source.line(item), f"tags {tags} are left out")
        for key in task.keys() & _UNKNOWN_KEYS:
            text = f"{key} is left out, because nothing depends on it: {writing.flow_text(value_of(task[key].value))}"
            self.imported.change(source.path, source.line(item), text)
        return notes

    def _remember(self, task: dict[str, Entry], step: dict[str, Json], block: writing.Block) -> None:
        """Give the step an id if others refer to it."""
        has_changed = step.get("uses") in modules.WITH_CHANGED
        wanted = str(value_of(task["register"].value)) if "register" in task else ""
        notified = texts_of(value_of(task["notify"].value)) if "notify" in task else []
        if not wanted and not notified:
            return
        base = slug(wanted or f"step-{len(self.ids) + 1}")
        id_ = base
        while id_ in self.ids:
            id_ = f"{base}-{len(self.ids) + 1}"
        self.ids.add(id_)
        block.entries.insert(0, writing.Entry(key="id", value=id_))
        if wanted:
            self.names.registered[wanted] = has_changed
            if id_ != wanted:
                raise Untranslatable(f"{wanted} is registered twice")
        for name in notified:
            self.notified.setdefault(name, []).append(jinja.changed(id_, has_changed))

    def _looped(
        self, loop: Entry, name: str, block: writing.Block, place: Place, task: dict[str, Entry]
    ) -> writing.Block:
        value = value_of(loop.value)
        outer = writing.Block()
        if "name" in task and "{{" not in str(value_of(task["name"].value)):
            outer.set("name", str(value_of(task["name"].value)))
        if place.condition:
            outer.set("if", place.condition)
        outer.set("uses", "loop")
        parameters = writing.Block()
        if isinstance(value, str):
            parameters.set("items", jinja.text(value, self.names))
        else:
            parameters.set("items", jinja.expanded(value, self.names))
        parameters.set("as", name)
        parameters.set("steps", writing.Items([(block, ())]))
        outer.set("with", parameters)
        return outer

    def handlers(self, node: Node | None, source: YamlSource, steps: writing.Items) -> None:
        """Add the handlers that a task notifies, behind all tasks."""
        for item in items_of(node):
            handler = entries_of(item)
            names = [str(value_of(handler["name"].value))] if "name" in handler else []
            names += texts_of(value_of(handler["listen"].value)) if "listen" in handler else []
            conditions = [condition for name in names for condition in self.notified.pop(name, [])]
            if not conditions:
                text = writing.flow_text(value_of(item))
                steps.closing.append(self._decide(source, item, f"no task notifies this handler: {text}"))
                continue
            condition = " || ".join(dict.fromkeys(conditions))
            wrapped = Mapping(item.start, item.end, dict(handler))
            self.write(wrapped, source, steps, Place(condition=condition))


def _arguments(name: str, value: Json, extra: Json) -> dict[str, Json]:
    """Return a module's arguments: a mapping, `key=value` words, or a command as text."""
    found: dict[str, Json] = dict(extra) if isinstance(extra, dict) else {}
    if isinstance(value, dict):
        return {**found, **value}
    text = str(value if value is not None else "")
    if name in modules.FREE_FORM:
        for key, item in _FREE_FORM_ARGUMENT.findall(text):
            found[key] = item.strip("'\"")
        found.pop("warn", None)
        return {**found, "_raw_params": _FREE_FORM_ARGUMENT.sub("", text)}
    if _ARGUMENT.sub("", text).strip():
        raise Untranslatable(text)
    return {**found, **{key: item.strip("'\"") for key, item in _ARGUMENT.findall(text)}}


def _retries(task: dict[str, Entry]) -> int | None:
    """How often a task is tried again; None if it does not say, or if that is known at run time only."""
    text = str(value_of(task["retries"].value)) if "retries" in task else ""
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def source_text(item: Node, source: YamlSource) -> str:
    """Return the text of a task, as it is in the file."""
    return "\n".join(source.source_of(entry) for entry in entries_of(item).values()) or writing.flow_text(
        value_of(item)
    )


def _has_no_effect(key: str, task: dict[str, Entry], source: YamlSource) -> bool:
    """Whether a key changes nothing: whether a task has changed something matters for handlers, and where it is asked for."""
    if key == "changed_when":
        return "notify" not in task and not ("register" in task and source.mentions("changed"))
    return key in ("check_mode", "diff")
