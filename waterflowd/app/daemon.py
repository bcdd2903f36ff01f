"""The lifecycle of the daemon: start the parts in order, supervise their tasks, stop.

Rules of this file: every background task has a name and is supervised. The first one that ends stops the daemon, with its name
in the log. Stopping is one function that only closes what is open: a crash at any time must be as safe.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.access.roles import Principal, Role
from waterflowd.app import bootstrap, cluster_check, former_cluster
from waterflowd.app.config import Config, advertised
from waterflowd.app.config_source import ConfigSource
from waterflowd.app.engines import Compose
from waterflowd.app.reload import text_of
from waterflowd.app.sd_notify import notify, watchdog_interval_s
from waterflowd.host.agents.enrollment import DaemonEndpoints

logger = logging.getLogger("waterflow.daemon")

#: With Python's default of 700 the collector examined the objects of a batch many times, for a twelfth of the time of a step.
#: Steps leave no reference cycles, so what is left are those of connections: a full collection for each 200,000 objects keeps
#: them below 50 MB.
GC_THRESHOLDS = (20_000, 5, 2)
#: How long the event loop may hold the interpreter lock while threads wait for it. Each commit takes the lock several times.
#: With Python's default of 5 ms it waits each time for most of an API request; this makes commits a third faster.
SWITCH_INTERVAL_S = 0.0005
#: The name in the audit trail of a reload by a signal.
BY_SIGNAL = Principal(name="SIGHUP", role=Role.ADMIN)
_TASK_ENDED = "WF630"


async def serve(config: Config, source: ConfigSource) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises `Stalled` when it cannot start or must not continue."""
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    stop = loop.create_future()

    def end(error: Stalled | None = None) -> None:
        if stop.done():
            return
        if error is not None:
            stop.set_exception(error)
        else:
            stop.set_result(None)

    def poisoned(error: Stalled) -> None:
        # Called on the store's thread: the daemon must not continue with a log that cannot be trusted.
        loop.call_soon_threadsafe(end, error)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    # It would end a process that does not handle it.
    loop.add_signal_handler(signal.SIGHUP, lambda: logger.warning("SIGHUP: the daemon is starting; send it again"))
    compose = await _until_stop(_prepare_engine(config), stop)
    if stop.done():
        return
    parts = bootstrap.build(config, source, poisoned, compose)
    tasks: list[asyncio.Task[None]] = []
    try:
        count = await _start(parts, tasks)
        host, port = config.api.listen.rpartition(":")[0], parts.api.port
        address = f"http://{host}:{port}" if port else "the unix socket only"
        logger.info("ready in %.2f s: %d open runs, API at %s", time.monotonic() - began, count, address)
        notify("READY=1", f"STATUS={count} open runs")
        reloads: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGHUP, _begin_reload, parts, reloads)
        await _until_stopped(stop, tasks)
    except Exception as error:
        # Before anything is stopped: that takes a while, and must not hide the reason if it fails too.
        logger.error("stopping: %s", error, exc_info=_unexpected(error))
        raise
    finally:
        notify("STOPPING=1")
        await _stop(parts, tasks)


def _begin_reload(parts: bootstrap.Parts, reloads: set[asyncio.Task[None]]) -> None:
    task = asyncio.get_running_loop().create_task(_reload(parts), name="reload")
    reloads.add(task)
    task.add_done_callback(reloads.discard)


async def _reload(parts: bootstrap.Parts) -> None:
    """Reads the configuration again; what is wrong with it is in the log, and in the status of the service manager."""
    services = parts.services
    assert services.reloader is not None
    try:
        found = await services.reloader.reload()
        facts = {"applied": found.applied, "needs_restart": found.needs_restart}
        await services.audit.action(BY_SIGNAL, "reload", found.source, **facts)
    except WaterflowError as error:
        logger.error("configuration not read again, nothing was changed: %s", error)
        notify("STATUS=reload failed: " + " ".join(str(error).split()))
    else:
        notify(f"STATUS=configuration read again: {text_of(found)}")


