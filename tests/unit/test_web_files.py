"""The built pages as answers: which requests are for them, and what caches may do with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from waterflowd.web.files import WebFiles

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def _files(folder: Path, script: bytes = b"start()") -> WebFiles:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_bytes(b'<script src="{{assets}}/app.js"></script>')
    (folder / "app.js").write_bytes(script)
    (folder / "built.json").write_bytes(b"{}")
    return WebFiles(folder)


def _asset(files: WebFiles) -> str:
    answer = files.answer("GET", "/", BROWSER)
    assert answer is not None
    return answer.body.decode().split('"')[1]


@pytest.mark.parametrize("path", ["/", "/runs", "/runs/01J", "/signin", "/v1x", "/versions"])
def test_every_address_of_a_browser_is_the_same_page(tmp_path: Path, path: str) -> None:
    """The page decides what to show, so all addresses outside of the API answer with it, always revalidated."""
    answer = _files(tmp_path).answer("GET", path, BROWSER)
    assert answer is not None
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/v1/runs", BROWSER),
        ("GET", "/metrics", BROWSER),
        ("GET", "/openapi.json", BROWSER),
        ("POST", "/runs", BROWSER),
        ("GET", "/runs", {"accept": "application/json"}),
        ("GET", "/runs", {}),
        ("GET", "/assets/0000000000000000/app.js", {}),
    ],
)
def test_other_requests_are_left_to_the_api(tmp_path: Path, method: str, path: str, headers: dict[str, str]) -> None:
    """The API, programs and unknown files get no page."""
    assert _files(tmp_path).answer(method, path, headers) is None


def test_files_are_kept_forever_and_change_their_address(tmp_path: Path) -> None:
    """A file is immutable below the hash of its build, and the next build has another one."""
    old, new = _files(tmp_path / "a"), _files(tmp_path / "b", b"other()")
    answer = old.answer("GET", _asset(old), {})
    assert answer is not None
    assert answer.body == b"start()"
    assert "immutable" in answer.headers["cache-control"]
    assert _asset(old) != _asset(new)
    assert old.answer("GET", _asset(new), {}) is None


def test_a_file_is_compressed_for_clients_that_accept_it(tmp_path: Path) -> None:
    """Compressed once, the same bytes each time; a client that has the file gets no body."""
    files = _files(tmp_path)
    answer = files.answer("GET", _asset(files), {"accept-encoding": "br, gzip"})
    assert answer is not None
    assert gzip.decompress(answer.body) == b"start()"
    known = files.answer("GET", _asset(files), {"if-none-match": answer.headers["etag"]})
    assert known is not None
    assert (known.status, known.body) == (304, b"")


def test_no_path_reaches_the_file_system(tmp_path: Path) -> None:
    """Only names of the build are answered, and `built.json` is not one of them."""
    files = _files(tmp_path)
    folder = _asset(files).removesuffix("app.js")
    for name in ("built.json", "../files.py", "..%2ffiles.py", "", "app.js/", "app.js\0"):
        assert files.answer("GET", folder + name, BROWSER) is None
