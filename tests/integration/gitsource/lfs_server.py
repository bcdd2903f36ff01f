"""A Git LFS server for tests: the batch API and the transfer `basic`, as a part of the https server of a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from email.message import Message

Answer = tuple[int, dict[str, str], bytes]

_TYPE = "application/vnd.git-lfs+json"
_BATCH = "/info/lfs/objects/batch"
#: Contents are below this path; they need the header of the action, and no login.
LFS_CONTENTS = "/lfs-objects/"


def pointer(content: bytes) -> str:
    """The file that a commit has in place of a content."""
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"


class LfsServer:
    """The contents, and what was asked for; tests change both."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        #: The ids of each request to the batch API.
        self.batches: list[list[str]] = []
        #: The ids that were fetched, and the headers of these requests.
        self.fetched: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        #: Where contents are; empty for this server.
        self.storage = ""
        #: What the header of a fetch must have, which the batch API tells; empty if it needs none.
        self.token = "t0ken"
        #: Contents at another address: the server redirects there.
        self.moved_to = ""
        #: Whether it can send a part of a content.
        self.has_ranges = True
        #: A content ends after so many bytes, although more was announced; None for all of it.
        self.cut_after: int | None = None
        #: Contents are sent when it is set, and the number of those that wait for it.
        self.may_send = threading.Event()
        self.may_send.set()
        self.waiting = 0
        #: Status and content in place of every answer of the batch API.
        self.instead: tuple[int, bytes] | None = None

    def add(self, content: bytes) -> str:
        """Has a content from now on; returns its pointer."""
        self.contents[hashlib.sha256(content).hexdigest()] = content
        return pointer(content)

    def answer(self, method: str, path: str, host: str, headers: Message, body: bytes) -> Answer | None:
        """The answer to a request; None if it is not for Git LFS. `host` is this server's address."""
        if path.endswith(_BATCH) and method == "POST":
            return self._batch(host, headers, body)
        if path.startswith(LFS_CONTENTS) and method == "GET":
            return self._object(path.removeprefix(LFS_CONTENTS), headers)
        return None

    def _batch(self, host: str, headers: Message, body: bytes) -> Answer:
        if self.instead is not None:
            return self.instead[0], {"Content-Type": _TYPE}, self.instead[1]
        request = json.loads(body)
        assert (headers["Accept"], headers["Content-Type"]) == (_TYPE, _TYPE)
        assert (request["operation"], "basic" in request["transfers"], request["hash_algo"]) == (
            "download",
            True,
            "sha256",
        )
        self.batches.append([item["oid"] for item in request["objects"]])
        objects = [self._described(item, host) for item in request["objects"]]
        answer = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
        return 200, {"Content-Type": _TYPE}, json.dumps(answer).encode()

    def _described(self, item: dict[str, object], host: str) -> dict[str, object]:
        content = self.contents.get(str(item["oid"]))
        if content is None:
            return {**item, "error": {"code": 404, "message": "Object does not exist"}}
        action = {
            "href": f"{self.storage or host}{LFS_CONTENTS}{item['oid']}",
            "header": {"X-Lfs-Token": self.token},
            "expires_in": 600,
        }
        return {**item, "authenticated": True, "actions": {"download": action}}

    def _object(self, oid: str, headers: Message) -> Answer:
        if self.moved_to:
            return 302, {"Location": f"{self.moved_to}{LFS_CONTENTS}{oid}"}, b"moved to another server"
        if self.token and headers["X-Lfs-Token"] != self.token:
            return 403, {}, b""
        self.fetched.append(oid)
        self.headers.append(dict(headers.items()))
        self.waiting += 1
        self.may_send.wait()
        self.waiting -= 1
        content = self.contents.get(oid)
        if content is None:
            return 404, {}, b""
        status, sent = 200, {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
        if self.has_ranges and "Range" in headers:
            first = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
            status, sent["Content-Range"] = 206, f"bytes {first}-{len(content) - 1}/{len(content)}"
            content = content[first:]
            sent["Content-Length"] = str(len(content))
        if self.cut_after is not None:
            sent["Connection"] = "close"
            content = content[: self.cut_after]
        return status, sent, content
