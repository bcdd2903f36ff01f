"""A private CPython: Debian 12's build with the libraries that it needs, relocated to a directory of the package.

Why Debian's build: it is optimised, has security support for as long as Debian 12, documents its licences and sources, and
needs only glibc 2.36, so it runs on all newer distributions. `cpython.lock` pins versions and hashes; `make packages-lock`
takes the newest, for example to get a fixed OpenSSL.

How it is relocated: the interpreter finds its standard library relative to itself (`bin/../lib/python3.11`), and packages
where Debian's `site` module looks for them, all inside its own directory. Shared libraries are found by an rpath relative to
the interpreter (DT_RPATH, not DT_RUNPATH: it also applies to the dependencies of extension modules).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.11"
#: The Debian packages that the lock file must list.
PARTS = (
    f"python{VERSION}-minimal",
    f"libpython{VERSION}-minimal",
    f"libpython{VERSION}-stdlib",
    "libssl3",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libbz2-1.0",
)
#: Shared libraries, by soname.
LIBRARIES = (
    "libssl.so.3",
    "libcrypto.so.3",
    "libz.so.1",
    "libexpat.so.1",
    "libffi.so.8",
    "liblzma.so.5",
    "libbz2.so.1.0",
)
#: Standard library modules that neither the daemon nor the agent uses, or that need libraries that are not bundled.
_UNUSED = (
    "curses",
    "dbm",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sqlite3",
    "test",
    "tkinter",
    "turtledemo",
    "venv",
    "_distutils_system_mod.py",
    "antigravity.py",
    "cgi.py",
    "cgitb.py",
    "sitecustomize.py",
    "this.py",
    "turtle.py",
    *(f"lib-dynload/{name}.*" for name in ("_codecs_*", "_crypt", "_curses*", "_dbm", "_sqlite3", "_test*", "_uuid")),
    *(f"lib-dynload/{name}.*" for name in ("_xx*", "nis", "ossaudiodev", "readline", "xx*", "_ctypes_test")),
)
#: Modules that the agent does not use either.
UNUSED_BY_AGENT = (
    "doctest.py",
    "pdb.py",
    "pickletools.py",
    "pydoc.py",
    "unittest",
    "xmlrpc",
    "lib-dynload/_lsprof.*",
    "lib-dynload/audioop.*",
)
#: Directory of distributions in Debian's Python.
DISTRIBUTIONS = "lib/python3/dist-packages"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Debian package of the lock, or one that is installed, whose hash is not known."""

    name: str
    version: str
    sha256: str = ""


def read_lock(file: Path) -> list[Part]:
    """Reads the pinned packages. Raises `ValueError` if they are not exactly `PARTS`."""
    lines = [line.split() for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    parts = [Part(name=name, version=version, sha256=sha256) for name, version, sha256 in lines]
    if [part.name for part in parts] != list(PARTS):
        raise ValueError(f"{file} does not name exactly {', '.join(PARTS)}: run `make packages-lock`")
    return parts


def write_lock(file: Path, scratch: Path) -> None:
    """Pins the newest versions in the Debian 12 archives of this machine."""
    scratch.mkdir(parents=True, exist_ok=True)
    lines = ["# Debian 12 packages of the private CPython. Written by `make packages-lock`."]
    for name in PARTS:
        shown = _run(["apt-cache", "show", "--no-all-versions", name], scratch)
        fields = dict(re.findall(r"^(Version|SHA256): (\S+)$", shown, re.MULTILINE))
        lines.append(f"{name} {fields['Version']} {fields['SHA256']}")
    file.write_text("\n".join(lines) + "\n", "utf-8")


def fetch(parts: list[Part], cache: Path) -> list[Path]:
    """Downloads missing packages with apt into the cache. Raises `ValueError` if a hash does not match."""
    cache.mkdir(parents=True, exist_ok=True)
    files = []
    for part in parts:
        file = cache / f"{part.sha256}.deb"
        if not file.exists():
            fresh = cache / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                _run(["apt-get", "download", "--quiet", f"{part.name}={part.version}"], fresh)
            except subprocess.CalledProcessError as error:
                raise ValueError(
                    f"apt cannot download {part.name} {part.version}: run `apt-get update` on Debian 12; "
                    f"if Debian has a newer version, run `make packages-lock`\n{error.stderr}"
                ) from None
            (found,) = fresh.iterdir()
            found.rename(file)
        if hashlib.sha256(file.read_bytes()).hexdigest() != part.sha256:
            raise ValueError(f"{file}, {part.name} {part.version}, does not match the locked hash")
        files.append(file)
    return files


def unpack(files: list[Path], source: Path) -> None:
    """Unpacks the files of the packages below `source`."""
    for file in files:
        _run(["dpkg-deb", "--extract", str(file), str(source)], source.parent)


def assemble(source: Path, target: Path, patchelf: Path) -> None:
    """Assembles an interpreter from the unpacked packages: `target/bin/python3.11` and `target/lib`."""
    library = target / "lib" / f"python{VERSION}"
    (target / "bin").mkdir(parents=True)
    interpreter = target / "bin" / f"python{VERSION}"
    shutil.copy(source / "usr" / "bin" / f"python{VERSION}", interpreter)
    interpreter.chmod(0o755)
    _run([str(patchelf), "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(interpreter)], target)
    (target / "bin" / "python3").symlink_to(interpreter.name)
    shutil.copytree(source / "usr" / "lib" / f"python{VERSION}", library, symlinks=True)
    for name in LIBRARIES:
        (found,) = {entry.resolve() for entry in source.glob(f"**/{name}")}
        shutil.copy(found, target / "lib" / name)
    drop(library, _UNUSED)
    for cache in list(library.rglob("__pycache__")):
        shutil.rmtree(cache)


def settle(interpreter: Path, libraries: str, patchelf: Path) -> None:
    """Sets the final path of the shared libraries. It is absolute, so it works without /proc, too."""
    _run([str(patchelf), "--force-rpath", "--set-rpath", libraries, str(interpreter)], interpreter.parent)


def drop(library: Path, patterns: tuple[str, ...]) -> None:
    """Removes parts of the standard library."""
    for pattern in patterns:
        for entry in list(library.glob(pattern)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _run(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
