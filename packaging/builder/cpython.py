"""A private CPython: Debian 12's own build of it with the libraries that it needs, moved to a directory of ours.

Why Debian's: it is optimised, patched for as long as Debian 12 is, has its licences and sources in order, and asks for no
glibc newer than 2.36, so it runs on everything from there on. Versions and hashes are pinned in `cpython.lock`; `make
packages-lock` takes the newest, which is how a repaired OpenSSL gets in.

What moving takes: the interpreter finds its library beside itself (`bin/../lib/python3.11`), and distributions below that,
where Debian's `site` looks for them: nowhere outside of its own directory. The shared libraries are found by an rpath that is
relative to the interpreter (DT_RPATH and not DT_RUNPATH, for that holds for what extension modules need as well).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.11"
#: The Debian packages, in which the lock has to agree.
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
#: By the names that they are loaded by.
LIBRARIES = (
    "libssl.so.3",
    "libcrypto.so.3",
    "libz.so.1",
    "libexpat.so.1",
    "libffi.so.8",
    "liblzma.so.5",
    "libbz2.so.1.0",
)
#: Of the standard library: what neither a daemon nor an agent has a use for, and what needs libraries that are left out.
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
#: What the agent alone can do without on top of that.
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
#: Where distributions lie, below an interpreter of Debian.
DISTRIBUTIONS = "lib/python3/dist-packages"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Debian package of the lock."""

    name: str
    version: str
    sha256: str


def read_lock(file: Path) -> list[Part]:
    """The pinned packages; raises `ValueError` when they are not the ones that are needed."""
    lines = [line.split() for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    parts = [Part(name=name, version=version, sha256=sha256) for name, version, sha256 in lines]
    if [part.name for part in parts] != list(PARTS):
        raise ValueError(f"{file} does not name exactly {', '.join(PARTS)}: run `make packages-lock`")
    return parts


def write_lock(file: Path, scratch: Path) -> None:
    """Pins the newest versions that this machine's Debian 12 archives have."""
    scratch.mkdir(parents=True, exist_ok=True)
    lines = ["# Debian 12 packages that the private CPython is made of. Written by `make packages-lock`."]
    for name in PARTS:
        shown = _run(["apt-cache", "show", "--no-all-versions", name], scratch)
        fields = dict(re.findall(r"^(Version|SHA256): (\S+)$", shown, re.MULTILINE))
        lines.append(f"{name} {fields['Version']} {fields['SHA256']}")
    file.write_text("\n".join(lines) + "\n", "utf-8")


def fetch(parts: list[Part], cache: Path) -> list[Path]:
    """Downloads what is not in the cache yet, by apt and its mirrors. Raises `ValueError` when a hash is another one."""
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
                    f"apt has no {part.name} {part.version}: it takes a Debian 12 machine and `apt-get update`; "
                    f"if Debian has a newer one, `make packages-lock` pins that\n{error.stderr}"
                ) from None
            (found,) = fresh.iterdir()
            found.rename(file)
        if hashlib.sha256(file.read_bytes()).hexdigest() != part.sha256:
            raise ValueError(f"{file}, {part.name} {part.version}, does not have the hash that is locked")
        files.append(file)
    return files


def unpack(files: list[Path], source: Path) -> None:
    """Lays the packages' files out below `source`."""
    for file in files:
        _run(["dpkg-deb", "--extract", str(file), str(source)], source.parent)


def assemble(source: Path, target: Path, patchelf: Path) -> None:
    """Makes an interpreter of the unpacked packages: `target/bin/python3.11` and `target/lib`."""
    library = target / "lib" / f"python{VERSION}"
    (target / "bin").mkdir(parents=True)
    interpreter = target / "bin" / f"python{VERSION}"
    shutil.copy(source / "usr" / "bin" / f"python{VERSION}", interpreter)
    interpreter.chmod(0o755)
    _run([str(patchelf), "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(interpreter)], target)
    (target / "bin" / "python3").symlink_to(interpreter.name)
    shutil.copytree(source / "usr" / "lib" / f"python{VERSION}", library, symlinks=True)
    for name in LIBRARIES:
        (found,) = {place.resolve() for place in source.glob(f"**/{name}")}
        shutil.copy(found, target / "lib" / name)
    drop(library, _UNUSED)
    for cache in list(library.rglob("__pycache__")):
        shutil.rmtree(cache)


def settle(interpreter: Path, libraries: str, patchelf: Path) -> None:
    """Says where the shared libraries are in the end: an absolute path holds where /proc is missing, too."""
    _run([str(patchelf), "--force-rpath", "--set-rpath", libraries, str(interpreter)], interpreter.parent)


def drop(library: Path, patterns: tuple[str, ...]) -> None:
    """Removes parts of the standard library."""
    for pattern in patterns:
        for place in list(library.glob(pattern)):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()


def _run(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
