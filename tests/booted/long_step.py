"""A run whose first step continues until it is released, and whose second step needs its result."""

from __future__ import annotations

from typing import Any

from tests.booted.machine import Machine
from tests.patience import wait_until

#: The home directory of steps, to which steps of both profiles may write.
_FOLDER = "/var/lib/waterflow-step"
_MARKS, _DOOR = f"{_FOLDER}/marks", f"{_FOLDER}/door"
_WORKFLOW = f"""
jobs:
  dump:
    runs-on: web
    outputs:
      rows: ${{{{ steps.long.outputs.rows }}}}
    steps:
      - id: long
        run: |
          echo begin >> {_MARKS}
          echo first line
          until test -e {_DOOR}; do sleep 0.1; done
          echo "rows=4711" >> "$WATERFLOW_OUTPUT"
          echo last line
          echo end >> {_MARKS}
  report:
    runs-on: web
    needs: dump
    steps:
      - run: echo "${{{{ needs.dump.outputs.rows }}}} rows"
"""


class LongStep:
    """Starts the run and waits until the first step's process is working."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._marks = machine.root.inside(_MARKS)
        self._door = machine.root.inside(_DOOR)
        self._marks.unlink(missing_ok=True)
        self._door.unlink(missing_ok=True)
        self.run = machine.start(_WORKFLOW)
        wait_until(lambda: self.marks == ["begin"], "the step to begin")

    @property
    def marks(self) -> list[str]:
        """Returns the lines that the step has written about itself."""
        return self._marks.read_text().split() if self._marks.exists() else []

    def let_end(self) -> None:
        """Lets the step end."""
        self._door.touch()

    def judge(self) -> None:
        """Checks that the step was undisturbed: one attempt, one start, one end, its output, and its result."""
        self.let_end()
        found = self._machine.wait_for(self.run)
        assert found["conclusion"] == "success", f"{found['jobs']}\n{self._machine.journal()}"
        assert self.marks == ["begin", "end"]
        assert [len(step["attempts"]) for job in found["jobs"] for step in job["steps"]] == [1, 1]
        wait_until(lambda: len(self._machine.lines(self.run)) >= 3, "all output")
        assert self._machine.lines(self.run) == ["first line", "last line", "4711 rows"]

    def judge_lost(self) -> dict[str, Any]:
        """Checks that the attempt, whose outcome is unknown, is lost and never restarted. Returns it."""
        found = self._machine.wait_for(self.run)
        assert found["conclusion"] == "lost", f"{found['jobs']}\n{self._machine.journal()}"
        assert self.marks == ["begin"]
        (attempt,) = found["jobs"][0]["steps"][0]["attempts"]
        assert attempt["outcome"] == "lost"
        return dict(attempt)