async def _prepare_engine(config: Config) -> Compose | None:
    """What composes the configured engine; None for the log engine. Raises `Stalled` WF815 for open runs elsewhere."""
    if config.engine == "log":
        await former_cluster.check_left(config)
        return None
    # Raises WF801 without the extra.
    cluster_check.connection(config)
    from waterflowd.app import temporal_engine

    return await temporal_engine.connect(config)


async def _until_stop(preparing: Coroutine[Any, Any, Compose | None], stop: asyncio.Future[None]) -> Compose | None:
    """What it returns; None when the daemon was stopped meanwhile."""
    task = asyncio.create_task(preparing, name="engine")
    waiting: list[asyncio.Future[Any]] = [stop, task]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        return None
    return task.result()


async def _start(parts: bootstrap.Parts, tasks: list[asyncio.Task[None]]) -> int:
    """Starts the parts: first recover outstanding work, then open the listeners. Returns the number of open runs."""

    def watch(coroutine: object, name: str) -> None:
        tasks.append(asyncio.create_task(coroutine, name=name))  # type: ignore[arg-type]

    await parts.compiler.start()
    await parts.validator.start()
    count = parts.driver.recover()
    parts.agents.recovered()
    watch(parts.driver.run(), "driver")
    for name, work in parts.tasks.items():
        watch(work(), name)
    await parts.ready()
    agents = parts.config.agents
    await parts.dispatch.start(agents.listen, agents.enroll_listen)
    tasks.extend(parts.dispatch.tasks)
    bound = parts.dispatch.endpoints
    parts.enrollment.endpoints = DaemonEndpoints(
        work=advertised(bound.work, agents.address),
        enroll=advertised(bound.enroll, agents.address),
        server_key=parts.keys.public,
    )
    watch(parts.outputs.run(), "output logs")
    watch(parts.reconcile(parts.reconciler), "repositories")
    watch(parts.starter.run(), "starter")
    watch(parts.audit_export.run(), "audit export")
    if parts.notices is not None:
        for name, work in parts.notices.tasks.items():
            watch(work(), name)
    if parts.config.api.socket:
        Path(parts.config.api.socket).parent.mkdir(parents=True, exist_ok=True)
    await parts.api.start()
    watch(parts.api.wait(), "api")
    interval_s = watchdog_interval_s()
    if interval_s is not None:
        watch(_feed_watchdog(parts, interval_s), "watchdog")
    # Objects that live as long as the daemon are exempt from collection: fewer and shorter pauses.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return count


async def _feed_watchdog(parts: bootstrap.Parts, interval_s: float) -> None:
    """Notifies the watchdog of the service manager, only as long as the driver accepts and finishes work."""
    while True:
        await parts.driver.pass_through()
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


async def _until_stopped(stop: asyncio.Future[None], tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        stop.result()
        logger.info("stopping; running steps continue on their agents and are recovered at the next start")
        return
    ended = next(task for task in tasks if task.done())
    error = None if ended.cancelled() else ended.exception()
    if isinstance(error, Stalled):
        raise error
    raise Stalled(_TASK_ENDED, f"background task {ended.get_name()!r} ended unexpectedly") from error


def _unexpected(error: Exception) -> BaseException | None:
    """The error whose traceback is needed to find the fault; None for one that its sentence explains."""
    if isinstance(error, Stalled):
        return error.__cause__ if error.code == _TASK_ENDED else None
    return error


async def _stop(parts: bootstrap.Parts, tasks: list[asyncio.Task[None]]) -> None:
    await parts.api.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await parts.files.close()
    await parts.artifacts.close()
    await parts.secrets.close()
    await parts.dispatch.close()
    await parts.compiler.close()
    await parts.validator.close()
    await parts.contents.close()
    parts.store.close()
