"""Guesses the system that a file belongs to, and which files of a directory to import."""

from __future__ import annotations

import re
from collections.abc import Iterable

from waterflowd.importers import crontab
from waterflowd.importers.origin import name_of

_YAML = (".yml", ".yaml")
_JENKINS = re.compile(r"(?m)^\s*pipeline\s*\{")
_RUNDECK_XML = re.compile(r"<joblist\b")
#: A list of jobs with a sequence of commands.
_RUNDECK_YAML = re.compile(r"(?m)^(?:- |  )\s*sequence\s*:")
_PLAYBOOK = re.compile(r"(?m)^(?:- |  )\s*(?:hosts|import_playbook)\s*:")
_GITHUB = re.compile(r"(?m)^[\"']?on[\"']?\s*:")
_JOBS = re.compile(r"(?m)^[\"']?jobs[\"']?\s*:")
_GITLAB = re.compile(r"(?m)^(?:stages|include)\s*:|^  (?:script|extends)\s*:")
_INI_SECTION = re.compile(r"(?m)^\[[A-Za-z0-9_.-]+(?::(?:children|vars))?\]\s*$")
_INVENTORY_YAML = re.compile(r"(?m)^all\s*:")


def system_of(path: str, text: str) -> str | None:
    """Return the system of a file, None where it is not obvious."""
    name = name_of(path)
    is_yaml = name.endswith(_YAML)
    by_name = _by_name(path, name)
    if by_name is not None:
        return by_name
    if _JENKINS.search(text) and not is_yaml:
        return "jenkins"
    if _RUNDECK_XML.search(text) and name.endswith(".xml"):
        return "rundeck"
    if is_yaml:
        return _of_yaml(text)
    if _INI_SECTION.search(text):
        return "ansible"
    return "cron" if crontab.is_crontab(text) else None


def _by_name(path: str, name: str) -> str | None:
    if ".github/workflows/" in f"/{path}" and name.endswith(_YAML):
        return "github"
    if name.endswith((".gitlab-ci.yml", ".gitlab-ci.yaml")):
        return "gitlab"
    if name.startswith("Jenkinsfile") or name.lower().endswith(".jenkinsfile"):
        return "jenkins"
    if name == "crontab" or "cron.d" in path.split("/")[:-1]:
        return "cron"
    return None


def _of_yaml(text: str) -> str | None:
    if _GITHUB.search(text) and _JOBS.search(text):
        return "github"
    if _RUNDECK_YAML.search(text):
        return "rundeck"
    if _PLAYBOOK.search(text) or _INVENTORY_YAML.search(text):
        return "ansible"
    return "gitlab" if _GITLAB.search(text) else None


def candidates(paths: Iterable[str], system: str) -> list[str]:
    """Return the files of a directory that belong to a system by their names; paths are relative to the directory."""
    listed = sorted(paths)
    top = [path for path in listed if "/" not in path]
    match system:
        case "github":
            found = [path for path in listed if path.startswith(".github/workflows/") and path.endswith(_YAML)]
            return found or [path for path in top if path.endswith(_YAML)]
        case "gitlab":
            found = [path for path in top if path in (".gitlab-ci.yml", ".gitlab-ci.yaml")]
            return found or [path for path in top if path.endswith(_YAML)]
        case "jenkins":
            return [path for path in listed if _by_name(path, name_of(path)) == "jenkins"]
        case "rundeck":
            return [path for path in listed if path.endswith((*_YAML, ".xml"))]
        case "ansible":
            maps = [path for path in listed if holds_variables(path)]
            inventories = [path for path in listed if path not in maps and _is_inventory(path)]
            plays = [path for path in top if path.endswith(_YAML) and path not in inventories]
            return [*inventories, *maps, *plays]
    return [path for path in top if not path.startswith(".") and "." not in path]


def holds_variables(path: str) -> bool:
    """Whether a file of Ansible has the variables of a group or of a host."""
    *folders, name = path.split("/")
    return bool({"group_vars", "host_vars"} & {*folders}) and (name.endswith(_YAML) or "." not in name)


def _is_inventory(path: str) -> bool:
    """Whether a file has one of the usual names of inventories."""
    is_ini = "/" not in path and path.endswith(".ini")
    return path.startswith(("inventory", "inventories/")) or path in ("hosts", "production", "staging") or is_ini


def system_of_directory(paths: Iterable[str]) -> list[str]:
    """Return the systems whose files have their usual names in a directory."""
    listed = set(paths)
    found = []
    if any(path.startswith(".github/workflows/") and path.endswith(_YAML) for path in listed):
        found.append("github")
    if listed & {".gitlab-ci.yml", ".gitlab-ci.yaml"}:
        found.append("gitlab")
    if any(_by_name(path, name_of(path)) == "jenkins" for path in listed):
        found.append("jenkins")
    if listed & {"ansible.cfg", "site.yml", "playbook.yml"} or any(path.startswith("roles/") for path in listed):
        found.append("ansible")
    return found
