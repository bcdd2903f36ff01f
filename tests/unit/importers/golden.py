"""The cases of the importers: `cases/SYSTEM/NAME/` holds a source tree, `cases/SYSTEM/NAME.expected` what it must yield."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from waterflowd.ctl.commands.offline.import_ import IMPORTERS
from waterflowd.ctl.validation.sources import read_below
from waterflowd.importers import detection
from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import Origin

FOLDER = Path(__file__).parent / "cases"
CASES = sorted(path for path in FOLDER.glob("*/*") if path.is_dir())
GROUP = "build-servers"
#: Keys and values of each system that are translated into others; all other words must stay.
TRANSLATED = {
    system: frozenset((FOLDER / system / "translated.txt").read_text("utf-8").split())
    for system in IMPORTERS
    if (FOLDER / system / "translated.txt").exists()
}
#: Words of a source; shorter ones and punctuation are part of the syntax of each system.
_WORD = re.compile(r"[A-Za-z0-9_./-]{3,}")


def origin_of(folder: Path, **settings: str) -> Origin:
    """Where the files of a case are."""
    return Origin(read=lambda path: read_below(folder, path), group=GROUP, **settings)


def import_tree(folder: Path, system: str) -> Imported:
    """Imports the files of a directory as `waterflowctl import DIR --from SYSTEM` does."""
    listed = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    module = importlib.import_module(IMPORTERS[system])
    imported: Imported = module.import_files(detection.candidates(listed, system), origin_of(folder))
    return imported


def import_text(system: str, name: str, content: str | bytes, **others: str) -> Imported:
    """Imports one file, which may refer to others by their paths."""
    files = {name: content.encode() if isinstance(content, str) else content}
    files |= {path: text.encode() for path, text in others.items()}
    module = importlib.import_module(IMPORTERS[system])
    imported: Imported = module.import_files([name], Origin(read=files.get, group=GROUP))
    return imported


def rendered(imported: Imported) -> str:
    """All of a result as text."""
    parts = [f"--- {file.path} (from {file.source})\n{file.content}" for file in imported.files]
    parts.append("--- findings\n")
    order = sorted(imported.findings, key=lambda each: (each.path, each.line, each.kind.value, each.text))
    parts += [f"{each.path}:{each.line}: {each.kind.value}: {each.text}\n" for each in order]
    parts += [f"{each.path}: refused: {each.reason}\n" for each in imported.refused]
    return "".join(parts)


def lost_words(source: str, imported: Imported, system: str) -> set[str]:
    """The words of a source that are neither in the result nor in a finding."""
    result = " ".join(_unwrapped(file.content) for file in imported.files)
    result += " ".join(each.text for each in imported.findings) + " ".join(each.reason for each in imported.refused)
    present = set(_WORD.findall(result))
    words = set(_WORD.findall(source)) - present - TRANSLATED.get(system, frozenset())
    return {word for word in words if word.strip("./-_") not in result}


def _unwrapped(text: str) -> str:
    """The text with what is escaped or broken into lines put together again."""
    return text + " " + re.sub(r"\s*\n\s*# ", " ", text)


def import_missing(system: str, name: str) -> Imported:
    """Imports a file that does not exist."""
    module = importlib.import_module(IMPORTERS[system])
    imported: Imported = module.import_files([name], Origin(read=lambda path: None, group=GROUP))
    return imported
