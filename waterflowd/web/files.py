"""The built web pages in memory, as answers to requests.

Rules of this file:

- All files of `static/` are read and compressed once, when the daemon starts. A request selects one by its name in a table; no
  path of a request ever reaches the file system.
- Files have an address below `/assets/<hash of the whole build>/`, so that browsers may keep them forever: another build has
  other addresses. `index.html`, which names them, is always revalidated.
- Every address outside the API is a page, and every page is the same `index.html`: the browser decides what to show. It holds
  no data, so it needs no permission.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ASSETS = "/assets/"
#: Stands in `index.html` for the folder that holds the other files.
PLACEHOLDER = b"{{assets}}"
INDEX = "index.html"
#: The hashes by which a stale build is found; nothing for browsers.
BUILT = "built.json"
STATIC = Path(__file__).parent / "static"

#: Only our own files, and no markup made of text: neither inline scripts and styles nor other hosts, frames and forms.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
#: Addresses that belong to the API and to programs; everything else is a page.
_NOT_PAGES = ("/v1/", "/metrics/", "/health/", "/ready/", "/version/", "/openapi.json/")
#: The bytes of a build: a few scripts and styles, far below what a person would notice on a slow line.
BUILD_BYTES_MAX = 400_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send. `body` is empty when the client has the file already."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, content: bytes, caching: str) -> _File:
        """A file of the build."""
        headers = {
            "content-type": _TYPES[Path(name).suffix],
            "cache-control": caching,
            "etag": f'"{_digest(content)}"',
            "vary": "accept-encoding",
            "content-security-policy": POLICY,
        }
        return cls(content, gzip.compress(content, 9, mtime=0), headers)

    def answer(self, headers: Mapping[str, str]) -> Answer:
        """The file as this request wants it."""
        if headers.get("if-none-match") == self.headers["etag"]:
            return Answer(304, self.headers, b"")
        if "gzip" in headers.get("accept-encoding", ""):
            return Answer(200, {**self.headers, "content-encoding": "gzip"}, self.compressed)
        return Answer(200, self.headers, self.content)


class WebFiles:
    """The pages of one build. To be made once: reads and compresses all files."""

    def __init__(self, folder: Path = STATIC) -> None:
        """Raises OSError when the build is missing."""
        contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != BUILT}
        self._prefix = f"{ASSETS}{_digest(*contents.values())}/"
        self._index = _File.of(
            INDEX, contents.pop(INDEX).replace(PLACEHOLDER, self._prefix.rstrip("/").encode()), "no-cache"
        )
        immutable = "public, max-age=31536000, immutable"
        self._files = {self._prefix + name: _File.of(name, content, immutable) for name, content in contents.items()}

    def is_public(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the request is for a page or one of its files: neither needs a principal."""
        return method in {"GET", "HEAD"} and (path.startswith(ASSETS) or _is_page(path, headers))

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a request, by lower-case header names; None when it is not for the pages, or the file is unknown."""
        if not self.is_public(method, path, headers):
            return None
        file = self._files.get(path) if path.startswith(ASSETS) else self._index
        return file.answer(headers) if file is not None else None


def _is_page(path: str, headers: Mapping[str, str]) -> bool:
    return not f"{path}/".startswith(_NOT_PAGES) and "text/html" in headers.get("accept", "")


def _digest(*contents: bytes) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()[:16]
