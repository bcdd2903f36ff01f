"""Diagnostics as commands that GitHub Actions and Gitea show beside the line of the file.

Source: "Workflow commands for GitHub Actions", setting an error message; the escapes are those of `actions/toolkit`.
"""

from __future__ import annotations

from typing import Any

_TEXT = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def annotation(row: dict[str, Any]) -> str:
    """Return the command for a row of `errors[]`."""
    kind = "warning" if row.get("severity") == "warning" else "error"
    suggestion = str(row["suggestion"])
    text = str(row["message"]) + (("\n" if "\n" in suggestion else "; ") + suggestion if suggestion else "")
    properties = {"file": row["path"], "line": row["line"], "col": row["column"], "title": row["code"]}
    listed = ",".join(f"{name}={str(value).translate(_PROPERTY)}" for name, value in properties.items())
    return f"::{kind} {listed}::{text.translate(_TEXT)}"
