"""Packs a directory tree as deb or rpm, with nfpm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from builder import layout
from builder.layout import Tree

#: Dependencies of the interpreter and the libraries on the system. Everything else is bundled.
_DEPENDS = {
    "deb": [
        "libc6 (>= 2.36)",
        "libstdc++6 (>= 12)",
        "libgcc-s1 (>= 4.2)",
        "systemd (>= 252) | systemd-standalone-sysusers",
    ],
    "rpm": ["glibc >= 2.36", "libstdc++", "libgcc", "systemd >= 251"],
}
_RECOMMENDS = {"deb": ["ca-certificates"], "rpm": ["ca-certificates"]}
_SCRIPTS = {
    "deb": {"preinstall": "preinst", "postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"},
    "rpm": {"preinstall": "pre", "postinstall": "post", "preremove": "preun", "postremove": "postun"},
}
_COMPRESSION = {"deb": "xz", "rpm": "xz"}


class Nfpm:
    """Writes packages of one version into a folder."""

    def __init__(self, program: Path, target: Path, version: str, release: str, at_s: int) -> None:
        self._program = program
        self._target = target
        self._version = version
        self._release = release
        self._at_s = at_s

    def pack(self, tree: Tree, kind: str) -> Path:
        """Builds the package and returns its file."""
        package = tree.package
        name = {
            "deb": f"{package.name}_{self._version}-{self._release}_amd64.deb",
            "rpm": f"{package.name}-{self._version}-{self._release}.x86_64.rpm",
        }[kind]
        configuration = tree.root.with_suffix(".json")
        configuration.write_text(json.dumps(self._settings(tree, kind), indent=1), "utf-8")
        file = self._target / name
        subprocess.run(
            [str(self._program), "package", "--config", str(configuration), "--packager", kind, "--target", str(file)],
            env=os.environ | {"SOURCE_DATE_EPOCH": str(self._at_s), "TZ": "UTC"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return file

    def _settings(self, tree: Tree, kind: str) -> dict[str, Any]:
        package = tree.package
        scripts = {point: str(_script(tree, kind, name)) for point, name in _SCRIPTS[kind].items()}
        return {
            "name": package.name,
            "arch": "amd64",
            "platform": "linux",
            "version": self._version,
            "version_schema": "none",
            "release": self._release,
            "section": "admin",
            "priority": "optional",
            "maintainer": layout.MAINTAINER,
            "description": f"{package.summary}\n{package.description}",
            "license": "MIT",
            "mtime": _iso(self._at_s),
            "depends": _DEPENDS[kind],
            "recommends": _RECOMMENDS[kind],
            "scripts": scripts,
            "deb": {"compression": _COMPRESSION["deb"]},
            "rpm": {
                "summary": package.summary,
                "group": "System Environment/Daemons",
                "compression": _COMPRESSION["rpm"],
                "buildhost": "localhost",
                "packager": layout.MAINTAINER,
            },
            **layout.settings_of(tree, kind),
        }


def _script(tree: Tree, kind: str, name: str) -> Path:
    """A maintainer script: the template of its format, filled in with the package's name and services."""
    package = tree.package
    text = (layout.PACKAGING / "scripts" / kind / name).read_text("utf-8")
    words = (layout.PACKAGING / "scripts" / f"{package.name}.sh").read_text("utf-8")
    file = tree.root.with_name(f"{tree.root.name}.{name}")
    file.write_text(text.replace("@WORDS@\n", words).replace("@NAME@", package.name), "utf-8")
    file.chmod(0o755)
    return file


def _iso(at_s: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
