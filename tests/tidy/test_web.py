"""The web pages: the build is that of the sources, is small, and the sources keep their rules. Needs no Node."""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from waterflowd.web.files import BUILD_BYTES_MAX, BUILT, INDEX, STATIC

SOURCES = STATIC.parent / "src"
#: The first page, compressed, and how many requests it takes besides those for data.
FIRST_PAGE_BYTES_MAX = 60_000
FIRST_PAGE_REQUESTS_MAX = 5
#: Ways to make markup, code or styles from text, and to keep secrets in the browser. None may be used.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|\beval\(|new Function|DOMParser"
    r"|createContextualFragment|srcdoc|sessionStorage|indexedDB|document\.cookie|serviceWorker|javascript:"
)
#: What a pure module may not name: the document, the network, the clock and storage.
IMPURE = re.compile(
    r"\b(document|window|location|history|navigator|fetch|localStorage|setTimeout|setInterval)\b\s*[.(]|Date\.now\(|Math\.random\("
)


def _files(folder: Path) -> dict[str, Path]:
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {name: file for file in found if "node_modules" not in (name := file.relative_to(folder).as_posix())}


def _hashes(files: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def stale(built: dict[str, dict[str, str]], sources: dict[str, str], outputs: dict[str, str]) -> list[str]:
    """Returns the files that differ from those of the last build."""
    pairs = (("src", built["sources"], sources), ("static", built["outputs"], outputs))
    return [
        f"{folder}/{name}"
        for folder, known, found in pairs
        for name in sorted(known.keys() | found.keys())
        if known.get(name) != found.get(name)
    ]


def test_the_build_is_that_of_the_sources() -> None:
    """The committed build was made from the committed sources; otherwise `make web` must be run."""
    outputs = {name: file for name, file in _files(STATIC).items() if name != BUILT}
    found = stale(json.loads((STATIC / BUILT).read_text()), _hashes(_files(SOURCES)), _hashes(outputs))
    assert not found, f"waterflowd/web is not what was built; run `make web` and commit the result: {', '.join(found)}"


def test_a_stale_build_is_found_by_name() -> None:
    """A changed source, a new one, and an output that somebody edited are each named."""
    built = {"sources": {"app.tsx": "1", "old.ts": "2"}, "outputs": {"app.js": "3"}}
    assert stale(built, {"app.tsx": "9", "new.ts": "4"}, {"app.js": "8"}) == [
        "src/app.tsx",
        "src/new.ts",
        "src/old.ts",
        "static/app.js",
    ]


def test_the_build_is_small() -> None:
    """All files together, and the first page in bytes and requests, stay within their budgets."""
    sizes = {name: file.stat().st_size for name, file in _files(STATIC).items()}
    assert sum(sizes.values()) <= BUILD_BYTES_MAX, sizes
    # A browser fetches the icon once the page is shown.
    names = set(re.findall(r"\{\{assets\}\}/([a-z.]+)", (STATIC / INDEX).read_text())) - {"icon.svg"}
    names.update(re.findall(r'from"\./([a-z_.]+)"', (STATIC / "app.js").read_text()))
    assert len(names) + 1 <= FIRST_PAGE_REQUESTS_MAX, names
    compressed = {name: len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in [*names, INDEX]}
    assert sum(compressed.values()) <= FIRST_PAGE_BYTES_MAX, compressed


def test_no_host_is_named() -> None:
    """The pages load nothing from elsewhere, and the lock file names no registry."""
    index = (STATIC / INDEX).read_text()
    assert "//" not in index
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


def findings(name: str, text: str) -> Iterator[str]:
    """Returns where a source breaks the rules of its folder."""
    if found := FORBIDDEN.search(text):
        yield f"{name}: {found.group()} is not allowed"
    if name.startswith("model/"):
        if found := IMPURE.search(text):
            yield f"{name}: a pure module names {found.group()}"
        for module in re.findall(r'from "([^"]+)"', text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), module))
            if not module.startswith(".") or not target.startswith("model/"):
                yield f"{name}: a pure module imports {module}"
    if name.startswith(("live/", "parts/")):
        for module in re.findall(r'from "\.\./(pages)/[^"]+"', text):
            if name != "parts/frame.tsx":
                yield f"{name}: only pages and the frame import {module}"


def test_sources_keep_their_rules() -> None:
    """Pure modules know no document, no network and no clock; no module makes markup or code from text."""
    sources = {name: file.read_text() for name, file in _files(SOURCES).items() if name.endswith((".ts", ".tsx"))}
    found = [
        text for name, source in sources.items() if not name.startswith("tests/") for text in findings(name, source)
    ]
    assert not found, "\n".join(found)


def test_the_rules_find_violations() -> None:
    """Each rule finds a module that breaks it."""
    assert list(findings("pages/x.tsx", "node.innerHTML = name"))
    assert list(findings("model/x.ts", "const width = document.body.clientWidth;"))
    assert list(findings("model/x.ts", "const now = Date.now();"))
    assert list(findings("model/x.ts", 'import { get } from "../live/api";'))
    assert list(findings("model/log/x.ts", 'import { get } from "../../live/api";'))
    assert list(findings("model/x.ts", 'import { render } from "preact";'))
    assert not list(findings("model/log/x.ts", 'import { clock } from "../times";'))
    assert list(findings("parts/x.tsx", 'import { Runs } from "../pages/runs";'))
    assert not list(findings("model/x.ts", 'import { visible } from "./lines";'))
