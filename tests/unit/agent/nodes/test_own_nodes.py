"""Own nodes: what a file may contain, how loading fails, and how the catalog follows new, changed and deleted files."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.acceptance.cluster import is_running
from tests.patience import wait_until
from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.own import check
from waterflow_agent.nodes.own.catalog import NODES_MAX, NodeCatalog
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.testing import NodeRun, run_node

HEAD = """\
from __future__ import annotations

from typing import Any

from waterflow_agent.nodes.node import Context, Node, NodeFailure, Parameters


class Given(Parameters, kw_only=True):
    who: str = "you"
    how_often: int = 1
"""
GREET = (
    HEAD
    + """

class Greet(Node[Given]):
    \"\"\"Greets.\"\"\"

    async def run(self, context: Context, parameters: Given) -> dict[str, Any]:
        for _ in range(parameters.how_often):
            context.log(f"hello {parameters.who}")
        return {"greeted": parameters.who}
"""
)
TWO = GREET + "\n\nclass Other(Greet):\n    pass\n"


def node(body: str) -> str:
    """Returns a file whose node has this body."""
    return HEAD + "\n\nclass Own(Node[Given]):\n    async def run(self, context, parameters):\n        " + body + "\n"


def run(directory: Path, text: str, **params: object) -> NodeRun:
    path = directory / "demo" / "own.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return run_node(path, params, directory=directory)


def test_a_file_with_one_class_is_a_node(tmp_path: Path) -> None:
    """It has typed parameters, outputs and printed output; the keys have hyphens."""
    ended = run(tmp_path, GREET, **{"who": "Ada", "how-often": 2})

    assert ended.outcome is Outcome.SUCCESS, ended
    assert ended.outputs == {"greeted": "Ada"}
    assert ended.printed == "hello Ada\nhello Ada\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found\n", r"demo/own\.py:1: ModuleNotFoundError: .*nowhere_to_be_found"),
        ("x = 1\nthis is no python\n", r"demo/own\.py:2: SyntaxError"),
        ("x = 1\n\nx.y\n", r"demo/own\.py:3: AttributeError"),
        ("", "no subclass of Node with a run method"),
        (HEAD + "\nclass Half(Node[Given]):\n    pass\n", r"Half lacks async def run"),
        (TWO, "expected one node class, found Greet, Other"),
        (GREET.replace("Node[Given]", "Node"), "has no parameter record"),
        (node("return [1]"), "must return a map of outputs, not list"),
        (node("return {1: 2}"), "keys that are not strings"),
        (node("return {'a': object()}"), "cannot be encoded as JSON"),
        (node("return {'a': 1 << 64}"), "a number of more than 64 bits"),
        (
            node("a = []\n        for _ in range(200): a = [a]\n        return {'a': a}"),
            "nested more than 128 levels deep",
        ),
        (node("raise NodeFailure('not today', may_retry=True)"), "not today"),
        (node("raise KeyError('x')"), "KeyError: 'x'"),
        (node("raise SystemExit(0)"), "exited without a result"),
        (node("import os; os._exit(0)"), "exited without a result"),
        (node("import ctypes; ctypes.string_at(0)"), "SIGSEGV"),
        (node("return {'a': 'x' * (2 << 20)}"), "outputs exceed the limit"),
        (
            node(
                "import os, pathlib; p = open('/proc/self/cmdline').read().split(chr(0))[-2]\n        "
                "pathlib.Path(p).with_name('result').write_bytes(b'[' * 9000); os._exit(0)"
            ),
            "the result of the node is invalid",
        ),
    ],
)
def test_a_failing_node_reports_its_error(tmp_path: Path, text: str, message: str) -> None:
    """The node's own errors and crashes become a failure that names their location."""
    ended = run(tmp_path, text)

    assert ended.outcome is Outcome.FAILURE, ended
    assert re.search(message, ended.text), ended.text


def test_a_node_without_a_return_value_has_no_outputs(tmp_path: Path) -> None:
    """A node without outputs needs no return statement."""
    ended = run(tmp_path, node("pass"))

    assert (ended.outcome, ended.outputs) == (Outcome.SUCCESS, {})


