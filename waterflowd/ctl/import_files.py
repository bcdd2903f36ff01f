"""The files of `waterflowctl import`: finds those to import, and writes those of the result.

Rules of this file: only regular files below the root of the source are read, and nothing is written before all of the result is
known. An existing file is replaced only on request, and then as a whole: a file is never half-written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.validation.sources import read_below
from waterflowd.importers import detection
from waterflowd.importers.findings import WrittenFile
from waterflowd.importers.origin import Origin, Unreadable, decoded

#: Files of a directory that are looked at.
_LISTED_MAX = 20_000
_IGNORED = frozenset((".git", "node_modules", ".venv", "__pycache__", ".waterflow"))


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What to import."""

    system: str
    #: The directory that paths are relative to, and outside of which nothing is read.
    root: Path
    paths: list[str]


def find_sources(path: str, system: str | None) -> Sources:
    """Return the files to import from a file or a directory; raises Failure."""
    given = Path(os.path.abspath(path))
    if not given.exists():
        raise Failure(USAGE, f"{path} does not exist", f"ls {os.path.dirname(path) or '.'}")
    return _of_directory(given, path, system) if given.is_dir() else _of_file(given, path, system)


def _of_file(given: Path, shown: str, system: str | None) -> Sources:
    root = _root_of(given)
    inside = given.relative_to(root).as_posix()
    found = system or detection.system_of(inside, _beginning(root, inside, shown))
    if found is None:
        raise Failure(USAGE, f"cannot tell which system {shown} belongs to", f"waterflowctl import {shown} --from ...")
    return Sources(system=found, root=root, paths=[inside])


def _beginning(root: Path, inside: str, shown: str) -> str:
    content = read_below(root, inside)
    if content is None:
        raise Failure(USAGE, f"cannot read {shown}: it is not a regular file", f"ls -l {shown}")
    try:
        return decoded(content)
    except Unreadable as error:
        raise Failure(USAGE, f"{shown}: {error}") from None


def _of_directory(given: Path, shown: str, system: str | None) -> Sources:
    listed = list(_listed(given))
    if system is None:
        found = detection.system_of_directory(listed)
        if len(found) != 1:
            what = f"files of {' and '.join(found)}" if found else "no files of a system that is known by their names"
            raise Failure(
                USAGE, f"{shown} has {what}", f"waterflowctl import {shown} --from {found[0] if found else '...'}"
            )
        system = found[0]
    paths = detection.candidates(listed, system)
    if not paths:
        raise Failure(
            USAGE, f"{shown} has no files to import from {system}", f"waterflowctl import FILE --from {system}"
        )
    root = _root_of(given / paths[0])
    below = given.relative_to(root).as_posix()
    return Sources(system=system, root=root, paths=[path if below == "." else f"{below}/{path}" for path in paths])


def _listed(folder: Path) -> Iterator[str]:
    count = 0
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in _IGNORED)
        for name in files:
            count += 1
            if count > _LISTED_MAX:
                raise Failure(USAGE, f"{folder} has more than {_LISTED_MAX:,} files", "name a directory below it")
            yield (Path(directory) / name).relative_to(folder).as_posix()


def _root_of(file: Path) -> Path:
    """Return the root of the repository that a file belongs to, or what would be it."""
    for folder in file.parents:
        if (folder / ".git").exists():
            return folder
    for folder in file.parents:
        if folder.name == ".github":
            return folder.parent
    return file.parent


def origin_of(sources: Sources, output: Path, *, group: str, timezone: str | None) -> Origin:
    """Return where the sources are read, and where the result belongs in its repository."""
    root = sources.root

    def read(path: str) -> bytes | None:
        return read_below(root, path)

    return Origin(read=read, group=group, prefix=_prefix(output, root), timezone=timezone)


def output_of(sources: Sources, output: str | None) -> Path:
    """Return the directory of the result: the root if it has a folder of workflows, else `.waterflow`."""
    if output is not None:
        return Path(os.path.abspath(output))
    is_at_root = (sources.root / "workflows").is_dir() and not (sources.root / ".waterflow").exists()
    return sources.root if is_at_root else sources.root / ".waterflow"


def _prefix(output: Path, root: Path) -> str:
    """Return the output directory, relative to the root of the repository that it belongs to."""
    base = next((folder for folder in (output, *output.parents) if (folder / ".git").exists()), None)
    if base is None and output.is_relative_to(root):
        base = root
    if base is not None:
        found = output.relative_to(base).as_posix()
        return "" if found == "." else found
    return output.name if output.name == ".waterflow" else ""


def write_files(output: Path, files: Sequence[WrittenFile], *, is_forced: bool) -> None:
    """Write the files below the output directory; raises Failure, and writes nothing, if one exists."""
    existing = [file.path for file in files if _exists_differently(output / file.path, file.content)]
    if existing and not is_forced:
        shown = ", ".join(existing[:5]) + (f" and {len(existing) - 5} more" if len(existing) > 5 else "")
        raise Failure(
            USAGE, f"{output} has other files of these names: {shown}", "add --force to replace them, or --output DIR"
        )
    for file in files:
        _write(output / file.path, file.content)


def _exists_differently(path: Path, content: str) -> bool:
    try:
        return path.read_text("utf-8") != content
    except FileNotFoundError:
        return path.is_symlink()
    except NotADirectoryError:
        return False
    except (OSError, UnicodeDecodeError):
        return True


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".import-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise Failure(USAGE, f"cannot write {path}: {error.strerror}", f"ls -ld {path.parent}") from None
