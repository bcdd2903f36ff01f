"""Own nodes: `uses: shop/greet` is the class in `nodes/shop/greet.py` of the repository, or a node installed on the servers.

Rules of this file: the plan contains the file as it is at the revision, so later pushes do not affect a run. It is never
executed or parsed here. `greet.schema.json` next to it allows its parameters to be checked before the run; without it, and for
nodes of servers, the server checks them. Names of built-in nodes cannot be overridden.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from waterflow_agent.display import quote
from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl.building.compilation import NODE_BYTES_MAX, Compilation, SourceFile
from waterflowd.dsl.building.uses.parameter_schema import UNKNOWN_KEY, ParameterSchema, UnusableSchema
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import as_text
from waterflowd.model.plan import Json, NodePlan
from waterflowd.model.wording import did_you_mean

#: A name that is this similar to a built-in node is a typing error.
_SLIP_RATIO = 0.85
#: Prefix of GitHub's actions.
_ACTIONS = "actions/"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """A node that is not built in."""

    name: str
    schema: ParameterSchema | None = None


class OwnNodes:
    """The own nodes that the steps of one file use."""

    def __init__(self, source: SourceFile, compilation: Compilation) -> None:
        self._source = source
        self._compilation = compilation

    def find(self, at: Path, uses: str) -> OwnNode | None:
        """The own node that the `uses` at this path names, or None. Reports a node that cannot be used."""
        if not node_schema.OWN_NAME.fullmatch(uses) or uses.startswith(_ACTIONS):
            return None
        path = node_schema.path_of(uses)
        content = self._compilation.find(path)
        if node_schema.find(uses) is not None:
            if content is not None:
                text = f"{path} cannot be used: {quote(uses)} is a built-in node"
                self._source.at_value(at, codes.WRONG_CALL, text, "rename the file, and use its new name here")
            return None
        if content is None:
            return self._of_servers(at, uses, path)
        if not self._is_taken(at, uses, path, content):
            return OwnNode(name=uses)
        return OwnNode(name=uses, schema=self._schema(at, path.removesuffix(".py") + ".schema.json"))

    def _of_servers(self, at: Path, uses: str, path: str) -> OwnNode | None:
        if difflib.get_close_matches(uses, node_schema.BUILT_IN, n=1, cutoff=_SLIP_RATIO):
            return None
        where = (
            "this file was compiled without its repository"
            if self._compilation.read is None
            else f"the repository has no {path}"
        )
        text = f"{quote(uses)} is not a built-in node, and {where}; it must be installed on the servers"
        self._source.warn_value(at, codes.UNSEEN_NODE, text, "list the nodes of the servers: waterflowctl nodes")
        return OwnNode(name=uses)

    def _is_taken(self, at: Path, uses: str, path: str, content: bytes) -> bool:
        fault, hint = "", ""
        if len(content) > node_schema.SOURCE_BYTES_MAX:
            fault = f"{path} is larger than {node_schema.SOURCE_BYTES_MAX:,} bytes"
            hint = "install it on the servers as a package"
        else:
            try:
                text = content.decode()
            except UnicodeDecodeError:
                fault, hint = f"{path} is not UTF-8 text", "save it as UTF-8"
            else:
                plan = NodePlan(name=uses, version=hashlib.sha256(content).hexdigest(), source=text)
                if self._compilation.take_node(plan):
                    return True
                fault, hint = (
                    f"with {path}, the nodes of this workflow are larger than {NODE_BYTES_MAX:,} bytes in total",
                    "use fewer nodes, or install them as a package",
                )
        self._source.at_value(at, codes.WRONG_CALL, fault, hint)
        return False

    def _schema(self, at: Path, path: str) -> ParameterSchema | None:
        content = self._compilation.find(path)
        if content is None:
            return None
        try:
            return ParameterSchema(content)
        except UnusableSchema as error:
            hint = "generate it again: waterflow-agent node FILE --schema"
            self._source.at_value(at, codes.WRONG_CALL, f"{path} is not a valid schema: {error}", hint)
            return None

    def parameters(self, path: Path, node: OwnNode, parameters: Mapping[str, Json]) -> dict[str, Json]:
        """The parameters as the plan holds them, checked with the node's schema if it has one."""
        values: dict[str, Json] = {name: plain(value) for name, value in parameters.items()}
        if node.schema is None:
            return values
        for where, text in node.schema.faults(values):
            if len(where) == 1:
                # Where text is expected, a number is taken as it is written.
                name = str(where[0])
                written = as_text(parameters[name])
                if isinstance(written, str) and not node.schema.faults({**values, name: written}):
                    values[name] = written
                    continue
            self._report(path, node, where, text)
        return values

    def _report(self, path: Path, node: OwnNode, where: tuple[str | int, ...], text: str) -> None:
        assert node.schema is not None
        if not where:
            self._source.at_key(path, codes.WRONG_PARAMETER, f"{node.name} {text}", "add it under with")
            return
        named = ".".join(str(part) for part in where)
        if text == UNKNOWN_KEY:
            hint = did_you_mean(str(where[0]), node.schema.names) if len(where) == 1 else ""
            self._source.at_key((*path, *where), codes.WRONG_PARAMETER, f"{named}: {text}", hint)
        else:
            self._source.at_value((*path, *where), codes.WRONG_PARAMETER, f"{named}: {text}")
