"""`waterflow-agent`: run, enroll, status, drain, node, version. Heavy modules are imported inside the commands.

Exit codes: 0 ok, 1 the agent had to stop, 2 usage or configuration, 4 not running, 5 refused by the server.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import waterflow_agent
from waterflow_agent import errors

if TYPE_CHECKING:
    from waterflow_agent.config import Config

logger = logging.getLogger("waterflow_agent")

EXIT_STOPPED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_REFUSED = 1, 2, 4, 5
#: Refused enrollments: another start without a change would fail again.
_REFUSALS = frozenset({"WF230", "WF231", "WF232"})

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file; default /etc/waterflow/agent.toml if it exists.",
)


def _settings(command: Any) -> Any:
    """Adds the options that override the configuration."""
    options = [
        _config_option,
        click.option("--name", help="Name of this agent; default: the host name."),
        click.option("--server", help="Work address of the server, tcp://host:port; several are separated by commas."),
        click.option("--server-key", help="Public key of the server, for enrollment without a token."),
        click.option("--enroll-server", help="Enrollment address of the server, or several."),
        click.option("--group", "groups", multiple=True, help="Group to request; may be repeated."),
        click.option("--slots", type=int, help="Maximum number of steps at a time."),
        click.option("--data-dir", type=click.Path(file_okay=False), help="Data directory of the agent."),
        click.option("--label", "labels", multiple=True, help="key=value; may be repeated."),
        click.option("--node-path", multiple=True, help="Directory with your own nodes; may be repeated."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
        click.option("--log-format", type=click.Choice(["text", "json"])),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(waterflow_agent.__version__, prog_name="waterflow-agent")
def main() -> None:
    """Runs the steps of workflows on this server."""


@main.command()
@_settings
def run(config_file: Path | None, **options: Any) -> None:
    """Run the agent. SIGTERM stops it; running steps continue, and the next start finds them."""
    import asyncio
    import resource

    config = _load(config_file, options)
    _log(config)
    # A core dump would contain secrets. The runner and the steps inherit this limit; a step may raise it for itself.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _exit(asyncio.run(_run(config)))


@main.command()
@_settings
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the join token; - for standard input.",
)
def enroll(config_file: Path | None, token_file: Path | None, **options: Any) -> None:
    """Enroll this server, with a join token or by approval, and exit."""
    import asyncio

    config = _load(config_file, options)
    _log(config)
    if token_file == Path("-"):
        token_file = Path("/dev/stdin")
    _exit(asyncio.run(_enroll(config, token_file)))


@main.command()
@_config_option
@click.option("--data-dir", type=click.Path(file_okay=False), help="Data directory of the agent.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def status(config_file: Path | None, data_dir: str | None, is_json: bool) -> None:
    """Show whether the agent is running, its server, and its attempts."""
    import msgspec

    from waterflow_agent.state import status as status_file

    config = _load(config_file, {"data_dir": data_dir})
    try:
        status = status_file.read(Path(config.data_dir))
    except errors.WaterflowError as error:
        raise _failure(error, EXIT_NOT_RUNNING) from error
    if status is None:
        click.echo(_why_no_status(Path(config.data_dir)), err=True)
        _exit(EXIT_NOT_RUNNING)
    elif is_json:
        click.echo(msgspec.json.encode(status).decode())
    else:
        click.echo(_rendered(status))


@main.command()
@_config_option
@click.option("--data-dir", type=click.Path(file_okay=False), help="Data directory of the agent.")
@click.option("--wait", "is_awaited", is_flag=True, help="Wait until its steps have ended.")
def drain(config_file: Path | None, data_dir: str | None, is_awaited: bool) -> None:
    """Start no new steps until the agent is restarted; running steps continue.

    Upgrades of the package do this before they replace files.
    """
    from waterflow_agent.state import draining

    config = _load(config_file, {"data_dir": data_dir})
    try:
        status = draining.drain(Path(config.data_dir), is_awaited=is_awaited)
    except errors.WaterflowError as error:
        raise _failure(error, EXIT_NOT_RUNNING) from error
    count = len(status.attempts)
    left = f"{count} {'attempt' if count == 1 else 'attempts'} left" if count else "nothing is running"
    click.echo(f"{status.name} is draining until it is restarted; {left}")


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--schema", "is_schema", is_flag=True, help="Print the JSON Schema of its parameters.")
def node(file: Path, is_schema: bool) -> None:
    """Check the file of your own node. No running agent is needed."""
    import asyncio
    import os

    import msgspec

    from waterflow_agent.nodes.own import check
    from waterflow_agent.nodes.own.code import Code

    try:
        code = Code(name=f"{file.absolute().parent.name}/{file.stem}", path=str(file), text=file.read_text("utf-8"))
        checked = asyncio.run(check.in_child(code, os.environ))
    except (OSError, UnicodeDecodeError) as error:
        raise _Failure(f"cannot read {file}: {error}", EXIT_USAGE) from error
    if checked.fault:
        raise _Failure(checked.fault, EXIT_STOPPED)
    if is_schema:
        click.echo(msgspec.json.format(msgspec.json.encode(checked.schema)).decode())
        return
    parameters = ", ".join(name + "*" * is_required for name, is_required in checked.parameters)
    click.echo(f"{code.name}: {checked.summary or 'no docstring'}\nwith (* required): {parameters or 'no parameters'}")


@main.command()
def version() -> None:
    """Show the version."""
    click.echo(f"waterflow-agent {waterflow_agent.__version__}")


def _why_no_status(data_dir: Path) -> str:
    import os

    from waterflow_agent.state import journal
    from waterflow_agent.state import status as status_file

    path = data_dir.absolute()
    try:
        # On a full disk the data directory itself may be missing.
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        is_full = os.statvfs(existing).f_bavail == 0
    except OSError:
        is_full = False
    if is_full:
        return f"the disk is full: an agent that starts in {data_dir} waits until there is space"
    if journal.is_locked(data_dir / "journal"):
        return f"the agent in {data_dir} is starting"
    try:
        last = status_file.read_last(data_dir)
    except errors.WaterflowError:
        last = None
    refused = f"; the last one was refused by {last.server}: {last.link}" if last and last.state == "refused" else ""
    return f"no agent is running in {data_dir}{refused}"


def _rendered(status: Any) -> str:
    lines = [
        f"name         {status.name}",
        f"fingerprint  {status.fingerprint}",
        f"server       {status.server}",
        f"server key   {status.server_fingerprint}",
        f"state        {status.state}",
        f"link         {status.link}",
        f"groups       {', '.join(status.groups) or '-'}",
        f"attempts     {len(status.attempts)} held, {status.slots} slots",
    ]
    if status.is_draining:
        lines.append("draining     starts nothing new until it is restarted")
    lines += [
        f"steps        run as {status.step_user}",
        f"limits       {', '.join(status.limits) or '-'}",
        f"docker       {_docker(status.docker)}",
        f"leftovers    {status.leftovers} processes ended",
        *(f"warning      {text}" for text in status.warnings),
    ]
    for attempt in status.attempts:
        lines.append(f"  {attempt.state:<9} {attempt.run} {attempt.job}/{attempt.step_name} attempt {attempt.attempt}")
    for node in status.nodes:
        lines.append(f"node         {node.name} ({node.origin}) {node.version[:12] or 'no working version'}")
        if node.fault:
            lines.append(f"  broken: {node.fault}")
    return "\n".join(lines)


def _docker(found: Any) -> str:
    if found is None:
        return "not known before the enrollment"
    return f"jobs cannot have containers: {found.problem}" if found.problem else f"engine {found.version}"


def _load(config_file: Path | None, options: dict[str, Any]) -> Config:
    from waterflow_agent import config, environment_variables

    overrides = {key.replace("_", "-"): value for key, value in options.items() if value not in (None, ())}
    try:
        if "labels" in overrides:
            overrides["labels"] = environment_variables.pairs(overrides["labels"], "--label")
        for key in ("groups", "node-path"):
            if key in overrides:
                overrides[key] = list(overrides[key])
        return config.load(config_file, overrides=overrides)
    except errors.WaterflowError as error:
        raise _failure(error, EXIT_USAGE) from error


async def _run(config: Config) -> int:
    import asyncio
    import signal

    from waterflow_agent.agent import Agent, RefusedByServer
    from waterflow_agent.state import draining

    agent = Agent(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(draining.SIGNAL, agent.drain)
    try:
        await agent.run()
    except errors.WaterflowError as error:
        logger.error("stopping: %s", error, extra={"code": error.code})
        is_refused = isinstance(error, RefusedByServer) or error.code in _REFUSALS
        return EXIT_REFUSED if is_refused else EXIT_STOPPED
    return 0


async def _enroll(config: Config, token_file: Path | None) -> int:
    import os

    from waterflow_agent import enrollment, keys
    from waterflow_agent.agent import prepare_data_dir

    data_dir = Path(config.data_dir)
    try:
        prepare_data_dir(data_dir)
        pair = keys.load_or_create(data_dir)
        server = enrollment.load(data_dir)
        if server is not None:
            click.echo(f"already enrolled as {server.name} at {server.work_endpoint}")
            return 0
        settings = enrollment.enrollment_settings(config, os.environ, token_file)
        click.echo(f"this agent's key is {pair.fingerprint}")
        await enrollment.enroll(config, settings, pair, say=click.echo)
    except errors.WaterflowError as error:
        click.echo(f"waterflow-agent: {error}", err=True)
        return EXIT_REFUSED
    except OSError as error:
        click.echo(f"waterflow-agent: cannot write to {data_dir}: {error.strerror}", err=True)
        return EXIT_STOPPED
    return 0


def _log(config: Config) -> None:
    from waterflow_agent import logs

    logs.configure(config.log_level, config.log_format)


def _failure(error: errors.WaterflowError, code: int) -> click.ClickException:
    return _Failure(str(error), code)


class _Failure(click.ClickException):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]


def _exit(code: int) -> None:
    if code:
        sys.exit(code)
