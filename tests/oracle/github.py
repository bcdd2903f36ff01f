"""GitHub's own evaluator of expressions (npm @actions/expressions), run as a process that answers in batches.

The package is pinned by version and hash in `package-lock.json` and installed with `npm ci` into pytest's cache, once for
all workers. Outcomes are compared in one notation (see `evaluate.mjs`), which distinguishes `1` from `'1'`, `{}` from `[]`,
and NaN from null.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S
from waterflowd import expr
from waterflowd.model.numbers import shortest

HERE = Path(__file__).parent
#: The files that `npm.installed` installs.
FILES = [HERE / name for name in ("package.json", "package-lock.json", "evaluate.mjs")]


class GitHub:
    """The running evaluator; use it as a context manager, one batch at a time."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "evaluate.mjs"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> GitHub:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE_S)

    def outcomes(self, sources: list[str], contexts: Mapping[str, object]) -> list[dict[str, Any]]:
        """Returns `{"value": ...}` or `{"error": text}` for each source."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = {"contexts": {name: spelled(value) for name, value in contexts.items()}, "sources": sources}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the evaluator ended with {self._process.poll()}"
        outcomes: list[dict[str, Any]] = json.loads(answer)
        return outcomes


def spelled(value: object) -> object:
    """Returns a value in the notation in which both sides are compared."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        number = float(value)
        if math.isfinite(number):
            return {"num": shortest(number)}
        return {"num": "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"}
    if isinstance(value, list):
        return [spelled(item) for item in value]
    assert isinstance(value, dict)
    return {"obj": [[key, spelled(item)] for key, item in value.items()]}


def our_outcome(source: str, contexts: Mapping[str, object]) -> dict[str, Any]:
    """Returns the outcome of our parser, checker and evaluator for a source, in the same notation."""
    try:
        node = expr.parse(source)
        for error in expr.check(node, expr.Scope(contexts=dict.fromkeys(contexts))):
            raise error
        return {"value": spelled(expr.evaluate(node, expr.Env(contexts=contexts)))}
    except expr.ExpressionError as error:
        return {"error": str(error)}
