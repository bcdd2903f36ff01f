"""Groups of a plan, for tokens that are restricted to groups."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, Role, check_plan
from waterflowd.dsl import compile_workflow
from waterflowd.model import plan as plans

CALLER = b"jobs: {a: {uses: ./workflows/callee.yml}}"
CALLEE = b"""
on: {workflow_call: {}}
jobs: {b: {runs-on: db, steps: [{run: x}]}}
"""


def _plan(text: bytes) -> plans.Plan:
    compiled = compile_workflow("workflows/w.yml", text, {"workflows/callee.yml": CALLEE})
    assert compiled.plan is not None, compiled.diagnostics
    return plans.decode(compiled.plan)


@pytest.mark.parametrize(
    "text",
    [
        CALLER,
        b"jobs: {a: {runs-on: all-servers, steps: [{run: x}]}}",
        b"jobs: {a: {runs-on: '${{ inputs.group }}', steps: [{run: x}]}}\ninputs: {group: {}}",
    ],
    ids=["called workflow", "every server", "expression"],
)
def test_a_token_for_one_group_cannot_start_work_on_another(text: bytes) -> None:
    """Jobs of called workflows and the group of all servers count, and a group from an expression may be any group."""
    bound = Principal(name="ci", role=Role.RUNNER, groups=("web",))
    with pytest.raises(Rejected, match="may only use web"):
        check_plan(bound, _plan(text))
    check_plan(Principal(name="ci", role=Role.RUNNER, groups=("*",)), _plan(text))
