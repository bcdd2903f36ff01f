"""Diagnostics as SARIF 2.1.0, the format that forges and editors read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from waterflowd import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif_text(diagnostics: Sequence[dict[str, Any]], titles: dict[str, str]) -> str:
    """Return one run with a result for each row of `errors[]`; `titles` explains the codes."""
    codes = sorted({row["code"] for row in diagnostics})
    help_of = {row["code"]: f"See {row['help']}." for row in diagnostics}
    rules = [
        {"id": code, "shortDescription": {"text": titles.get(code, code)}, "help": {"text": help_of[code]}}
        for code in codes
    ]
    run = {
        "tool": {"driver": {"name": "waterflowctl validate", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(row, codes.index(row["code"])) for row in diagnostics],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(row: dict[str, Any], rule: int) -> dict[str, Any]:
    text = row["message"] + (f"; {row['suggestion']}" if row["suggestion"] else "")
    region: dict[str, Any] = {"startLine": row["line"], "startColumn": row["column"]}
    return {
        "ruleId": row["code"],
        "ruleIndex": rule,
        "level": row.get("severity", "error"),
        "message": {"text": text},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(row["path"])}, "region": region}}],
    }


def _uri(path: str) -> str:
    """Return a path relative to the working directory, as forges expect it, or a file URI for an absolute path."""
    return Path(path).as_uri() if os.path.isabs(path) else quote(os.fsencode(path))
