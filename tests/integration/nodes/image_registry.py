"""An image registry with one generated image. It sends half of the layer, and then single bytes until released."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.remote.git_servers import LOOPBACK
from tests.integration.transfer.transfer_harness import Request, served

_TYPES = "application/vnd.docker"
_MANIFEST = f"{_TYPES}.distribution.manifest.v2+json"
_UNKNOWN = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {}}]}'
_DENIED = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required", "detail": {}}]}'
#: Large enough that the first half does not stay in a buffer.
_LAYER_BYTES = 1 << 20


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """The registry's content and its progress. With `is_spoiled`, the layer does not match the manifest.

    With a `login` (`user:password`) it has nothing for anybody else.
    """

    def __init__(self) -> None:
        self.go_on = threading.Event()
        #: Set when the first half of the layer has been sent.
        self.is_half = threading.Event()
        #: Set when the client disconnects during the layer.
        self.is_left = threading.Event()
        self.is_spoiled = False
        self.login = ""
        self.address = ""
        self.make()

    @property
    def image(self) -> str:
        """The name to pull."""
        return f"{self.address}/shop/web:1"

    @property
    def digest(self) -> str:
        """The digest of the image, which no other image has."""
        return _digest(self._manifest)

    def make(self, content: bytes | None = None, **config: object) -> None:
        """Creates a new image from a tar file; without one each call creates a different image, which cannot be run."""
        plain = _noise() if content is None else content
        self._layer = gzip.compress(plain)
        described = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
            }
        ).encode()
        self._manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _part(f"{_TYPES}.container.image.v1+json", described),
                "layers": [_part(f"{_TYPES}.image.rootfs.diff.tar.gzip", self._layer)],
            }
        ).encode()
        self._found = {_digest(content): content for content in (self._layer, described, self._manifest)}

    def answer(self, request: Request) -> None:
        """Implements the part of the protocol that a pull needs."""
        if self.login and request.headers.get("authorization") != f"Basic {b64encode(self.login.encode()).decode()}":
            request.reply(401, _DENIED, Content_Type="application/json", WWW_Authenticate='Basic realm="images"')
            return
        name = request.path.rpartition("/")[2]
        content = self._manifest if request.path == "/v2/shop/web/manifests/1" else self._found.get(name)
        if request.path == "/v2/":
            request.reply(200)
        elif content is None:
            request.reply(404, _UNKNOWN, Content_Type="application/json")
        elif content is self._layer:
            self._send_layer(request)
        else:
            is_manifest = content is self._manifest
            kind = _MANIFEST if is_manifest else "application/octet-stream"
            request.reply(200, content, Content_Type=kind, Docker_Content_Digest=_digest(content))

    def _send_layer(self, request: Request) -> None:
        sent = len(self._layer) // 2
        request.reply(200, self._layer[:sent], length=len(self._layer), Content_Type="application/octet-stream")
        self.is_half.set()
        try:
            # An engine that has given up a pull closes its connection only when data arrives, so keep sending.
            while not self.go_on.wait(0.05):
                request.wfile.write(self._layer[sent : sent + 1])
                sent += 1
        except OSError:
            self.is_left.set()
            raise
        rest = self._layer[sent:]
        request.wfile.write(bytes(len(rest)) if self.is_spoiled else rest)


def _noise() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("noise")
        member.size = _LAYER_BYTES
        # Incompressible content, so that half of the layer is half a megabyte.
        tar.addfile(member, io.BytesIO(os.urandom(_LAYER_BYTES)))
    return packed.getvalue()


def _part(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


@contextmanager
def registry() -> Iterator[Registry]:
    """Serves the registry; engines accept it without TLS because it is on loopback."""
    made = Registry()
    with served(made.answer) as server:
        made.address = f"{LOOPBACK}:{server.server_address[1]}"
        try:
            yield made
        finally:
            made.go_on.set()
