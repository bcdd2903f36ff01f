"""The size limit of a file, which is checked before the file is sent or read."""

from __future__ import annotations

from waterflowd.dsl.reporting.diagnostics import Diagnostic

#: Far larger than any workflow that people maintain, and still fast to read: 1 MiB of YAML takes about a second.
CONTENT_BYTES_MAX = 1024 * 1024


def oversized(path: str, content_bytes: int) -> Diagnostic:
    """The error for a file that is too large to be read."""
    return Diagnostic(
        code="WF102",
        path=path,
        line=1,
        column=1,
        message=f"the file has {content_bytes:,} bytes; the limit is {CONTENT_BYTES_MAX:,}",
        suggestion="split it into several workflows",
    )
