"""Arguments of Ansible's modules that are written as `key=value`."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.unit.importers.golden import import_text


def _step(task: str) -> dict[str, Any]:
    play = f"- hosts: web\n  vars: {{version: '1', home: /srv}}\n  tasks:\n    - {task}\n"
    content = import_text("ansible", "site.yml", play).files[0].content
    job = next(iter(yaml.safe_load(content)["jobs"].values()))
    step: dict[str, Any] = job["steps"][0]
    return step


@pytest.mark.parametrize(
    ("task", "script"),
    [
        ("file: path=/srv/{{ version }}/app state=directory", 'mkdir -p "/srv/${{ vars.version }}/app"'),
        ("file: path='{{ home }}/a b' state=directory", 'mkdir -p "${{ vars.home }}/a b"'),
        ("shell: make chdir=/srv/{{ version }}", 'cd "/srv/${{ vars.version }}" || exit\nmake'),
        ("command: make --creates=x chdir={{ home }}", 'cd "${{ vars.home }}" || exit\nmake --creates=x'),
    ],
)
def test_a_value_ends_at_a_space_outside_of_braces(task: str, script: str) -> None:
    """As in Ansible, whose templates usually have spaces."""
    assert _step(task)["run"].rstrip() == script


def test_words_that_belong_to_no_argument_are_not_dropped() -> None:
    """Ansible refuses them."""
    step = _step("file: path=/srv/a dir state=directory")
    assert (step["uses"], step["with"]["message"]) == (
        "fail",
        "this task has no counterpart: path=/srv/a dir state=directory",
    )
