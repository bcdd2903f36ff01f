"""Own nodes in the language: found in the repository, checked by a schema, stored in the plan, never executed."""

from __future__ import annotations

import hashlib
import json

import pytest

from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl import Compiled, compile_workflow
from waterflowd.dsl.building.compilation import NODE_BYTES_MAX
from waterflowd.dsl.building.uses.parameter_schema import ParameterSchema, UnusableSchema
from waterflowd.model import plan as plans

SOURCE = b"raise SystemExit('a daemon that runs this is wrong')\n"
SCHEMA = {
    "$ref": "#/$defs/Given",
    "$defs": {
        "Given": {
            "type": "object",
            "properties": {
                "who": {"type": "string", "minLength": 1},
                "times": {"type": "integer", "minimum": 1, "maximum": 9},
                "how": {"enum": ["loud", "soft"]},
                "to": {"type": "array", "items": {"$ref": "#/$defs/Target"}, "maxItems": 2},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["who"],
            "additionalProperties": False,
        },
        "Target": {"type": "object", "properties": {"port": {"type": "integer"}}, "required": ["port"]},
    },
}


def workflow(uses: str = "shop/greet", parameters: str = "{who: Ada}") -> bytes:
    return f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: {uses}\n        with: {parameters}\n".encode()


def compiled(content: bytes, files: dict[str, bytes | None] | None = None) -> Compiled:
    return compile_workflow("w.yml", content, files)


def test_a_node_of_the_repository_is_in_the_plan() -> None:
    """The node is taken from the revision and identified by its hash; changing it changes the plan."""
    answer = compiled(workflow(), {"nodes/shop/greet.py": SOURCE})
    other = compiled(workflow(), {"nodes/shop/greet.py": SOURCE + b"#"})

    assert answer.plan is not None, answer.diagnostics
    plan = plans.decode(answer.plan)
    (node,) = plan.nodes
    assert (node.name, node.source) == ("shop/greet", SOURCE.decode())
    assert node.version == hashlib.sha256(SOURCE).hexdigest()
    assert plan.jobs[0].steps[0].node == "shop/greet"
    assert answer.files == ["nodes/shop/greet.py", "nodes/shop/greet.schema.json"]
    assert not answer.warnings
    assert other.plan != answer.plan


def test_a_node_is_in_the_plan_once() -> None:
    """This includes steps in blocks and in composite steps."""
    files: dict[str, bytes | None] = {
        "nodes/shop/greet.py": SOURCE,
        "steps/x/step.yml": b"steps: [{uses: shop/greet, with: {who: a}}]\n",
    }
    text = (
        b"jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: ./steps/x\n      - uses: shop/greet\n"
        b"      - uses: parallel\n        with: {branches: [{uses: shop/greet}]}\n"
    )

    answer = compiled(text, files)

    assert answer.plan is not None, answer.diagnostics
    assert len(plans.decode(answer.plan).nodes) == 1


@pytest.mark.parametrize(
    ("uses", "files", "code", "expected_message"),
    [
        ("file/write", {"nodes/file/write.py": SOURCE}, "WF135", "is a built-in node"),
        ("exec/shell", {"nodes/exec/shell.py": SOURCE}, "WF135", "is a built-in node"),
        (
            "shop/greet",
            {"nodes/shop/greet.py": b"#" * (node_schema.SOURCE_BYTES_MAX + 1)},
            "WF135",
            "larger than 262,144",
        ),
        ("shop/greet", {"nodes/shop/greet.py": b"\xff"}, "WF135", "not UTF-8"),
        (
            "shop/greet",
            {"nodes/shop/greet.py": SOURCE, "nodes/shop/greet.schema.json": b"{"},
            "WF135",
            "greet.schema.json is not a valid schema: it is not JSON",
        ),
        ("http/requst", {}, "WF114", 'did you mean "http/request"'),
        ("actions/checkout", {}, "WF114", "unknown node"),
        (
            "notify-us",
            {},
            "WF114",
            "similar names: notify/webhook, condition, artifact/upload; waterflowctl nodes",
        ),
        ("greet", {"nodes/greet.py": SOURCE}, "WF114", "unknown node"),
    ],
)
def test_a_node_that_cannot_be_used_is_an_error(
    uses: str, files: dict[str, bytes | None], code: str, expected_message: str
) -> None:
    """The error says what is wrong, and points at the step that uses the node."""
    answer = compiled(workflow(uses), files)

    found = [error for error in answer.diagnostics if error.code == code]
    assert found, answer.diagnostics
    assert {error.code for error in answer.diagnostics} <= {code, "WF115"}
    assert expected_message in found[0].message + found[0].suggestion


def test_nodes_of_a_workflow_have_a_total_limit() -> None:
    """The plan is in the log, and in memory while its runs are open."""
    size = node_schema.SOURCE_BYTES_MAX
    count = NODE_BYTES_MAX // size
    files: dict[str, bytes | None] = {f"nodes/shop/n{n}.py": b"#" * size for n in range(count + 1)}

    def using(number: int) -> Compiled:
        steps = "".join(f"      - uses: shop/n{n}\n" for n in range(number))
        return compiled(f"jobs:\n  a:\n    runs-on: web\n    steps:\n{steps}".encode(), files)

    assert using(count).plan is not None
    assert [error.code for error in using(count + 1).diagnostics] == ["WF135"]


@pytest.mark.parametrize("files", [None, {}])
def test_a_node_unknown_to_the_compiler_is_a_warning(files: dict[str, bytes | None] | None) -> None:
    """The compiler does not know the nodes of the servers, so the file is valid."""
    answer = compiled(workflow(), files)

    assert answer.plan is not None, answer.diagnostics
    assert [warning.code for warning in answer.warnings] == ["WF145"]
    assert plans.decode(answer.plan).nodes == ()


@pytest.mark.parametrize(
    ("parameters", "expected_message"),
    [
        ("{}", 'shop/greet requires "who"'),
        ("{who: ''}", "who: expected at least 1 characters, found 0"),
        ("{who: Ada, times: x}", 'times: expected a whole number, found "x"'),
        ("{who: Ada, times: 10}", "times: expected at most 9, found 10"),
        ("{who: Ada, times: true}", "times: expected a whole number, found true"),
        ("{who: Ada, how: quiet}", "how: expected one of loud, soft"),
        ("{who: Ada, tims: 1}", "tims: unknown parameter"),
        ("{who: Ada, to: [{port: 1}, {}]}", 'to.1: requires "port"'),
        ("{who: Ada, to: [{port: x}]}", "to.0.port: expected a whole number"),
        ("{who: Ada, to: [{port: 1}, {port: 1}, {port: 1}]}", "to: expected at most 2 entries, found 3"),
        ("{who: Ada, note: [1]}", "note: expected text, found a list"),
    ],
)
def test_a_schema_checks_parameters_without_expressions(parameters: str, expected_message: str) -> None:
    """Each key is checked at its line, before anything runs."""
    files: dict[str, bytes | None] = {
        "nodes/shop/greet.py": SOURCE,
        "nodes/shop/greet.schema.json": json.dumps(SCHEMA).encode(),
    }

    answer = compiled(workflow(parameters=parameters), files)

    assert [error.code for error in answer.diagnostics] == ["WF115"], answer.diagnostics
    assert expected_message in answer.diagnostics[0].message
    assert answer.diagnostics[0].line == 6


@pytest.mark.parametrize(
    ("parameters", "params"),
    [
        ("{who: Ada, times: 9, how: loud, to: [{port: 80, more: x}], note: null}", None),
        ("{who: '${{ git.branch }}', times: '${{ run.number }}', how: '${{ vars }}'}", None),
        ("{who: 1.10}", {"who": "1.10"}),
    ],
)
def test_matching_and_unknown_values_are_accepted(parameters: str, params: dict[str, object] | None) -> None:
    """A number in place of text keeps its spelling; an expression is checked when its value is known."""
    files: dict[str, bytes | None] = {
        "nodes/shop/greet.py": SOURCE,
        "nodes/shop/greet.schema.json": json.dumps(SCHEMA).encode(),
    }

    answer = compiled(workflow(parameters=parameters), files)

    assert answer.plan is not None, answer.diagnostics
    if params is not None:
        assert plans.decode(answer.plan).jobs[0].steps[0].params == params


@pytest.mark.parametrize("content", [b"[]", b"1", b"[" * 5_000, b"\xff", b'{"a": "' + b"x" * 70_000 + b'"}'])
def test_an_invalid_schema_is_refused(content: bytes) -> None:
    """Invalid content of a schema file is refused, whatever it is."""
    with pytest.raises(UnusableSchema):
        ParameterSchema(content)


def test_a_recursive_schema_terminates() -> None:
    """Endless references and alternatives accept everything."""
    again = {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    root = {"$ref": "#/$defs/a", "$defs": {"a": again, "b": {"$ref": "#/$defs/b"}}}

    assert ParameterSchema(json.dumps(root).encode()).faults({"x": 1}) == []
