"""The YAML language server (npm yaml-language-server) driven like an editor does: LSP over standard input and output.

The package is pinned by version and hash in `package-lock.json` and installed with `npm ci` into pytest's cache, once for all
workers. It reads the schema from the file that the first line of a document names.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S

HERE = Path(__file__).parent
#: The files that `npm.installed` installs.
FILES = [HERE / name for name in ("package.json", "package-lock.json")]
SERVER = Path("node_modules", "yaml-language-server", "bin", "yaml-language-server")

_SETTINGS = {
    "yaml": {
        "validate": True,
        "hover": True,
        "completion": True,
        "schemaStore": {"enable": False},
        "kubernetesCRDStore": {"enable": False},
    }
}
_PUBLISHED = "textDocument/publishDiagnostics"
_CONFIGURATION_REQUEST = "workspace/configuration"


class LanguageServer:
    """The running server; use it as a context manager, one request at a time."""

    def __init__(self, folder: Path, schema: Path) -> None:
        self._schema = schema
        self._ids = itertools.count(1)
        self._versions = itertools.count(1)
        self._received: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            ["node", str(folder / SERVER), "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._listener = threading.Thread(target=self._listen, name="language server", daemon=True)
        self._listener.start()

    def __enter__(self) -> LanguageServer:
        capabilities = {
            "workspace": {"configuration": True, "didChangeConfiguration": {}},
            "textDocument": {"hover": {"contentFormat": ["markdown"]}, "completion": {}},
        }
        self._request("initialize", {"processId": None, "rootUri": None, "capabilities": capabilities})
        self._notify("initialized", {})
        self._notify("workspace/didChangeConfiguration", {"settings": _SETTINGS})
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        # An editor that exits terminates its server.
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)
        self._process.stdout.close()

    def problems(self, text: str, *, is_wrong: bool) -> list[tuple[int, str]]:
        """Opens a file and returns its marks: line (from 1) and message; waits for at least one if the file is wrong."""
        uri = self._open(text)

        def matches(message: dict[str, Any]) -> bool:
            is_about = message.get("method") == _PUBLISHED and message["params"]["uri"] == uri
            return is_about and (bool(message["params"]["diagnostics"]) or not is_wrong)

        marks = self._until(matches)["params"]["diagnostics"]
        # Lines count from 0, and a line that names the schema is inserted before the first.
        return sorted((mark["range"]["start"]["line"], mark["message"]) for mark in marks)

    def completions(self, text: str) -> list[str]:
        """Returns the labels of the completions at `|` in a file."""
        response = self._at("textDocument/completion", text)
        items = response["items"] if isinstance(response, dict) else response or []
        return [item["label"] for item in items]

    def hover(self, text: str) -> str:
        """Returns the text that is shown for the position of `|` in a file."""
        response = self._at("textDocument/hover", text)
        contents = (response or {}).get("contents", "")
        # Some versions escape the characters of Markdown.
        return str(contents["value"] if isinstance(contents, dict) else contents).replace("\\", "")

    def _at(self, method: str, text: str) -> Any:
        before, _, after = text.partition("|")
        uri = self._open(before + after)
        # Positions count from 0; the line that names the schema comes first.
        position = {"line": before.count("\n") + 1, "character": len(before.rpartition("\n")[2])}
        return self._request(method, {"textDocument": {"uri": uri}, "position": position})

    def _open(self, text: str) -> str:
        version = next(self._versions)
        uri = f"file:///workflows/{version}.yml"
        named = f"# yaml-language-server: $schema={self._schema.as_uri()}\n{text}"
        document = {"uri": uri, "languageId": "yaml", "version": version, "text": named}
        self._notify("textDocument/didOpen", {"textDocument": document})
        return uri

    def _request(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._ids)
        self._send({"id": number, "method": method, "params": params})
        response = self._until(lambda message: message.get("id") == number and "method" not in message)
        assert "error" not in response, response
        return response["result"]

    def _notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        self._process.stdin.flush()

    def _until(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Returns the next message that matches, answering the server's own requests meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self._received.get(timeout=max(0.0, deadline - time.monotonic()))
            if "method" in message and "id" in message:
                requested = message.get("params", {}).get("items", [])
                settings = [_SETTINGS.get(str(item.get("section"))) for item in requested]
                self._send(
                    {"id": message["id"], "result": settings if message["method"] == _CONFIGURATION_REQUEST else None}
                )
            elif matches(message):
                return message

    def _listen(self) -> None:
        assert self._process.stdout is not None
        stream = self._process.stdout
        while line := stream.readline():
            size = 0
            while line.strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
                line = stream.readline()
            if size:
                self._received.put(json.loads(stream.read(size)))
