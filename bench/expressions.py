"""Expressions: how long it takes to evaluate one, and to find and replace the expressions in a script."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from functools import partial

from bench.figures import Row
from waterflowd import expr

CONTEXTS: dict[str, object] = {
    "inputs": {"env": "prod", "count": 3},
    "git": {"branch": "main", "ref": "refs/heads/main", "sha": "3f2c" * 10},
    "needs": {"build": {"result": "success", "outputs": {"image": "registry/app:1"}}},
    "steps": {"test": {"outputs": {"passed": "12"}, "outcome": "success"}},
    "event": {"commits": [{"message": f"fix {number}", "author": {"name": "a"}} for number in range(5)]},
}

#: Typical expressions, from GitHub's documentation and similar workflows.
TYPICAL = [
    "inputs.env",
    "inputs.env == 'prod' && needs.build.result == 'success'",
    "success() && git.branch == 'main'",
    "format('{0}:{1}', needs.build.outputs.image, inputs.count)",
    "startsWith(git.ref, 'refs/heads/') && !contains(git.branch, 'wip')",
    'contains(fromJSON(\'["staging", "prod"]\'), inputs.env)',
    "contains(event.commits.*.message, 'fix 4')",
    "fromJSON(steps.test.outputs.passed) >= 10 && 'green' || 'red'",
    "join(event.commits.*.author.name, ', ')",
    "toJSON(inputs)",
]

SCRIPT = "\n".join(
    f'if [[ "${{{{ inputs.env }}}}" == prod ]]; then\n  echo \'step {number} of ${{{{ inputs.count }}}}\' | tee -a "log-$x"\nfi'
    for number in range(30)
)


def _us(action: Callable[[], object]) -> float:
    """The time of one call in µs: the best of many short series, because other load can only increase it."""
    return min(timeit.repeat(action, number=200, repeat=50)) / 200 * 1e6


def expressions() -> list[Row]:
    """Evaluates parsed expressions, as the engine does, and makes a script safe."""
    env = expr.Env(contexts=CONTEXTS, status=expr.Status(), now_at=1)
    nodes = [expr.parse(source) for source in TYPICAL]
    times = [_us(partial(expr.evaluate, node, env)) for node in nodes]
    median, worst = statistics.median(times), max(times)
    slowest = TYPICAL[times.index(worst)]
    lowering_ms = min(timeit.repeat(lambda: expr.lower_script(SCRIPT, "bash"), number=5, repeat=5)) / 5 * 1000
    return [
        Row("a typical expression, median", f"{median:.1f} µs", "10 µs", median <= 10, f"of {len(times)}"),
        Row("a typical expression, slowest", f"{worst:.1f} µs", "10 µs", worst <= 10, f"`{slowest}`"),
        Row("a script of 90 lines made safe", f"{lowering_ms:.1f} ms", "", None, "once for each version of a file"),
    ]
