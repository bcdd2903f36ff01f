"""`changed_when` of a task: it matters for handlers, and for conditions that ask whether the task has changed something."""

from __future__ import annotations

import pytest

from tests.unit.importers.golden import import_text
from waterflowd.importers.findings import Kind

PLAY = """- hosts: web
  tasks:
    - name: check
      command: nginx -t
      changed_when: false
{more}
"""


def _imported(more: str = "") -> tuple[str, list[str]]:
    imported = import_text("ansible", "site.yml", PLAY.format(more=more))
    return imported.files[0].content, [each.text for each in imported.findings if each.kind is Kind.CHANGE]


@pytest.mark.parametrize("more", ["", "      register: checked\n    - command: echo\n      when: checked is succeeded"])
def test_it_is_left_out_where_nothing_depends_on_it(more: str) -> None:
    """The task runs; the list says what was left out."""
    content, changes = _imported(more)
    assert "run: nginx -t" in content
    assert "DECIDE" not in content
    assert "changed_when is left out, because nothing depends on it: false" in changes


@pytest.mark.parametrize(
    "more",
    [
        "      notify: restart\n  handlers:\n    - name: restart\n      command: echo",
        "      register: checked\n    - command: echo\n      when: checked is changed",
        "      register: checked\n    - command: echo\n      when: checked.changed",
        "      failed_when: false",
    ],
)
def test_elsewhere_the_task_is_a_decision(more: str) -> None:
    """It fails instead of doing something else."""
    content, _ = _imported(more)
    assert "uses: fail" in content
    assert "DECIDE" in content
