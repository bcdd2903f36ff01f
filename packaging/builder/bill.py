"""The bill of materials of a package (CycloneDX), and the licences of third-party software in it.

Both are generated from the files in the package, not from the requirements.
"""

from __future__ import annotations

import datetime
import json
import shutil
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from builder.cpython import Part

#: Namespace of the bills' serial numbers; an arbitrary constant.
_SERIES = uuid.UUID("6f1c2d62-4e3b-5b0e-9c55-7d6a2f6f3c11")
_LICENCE_NAMES = ("licen", "copying", "notice", "authors")


def write(
    target: Path, name: str, version: str, library: Path, parts: list[Part], at_s: int, release: str = "12"
) -> None:
    """Writes the bill of materials of the package or image `name` to `target`. `release` is that of Debian, for `parts`."""
    components = [*_distributions(library), *_native(library), *(_debian(part, release) for part in parts)]
    root = {"type": "application", "bom-ref": name, "name": name, "version": version, "licenses": [_licence("MIT")]}
    content = json.dumps(components, sort_keys=True)
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIES, name + version + content)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": root,
        },
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
    }
    target.write_text(json.dumps(bill, indent=1) + "\n", "utf-8")


def copy_licences(target: Path, library: Path, source: Path, parts: list[Part]) -> None:
    """Writes one licence file for each Python distribution and each Debian package below `target`."""
    target.mkdir(parents=True)
    for entry in sorted(library.glob("*.dist-info")):
        texts = [file.read_text("utf-8", "replace") for file in _licence_files(entry)]
        about = HeaderParser().parsestr((entry / "METADATA").read_text("utf-8"))
        stated = about["License-Expression"] or about["License"] or ""
        text = (
            "\n\n".join(texts)
            or f"{about['Name']} {about['Version']} states its licence as: {stated or 'see its home page'}\n"
        )
        (target / f"{about['Name'].lower()}.txt").write_text(text, "utf-8")
    for part in parts:
        shutil.copy(source / "usr" / "share" / "doc" / part.name / "copyright", target / f"{part.name}.txt")
    for file in target.iterdir():
        file.chmod(0o644)


def _licence_files(entry: Path) -> list[Path]:
    return [
        file
        for file in sorted(entry.rglob("*"))
        if file.is_file() and (file.name.lower().startswith(_LICENCE_NAMES) or file.parent.name == "licenses")
    ]


def _distributions(library: Path) -> Iterator[dict[str, Any]]:
    for entry in sorted(library.glob("*.dist-info")):
        about = HeaderParser().parsestr((entry / "METADATA").read_text("utf-8"))
        name, version = about["Name"].lower().replace("_", "-").replace(".", "-"), about["Version"]
        purl = f"pkg:pypi/{name}@{version}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        if about["License-Expression"]:
            component["licenses"] = [{"expression": about["License-Expression"]}]
        elif about["License"] and "\n" not in about["License"]:
            component["licenses"] = [{"license": {"name": about["License"]}}]
        yield component


def _native(library: Path) -> Iterator[dict[str, Any]]:
    """Shared libraries bundled in a wheel. Only their file names are known."""
    for file in sorted(library.glob("*.libs/*.so*")):
        name, _, rest = file.name.partition(".so")
        reference = f"file:{file.parent.name}/{file.name}"
        version = rest.lstrip(".") or "unknown"
        yield {"type": "library", "bom-ref": reference, "name": name, "version": version}


def _debian(part: Part, release: str) -> dict[str, Any]:
    version = part.version.replace("+", "%2B").replace(":", "%3A")
    purl = f"pkg:deb/debian/{part.name}@{version}?arch=amd64&distro=debian-{release}"
    component = {"type": "library", "bom-ref": purl, "name": part.name, "version": part.version, "purl": purl}
    return component | ({"hashes": [{"alg": "SHA-256", "content": part.sha256}]} if part.sha256 else {})


def _licence(name: str) -> dict[str, Any]:
    return {"license": {"id": name}}
