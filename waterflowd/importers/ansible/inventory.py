"""Inventories as the configuration of agents: the groups of each host, and its variables as labels.

Rules of this file: a host's variables override those of its groups, and those of a nearer group override those of its
parents. Variables about the connection are comments. Values of variables that may be secrets are not written anywhere.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from waterflowd.importers.findings import Imported, WrittenFile
from waterflowd.importers.origin import Names, Unreadable, slug
from waterflowd.importers.source_yaml import YamlSource, value_of
from waterflowd.importers.writing import flow_text, wrapped
from waterflowd.model.plan import Json

#: More than one file should have.
HOSTS_MAX = 2_000
_SECTION = re.compile(r"\[([^\]:]+)(?::(children|vars))?\]")
_RANGE = re.compile(r"\[(\w+):(\w+)(?::(\d+))?\]")
_SECRET = re.compile(r"pass|secret|token|private_key|become_pass", re.IGNORECASE)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass
class _Group:
    hosts: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class _Inventory:
    groups: dict[str, _Group] = field(default_factory=dict)
    hosts: dict[str, dict[str, str]] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)

    def group(self, name: str) -> _Group:
        return self.groups.setdefault(name, _Group())

    def add_host(self, pattern: str, group: str, variables: dict[str, str]) -> None:
        for name in _expanded(pattern):
            if len(self.hosts) >= HOSTS_MAX and name not in self.hosts:
                raise Unreadable(f"the inventory has more than {HOSTS_MAX:,} hosts; split it")
            self.hosts.setdefault(name, {}).update(variables)
            if name not in self.group(group).hosts:
                self.group(group).hosts.append(name)


def add_inventory(text: str, path: str, imported: Imported) -> None:
    """Write the configuration of each host's agent; raises Unreadable."""
    is_yaml = path.endswith((".yml", ".yaml"))
    inventory = _from_yaml(text, path, imported) if is_yaml else _from_ini(text, path, imported)
    if not inventory.hosts:
        raise Unreadable("the inventory has no hosts")
    names = Names()
    for number, host in enumerate(inventory.hosts):
        comments = inventory.comments if number == 0 else []
        content = _configuration(host, inventory, path, imported, comments)
        imported.files.append(WrittenFile(path=f"agents/{names.take(slug(host))}.toml", content=content, source=path))
    groups = [name for name in inventory.groups if name not in ("all", "ungrouped")]
    imported.change(
        path, 0, f"groups: {', '.join(groups) or 'none'}; put each file of agents/ on its server, as agent.toml"
    )


def is_inventory(text: str, path: str) -> bool:
    """Whether a file is an inventory, not a playbook."""
    if not path.endswith((".yml", ".yaml")):
        return True
    return re.search(r"(?m)^(?:-\s|- )", text) is None


def _from_ini(text: str, path: str, imported: Imported) -> _Inventory:
    inventory = _Inventory()
    section, kind = "ungrouped", None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped[0] in "#;":
            inventory.comments.append(stripped.lstrip("#; "))
        elif found := _SECTION.fullmatch(stripped.partition(" #")[0].strip()):
            section, kind = found[1], found[2]
            inventory.group(section)
        elif kind == "children":
            inventory.group(section).children.append(stripped)
            inventory.group(stripped)
        elif kind == "vars":
            name, equals, value = stripped.partition("=")
            if equals:
                inventory.group(section).variables[name.strip()] = _unquoted(value.strip())
            else:
                imported.decide(path, number, f"this line of variables has no value: {stripped}")
        else:
            _ini_host(stripped, section, number, path, inventory, imported)
    return inventory


def _ini_host(line: str, section: str, number: int, path: str, inventory: _Inventory, imported: Imported) -> None:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        imported.decide(path, number, f"this line of hosts cannot be read: {line}")
        return
    pairs = [word.partition("=") for word in words[1:]]
    inventory.add_host(words[0], section, {name: value for name, _, value in pairs})


def _from_yaml(text: str, path: str, imported: Imported) -> _Inventory:
    source = YamlSource(text, path, imported)
    root = value_of(source.root)
    if not isinstance(root, dict):
        raise Unreadable("an inventory in YAML is a mapping of groups")
    inventory = _Inventory()
    for name, value in root.items():
        _yaml_group(name, value, inventory, 0)
    inventory.comments = source.left_over()
    return inventory


def _yaml_group(name: str, value: Json, inventory: _Inventory, depth: int) -> None:
    if depth > 20:
        raise Unreadable("groups are nested more than 20 levels deep")
    group = inventory.group(name)
    if not isinstance(value, dict):
        return
    hosts, children, variables = value.get("hosts"), value.get("children"), value.get("vars")
    for host, own in hosts.items() if isinstance(hosts, dict) else []:
        inventory.add_host(
            host, name, {key: _as_text(item) for key, item in own.items()} if isinstance(own, dict) else {}
        )
    for child, content in children.items() if isinstance(children, dict) else []:
        group.children.append(child)
        _yaml_group(child, content, inventory, depth + 1)
    if isinstance(variables, dict):
        group.variables |= {key: _as_text(item) for key, item in variables.items()}


def _expanded(pattern: str) -> list[str]:
    """Return the hosts of a pattern such as `web[01:20].example.org`."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last, step = found[1], found[2], int(found[3] or 1) or 1
    if first.isdecimal() and last.isdecimal():
        numbers = range(int(first), min(int(last), int(first) + HOSTS_MAX) + 1, step)
        values = [str(number).zfill(len(first)) for number in numbers]
    elif len(first) == len(last) == 1:
        values = [chr(code) for code in range(ord(first), ord(last) + 1, step)]
    else:
        return [pattern]
    return [name for value in values for name in _expanded(pattern[: found.start()] + value + pattern[found.end() :])]


def _groups_of(host: str, inventory: _Inventory) -> list[str]:
    """Return the groups of a host from the outermost on; parents hold the hosts of their children."""
    found = [name for name, group in inventory.groups.items() if host in group.hosts]
    pending = list(found)
    while pending:
        child = pending.pop()
        for name, group in inventory.groups.items():
            if child in group.children and name not in found:
                found.insert(0, name)
                pending.append(name)
    return found


def _configuration(host: str, inventory: _Inventory, path: str, imported: Imported, comments: list[str]) -> str:
    groups = _groups_of(host, inventory)
    order = [name for name in ("all", *groups) if name in inventory.groups]
    variables: dict[str, str] = {}
    for name in dict.fromkeys(order):
        variables |= inventory.groups[name].variables
    variables |= inventory.hosts[host]
    lines = [f"# Imported from {path}: /etc/waterflow/agent.toml of {host}. Add server and join-token-file."]
    lines += [f"# {line}" for comment in comments for line in wrapped(comment)]
    labels, others = {}, []
    for name, value in variables.items():
        if _SECRET.search(name):
            others.append(f"{name}: it looks like a secret, and its value is not written here; store it as a secret")
        elif name.startswith("ansible_") or not _LABEL.fullmatch(name) or not _LABEL.fullmatch(value):
            others.append(f"{name} = {value}")
        else:
            labels[name] = value
    for other in others:
        if "secret" in other:
            lines.append(f"# {imported.decide(path, 0, f'{host}: {other}')}")
        else:
            lines.append(f"# Not a label: {other}")
    lines.append(f"name = {json.dumps(host)}")
    own = [name for name in groups if name not in ("all", "ungrouped")]
    lines.append(f"groups = [{', '.join(json.dumps(name) for name in own)}]")
    if labels:
        lines += ["", "[labels]", *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in labels.items())]
    return "\n".join(lines) + "\n"


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else flow_text(value)


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
