"""The Temporal cluster that the runs of a data directory are on, and whether they allow another engine.

Rules of this file:

- `cluster.json` is on disk before the daemon starts its first run on a cluster. The daemon that starts on another engine or in
  another namespace replaces it, and does so only when the former namespace has no open run.
- A cluster that does not answer may have open runs. Only a person can say that these no longer matter (`forget-cluster`).
- The file names certificates and keys, and never has their content.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.app.cluster_check import cluster_settings
from waterflowd.app.config import ClusterTable, Config
from waterflowd.durability import sync_directory
from waterflowd.store import directory, layout

#: Open runs whose ids a message names.
_RUNS_NAMED_MAX = 3


class KnownCluster(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `cluster.json`."""

    #: Names and addresses may change, this id does not.
    namespace_id: str
    #: How to connect, as the configuration said at the daemon's last start.
    cluster: ClusterTable

    @property
    def place(self) -> str:
        """The namespace and its cluster, for people."""
        return f"the namespace {self.cluster.namespace} at {self.cluster.address}"


def read(data_dir: Path) -> KnownCluster | None:
    """The cluster of a data directory; None if its runs are in its own log. Raises `Stalled` WF815 for a damaged file."""
    file = data_dir / layout.CLUSTER_FILE
    if not os.access(data_dir, os.W_OK | os.X_OK):
        # It is new, or cannot be used: that is said when it is opened.
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=KnownCluster)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = f"{file}, which names the Temporal cluster of this data directory, cannot be read: {reason}"
        raise Stalled("WF815", f"{text}; next: restore it from a backup, or see `waterflowd forget-cluster`") from error


def write(data_dir: Path, namespace_id: str, table: ClusterTable) -> None:
    """Records the cluster, on disk. Raises `Stalled` WF815 when it cannot be written."""
    # Without what a table of the engine has beside it.
    cluster = ClusterTable(**{name: getattr(table, name) for name in ClusterTable.__struct_fields__})
    known = KnownCluster(namespace_id=namespace_id, cluster=cluster)
    file = data_dir / layout.CLUSTER_FILE
    partial = file.with_suffix(".new")
    try:
        with partial.open("wb") as content:
            content.write(msgspec.json.format(msgspec.json.encode(known)))
            content.flush()
            os.fsync(content.fileno())
        partial.replace(file)
        sync_directory(data_dir)
    except OSError as error:
        raise Stalled("WF815", f"{file} cannot be written: {error.strerror}; next: free some space") from error


def remove(data_dir: Path) -> None:
    """From now on the runs of the data directory are in its own log."""
    (data_dir / layout.CLUSTER_FILE).unlink(missing_ok=True)


def forget(data_dir: Path) -> KnownCluster | None:
    """Removes the file of a stopped daemon, and returns what it said; None if there was none.

    Raises `Stalled` WF310 while a daemon uses the directory.
    """
    if not (data_dir / layout.CLUSTER_FILE).exists():
        return None
    with directory.held(data_dir):
        try:
            known = read(data_dir)
        except Stalled:
            known = KnownCluster(namespace_id="", cluster=ClusterTable(address="an unknown address", namespace="?"))
        remove(data_dir)
    return known


async def check_left(config: Config, namespace_id: str = "") -> None:
    """Raises `Stalled` WF815 if the data directory belongs to another namespace than this one, and runs may be open there.

    Without `namespace_id`, the daemon starts with the log engine.
    """
    known = read(Path(config.data_dir))
    if known is None or known.namespace_id == namespace_id:
        return
    if namespace_id:
        change = (
            f"temporal.address and temporal.namespace are those of another namespace, but runs are in {known.place}"
        )
    else:
        change = f'the engine is "log", but the runs of this data directory are in {known.place}'
    try:
        runs, count = await _open_runs(config, known)
    except WaterflowError as error:
        raise Stalled(
            "WF815",
            f"{change}, which cannot be asked whether some are open ({error.text}); next: start the daemon when it can be"
            " reached; if it will never answer again, `waterflowd forget-cluster` gives these runs up",
        ) from error
    if not count:
        return
    noun = "an open run there" if count == 1 else f"{count} open runs there"
    named = ", ".join(runs) + (", ..." if count > len(runs) else "")
    back = f"temporal.address and temporal.namespace of {known.place}" if namespace_id else 'engine = "temporal"'
    raise Stalled(
        "WF815",
        f"{change}; {noun} would not continue: {named}; next: set {back}, let them end or cancel them, then change it;"
        " `waterflowd forget-cluster` leaves them to other daemons, or gives them up",
    )


async def _open_runs(config: Config, known: KnownCluster) -> tuple[list[str], int]:
    """Some ids of open runs, and their number. Raises `WaterflowError` when the cluster cannot be asked."""
    # Where the configuration names the same namespace, its certificates and keys may be newer.
    configured, former = config.temporal, known.cluster
    is_configured = (configured.address, configured.namespace) == (former.address, former.namespace)
    settings = cluster_settings(configured if is_configured else former, Path(config.data_dir))
    from waterflowd.temporal.reading import open_runs

    return await open_runs.find(settings, known.namespace_id, _RUNS_NAMED_MAX)
