"""The budget of file descriptors: what strangers can open must leave enough for the log, children and the unix socket.

A process without a free descriptor can neither write output logs nor start a fetch. So the soft limit is raised to what the
daemon may have, and the API's TCP connections get at most what remains after a reserve.
"""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger("waterflow.daemon")

#: More than the daemon ever uses; some libraries have tables of this size.
_LIMIT = 65_536
#: The event log, output logs that are being written, pipes and pidfds of children, repositories that are being read.
_OWN = 256
#: A daemon with fewer connections is not usable; below that, the limit is what it is.
_CONNECTIONS_MIN = 16


def raise_limit() -> int:
    """Raises the soft limit as far as allowed, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _LIMIT if hard == resource.RLIM_INFINITY else min(_LIMIT, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return _LIMIT if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def connections_max(limit: int, wanted: int, reserved: int) -> int:
    """The connections that may be open: `wanted` of them, if `limit` descriptors allow that beside the `reserved` ones."""
    most = max(_CONNECTIONS_MIN, min(wanted, limit - _OWN - reserved))
    if most < wanted:
        text = "the limit of %d open files leaves %d TCP connections for the API; set LimitNOFILE of the service to %d"
        logger.warning(text, limit, most, wanted + _OWN + reserved)
    return most
