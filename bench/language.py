"""The workflow language: the cost of compiling a large file, of validating a folder of files, and of the JSON Schema.

All times are processor time: this code never waits, so wall-clock time would only add the load of other processes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import timeit
from functools import cache
from pathlib import Path

from bench.figures import Row

FILES = 1_000

#: One job of a large file. Each step has eleven lines that use many features.
_JOB = """  job-{0}:
    name: Job {0} of ${{{{ git.short-sha }}}}
    runs-on: web-servers
    if: git.branch == 'main' || inputs.env == 'prod'
    env: {{REGION: eu, NUMBER: "{0}"}}
    timeout-minutes: 30
    outputs:
      version: ${{{{ steps.s0.outputs.version }}}}
    steps:
"""
_STEP = """      - id: s{0}
        name: Step {0} in ${{{{ vars.region }}}}
        if: success() && inputs.env != 'none'
        env:
          TARGET: ${{{{ inputs.env }}}}
        run: |
          set -x
          echo "step {0} of ${{{{ inputs.env }}}}"
          ./build.sh --target "${{{{ vars.region }}}}" | tee -a "log-{0}"
        retry: {{max-attempts: 3, initial-interval: 2s}}
        timeout-minutes: 5
"""
_TOP = """name: large
on:
  push: {branches: [main, 'release/**']}
  workflow_dispatch: {}
inputs:
  env: {type: choice, options: [dev, prod]}
vars:
  region: eu
jobs:
"""

#: A typical file.
_TYPICAL = """name: service-{0}
on:
  push: {{branches: [main], paths: ['services/{0}/**']}}
  workflow_dispatch: {{inputs: {{reason: {{description: why}}}}}}
vars: {{service: "service-{0}"}}
jobs:
  test:
    runs-on: web-servers
    steps:
      - run: make -C "services/${{{{ vars.service }}}}" test
        timeout-minutes: 10
  deploy:
    needs: test
    if: git.branch == 'main'
    runs-on: web-servers
    concurrency: {{group: "deploy-{0}"}}
    steps:
      - id: build
        run: echo "version=$(git describe)" >> "$WATERFLOW_OUTPUT"
      - uses: log
        with: {{message: "${{{{ vars.service }}}} ${{{{ steps.build.outputs.version }}}}"}}
      - run: ./deploy.sh "${{{{ steps.build.outputs.version }}}}"
        retry: {{max-attempts: 2}}
"""


def large_file(lines: int = 1_000) -> str:
    """A workflow of exactly `lines` lines, in jobs of nine steps."""
    text, job = _TOP, 0
    while text.count("\n") < lines:
        text += _JOB.format(job) + "".join(_STEP.format(number) for number in range(9))
        job += 1
    return "".join(text.splitlines(keepends=True)[:lines])


@cache
def _large() -> bytes:
    return large_file().encode()


def language(folder: Path) -> list[Row]:
    """Compiles a large file, validates a thousand files with the command line, and builds the schema."""
    from waterflowd.dsl import compile_workflow
    from waterflowd.dsl.reference import json_schema

    content = _large()
    compiled = compile_workflow("workflows/large.yml", content)
    assert compiled.plan is not None, compiled.diagnostics[:3]
    compile_ms = (
        min(
            timeit.repeat(
                lambda: compile_workflow("workflows/large.yml", content), timer=time.thread_time, number=1, repeat=15
            )
        )
        * 1000
    )
    schema_ms = min(timeit.repeat(json_schema.schema_text, timer=time.thread_time, number=1, repeat=10)) * 1000
    for number in range(FILES):
        (folder / f"service-{number}.yml").write_text(_TYPICAL.format(number))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "waterflowd.ctl.main", "validate", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    validate_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = content.count(b"\n")
    return [
        Row(f"a file of {lines:,} lines compiled", f"{compile_ms:.0f} ms", "60 ms", compile_ms <= 60, "best of 15"),
        Row(f"{FILES:,} files validated", f"{validate_s:.1f} s", "10 s", validate_s <= 10, "with the command's start"),
        Row(
            "the JSON Schema made", f"{schema_ms:.0f} ms", "", None, f"{len(json_schema.schema_text()) / 1024:.0f} KiB"
        ),
    ]