def test_wrong_parameters_are_named_before_the_node_runs(tmp_path: Path) -> None:
    """The message names the key and says what was expected."""
    wrong = run(tmp_path, GREET, **{"how-often": "often"})
    unknown = run(tmp_path, GREET, whom="x")

    assert "with.how-often: expected a whole number" in wrong.text
    assert 'unknown key "whom"' in unknown.text
    assert not [line for line in wrong.printed.splitlines() if line.startswith("hello")]


def test_a_traceback_has_only_the_author_s_lines(tmp_path: Path) -> None:
    """The traceback shows them although the file is executed from its text."""
    ended = run(tmp_path, "def broken() -> None:\n    raise ValueError('here')\n\n\nbroken()\n")

    assert "raise ValueError('here')" in ended.printed
    assert "nodes/own/code.py" not in ended.printed


@pytest.mark.parametrize("body", ["while True: pass", "import asyncio; await asyncio.sleep(3600)"])
def test_an_endless_node_is_stopped(tmp_path: Path, body: str) -> None:
    """A node that handles the signal stops gracefully; any other is killed."""
    path = tmp_path / "own.py"
    path.write_text(node(body))

    ended = run_node(path, {}, directory=tmp_path, timeout_s=3)

    assert ended.outcome is Outcome.TIMED_OUT


async def test_a_check_describes_a_node_without_running_it() -> None:
    """Nothing of the node runs in the process that asks."""
    checked = await check.in_child(Code(name="demo/greet", path="greet.py", text=GREET), os.environ)

    assert checked.summary == "Greets."
    assert checked.parameters == [("who", False), ("how-often", False)]
    assert checked.schema["$defs"]["Given"]["properties"]["how-often"]["type"] == "integer"


@pytest.mark.parametrize(
    "text",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "raise SystemExit(0)",
        "print('{}')\nimport sys; sys.stdout.flush(); import os; os.write(1, b'{}\\n'); raise SystemExit",
        "import ctypes; ctypes.string_at(0)",
    ],
)
async def test_a_check_survives_a_crashing_file(text: str) -> None:
    """However the child process ends, the check reports a fault, and what the child prints is not taken as an answer."""
    checked = await check.in_child(Code(name="a/b", path="b.py", text=text), os.environ)

    assert "[WF721]" in checked.fault


def test_child_processes_end_with_the_check(tmp_path: Path) -> None:
    """Child processes are stopped even if they hold the pipes open, and standard input is empty."""
    started = tmp_path / "started"
    text = (
        f"import subprocess, sys\nchild = subprocess.Popen(['sleep', '3600'], stdout=1)\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\nassert sys.stdin.read() == ''\n"
        + GREET.partition("\n\n")[2]
    )

    checked = asyncio.run(check.in_child(Code(name="a/b", path="b.py", text=text), os.environ))

    assert checked.fault == ""
    wait_until(lambda: not is_running(int(started.read_text())), "the end of what it started", 60)


