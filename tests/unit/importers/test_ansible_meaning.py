"""Playbooks keep their meaning, or ask."""

from __future__ import annotations

import re

import pytest

from tests.unit.importers.golden import import_text
from waterflowd.importers.findings import Imported


def imported_task(task: str, **others: str) -> str:
    """The workflow of a playbook with one task."""
    lines = task.replace("\n", "\n      ")
    return _content(import_text("ansible", "site.yml", f"- hosts: web\n  tasks:\n    - {lines}\n", **others))


def _content(imported: Imported) -> str:
    (file,) = imported.files
    return file.content


@pytest.mark.parametrize(("value", "is_fatal"), [("true", True), ("yes", True), ("false", False), ("no", False)])
def test_errors_are_fatal_only_where_the_play_says_so(value: str, is_fatal: bool) -> None:
    """The default of Ansible can be written out."""
    content = _content(
        import_text("ansible", "site.yml", f"- hosts: web\n  any_errors_fatal: {value}\n  tasks:\n    - command: ls\n")
    )
    assert ("max-failures: 0" in content) is is_fatal


@pytest.mark.parametrize(
    ("keys", "user"),
    [
        ("become: true", "root"),
        ("become: true\n  become_user: app", "app"),
        ("become: false\n  become_user: app", ""),
        ("become_user: app\n  remote_user: ada", "ada"),
        ("become: '{{ root }}'", ""),
    ],
)
def test_a_play_runs_as_another_user_only_where_it_becomes_it(keys: str, user: str) -> None:
    """Without `become`, Ansible does not look at `become_user`."""
    imported = import_text("ansible", "site.yml", f"- hosts: web\n  {keys}\n  tasks:\n    - command: ls\n")
    assert re.findall(r"    user: (.*)", _content(imported)) == ([user] if user else [])
    assert "become" in " ".join(finding.text for finding in imported.findings) or user in ("root", "app")


def test_a_command_as_a_list_is_its_words() -> None:
    """Each is one argument."""
    assert "run: tar -xf 'a b.tar'" in imported_task("command:\n  argv: [tar, -xf, a b.tar]")


def test_what_a_command_creates_is_looked_for_in_its_directory() -> None:
    """A relative path of `creates` begins in `chdir`."""
    content = imported_task("command: make\nargs: {chdir: /srv/app, creates: done}")
    assert content.index("cd /srv/app || exit") < content.index("[ -e done ] && exit 0") < content.index("make\n")


@pytest.mark.parametrize("state", ["stopped", "absent", "drained"])
def test_a_wait_for_the_end_of_a_service_is_not_a_wait_for_its_start(state: str) -> None:
    """The task fails with a sentence, because there is no counterpart."""
    assert f"this task has no counterpart: state {state}" in imported_task(f"wait_for: {{port: 80, state: {state}}}")


def test_a_script_without_a_name_is_a_task_that_fails() -> None:
    """It does not end the import."""
    assert "the script is missing" in imported_task("script: ''")


@pytest.mark.parametrize("task", ["include_tasks: more.yml", "block: [{command: make}]"])
def test_keys_around_several_tasks_are_not_lost(task: str) -> None:
    """Another user is a decision; a loop would run the tasks more often than they would run here, so it is refused."""
    more = {"more.yml": "- command: make\n"}

    assert "DECIDE: become of a task" in imported_task(f"{task}\nbecome: true", **more)
    assert "has no counterpart: loop of" in imported_task(f"{task}\nloop: [1, 2]", **more)


@pytest.mark.parametrize(
    ("keys", "owner"),
    [("owner: app", "app"), ("group: web", "':web'"), ("owner: app, group: web", "'app:web'")],
)
def test_what_a_file_task_does_not_name_stays(keys: str, owner: str) -> None:
    """A group without an owner changes only the group."""
    content = imported_task(f"copy: {{content: x, dest: /srv/x, {keys}}}")
    assert f"owner: {owner}\n" in content
