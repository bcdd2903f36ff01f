"""Where the nodes for caches find files, and who keeps their entries."""

from __future__ import annotations

from pathlib import Path

from waterflow_agent.caches.selection import CachePaths
from waterflow_agent.nodes.node import Context, NodeFailure


def of(context: Context, path: str) -> CachePaths:
    """The lines of `path`. Raises `NodeFailure` for an invalid pattern, and `Rejected` WF763."""
    try:
        return CachePaths(path, context.directory, context.env.get("HOME", "/"))
    except ValueError as error:
        # `re.error` is one.
        raise NodeFailure(f"path: invalid pattern: {error}") from error


def socket(context: Context, scope: str) -> Path:
    """The socket of who keeps the entries of a scope: the daemon, or the agent itself."""
    return context.artifacts if scope == "shared" else context.server_caches