async def test_code_that_never_finishes_loading_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that it has started is stopped too."""
    monkeypatch.setattr(check, "CHECK_S_MAX", 1.0)

    checked = await check.in_child(Code(name="a/b", path="b.py", text="while True: pass"), os.environ)

    assert "loading took more than 1 s" in checked.fault


def write(root: Path, name: str, text: str) -> Path:
    path = root / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def test_the_catalog_follows_its_files(tmp_path: Path) -> None:
    """Files may be new, changed, broken, fixed or removed: the last working version stays until the file is deleted."""
    catalog = NodeCatalog([str(tmp_path)])
    await catalog.refresh()
    assert catalog.names == []

    path = write(tmp_path, "demo/greet", GREET)
    await catalog.refresh()
    (first,) = catalog.reported
    assert (first.name, first.origin, first.fault) == ("demo/greet", "server", "")
    assert first.parameters == [("who", False), ("how-often", False)]

    path.write_text(GREET.replace("hello", "good day"))
    await catalog.refresh()
    (second,) = catalog.reported
    assert second.version != first.version

    path.write_text("import nowhere\n")
    await catalog.refresh()
    (broken,) = catalog.reported
    assert broken.version == second.version
    assert "greet.py:1: ModuleNotFoundError" in broken.fault
    kept = catalog.code("demo/greet")
    assert kept is not None
    assert "good day" in kept.text

    path.write_text(GREET)
    await catalog.refresh()
    assert catalog.reported == [first]

    path.unlink()
    await catalog.refresh()
    assert (catalog.names, catalog.reported) == ([], [])


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """A scan only calls stat; a file whose time changed is read again but is not reported as changed."""
    path = write(tmp_path, "demo/greet", GREET)
    catalog = NodeCatalog([str(tmp_path)])
    await catalog.refresh()

    assert list(catalog.changed()) == []
    path.touch()
    assert list(catalog.changed()) == []


@pytest.mark.parametrize(
    ("name", "text", "mode", "message"),
    [
        ("file/write", GREET, 0o644, "is a built-in node"),
        ("exec/shell", GREET, 0o644, "is a built-in node"),
        ("demo/open", GREET, 0o646, "writable by other users"),
        ("demo/large", GREET + "#" * schema.SOURCE_BYTES_MAX, 0o644, "larger than 262144 bytes"),
        ("demo/two", TWO, 0o644, "expected one node class"),
    ],
)
async def test_a_refused_file_is_reported(tmp_path: Path, name: str, text: str, mode: int, message: str) -> None:
    """The report contains the reason, and no step can use the name."""
    write(tmp_path, name, text).chmod(mode)
    catalog = NodeCatalog([str(tmp_path)])

    await catalog.refresh()

    assert catalog.names == []
    (reported_text,) = catalog.reported
    assert (reported_text.name, reported_text.version) == (name, "")
    assert message in reported_text.fault


async def test_other_files_are_ignored(tmp_path: Path) -> None:
    """Other names and nested folders are ignored, other file types are reported; the first directory with a name wins."""
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "demo/greet", GREET)
    write(second, "demo/greet", "broken(")
    write(second, "demo/Not A Name", "broken(")
    write(second, "demo/deep/er", "broken(")
    write(second, "top", "broken(")
    (second / "demo" / "folder.py").mkdir()
    os.mkfifo(second / "demo" / "pipe.py")
    catalog = NodeCatalog([str(first), str(second), str(tmp_path / "missing")])

    await catalog.refresh()

    assert catalog.names == ["demo/greet"]
    assert {reported_text.name for reported_text in catalog.reported if reported_text.fault} == {
        "demo/folder",
        "demo/pipe",
    }


async def test_nodes_are_bounded(tmp_path: Path) -> None:
    """The limit is applied in the order of names, so the same nodes are loaded every time."""
    for number in range(NODES_MAX + 3):
        write(tmp_path, f"demo/n{number:03}", GREET)

    found = list(NodeCatalog([str(tmp_path)]).changed())

    assert [one.code.name for one in found] == [f"demo/n{number:03}" for number in range(NODES_MAX)]


async def test_installed_packages_can_provide_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They use an entry point; names of built-in nodes are refused, and a file in the node path takes precedence."""
    (tmp_path / "shop_nodes.py").write_text(GREET)
    about = tmp_path / "shop_nodes-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-nodes\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[waterflow.nodes]\nshop/greet = shop_nodes:Greet\nshop/none = shop_nodes:Given\nfile/read = shop_nodes:Greet\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = {"PATH": os.environ["PATH"]}
    monkeypatch.setattr("waterflow_agent.nodes.node_process._PACKAGE", f"{Path(check.__file__).parents[2]}:{tmp_path}")
    catalog = NodeCatalog([str(tmp_path / "nodes")], environment)

    await catalog.refresh()

    reported_text = {one.name: one for one in catalog.reported}
    assert (reported_text["shop/greet"].origin, reported_text["shop/greet"].version) == ("package", "shop-nodes 1.2")
    assert "not a subclass of Node" in reported_text["shop/none"].fault
    assert "is a built-in node" in reported_text["file/read"].fault
    assert catalog.names == ["shop/greet"]

    path = write(tmp_path / "nodes", "shop/greet", GREET)
    await catalog.refresh()
    assert {one.name: one.origin for one in catalog.reported}["shop/greet"] == "server"
    path.unlink()
    await catalog.refresh()
    assert {one.name: one.origin for one in catalog.reported}["shop/greet"] == "package"
