"""`waterflowd`: the daemon's command line. Heavy imports live inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import waterflowd

if TYPE_CHECKING:
    from waterflow_agent.errors import WaterflowError
    from waterflowd.app.config import Config

Result = TypeVar("Result")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Watches Git repositories and runs their workflows on your servers."""


def _load(file: str | None, **overrides: Any) -> Config:
    from waterflow_agent.errors import WaterflowError
    from waterflowd.app import config

    try:
        return config.load(Path(file) if file else None, overrides=overrides)
    except WaterflowError as error:
        _end(error, 2)


def _end(error: WaterflowError, exit_code: int) -> NoReturn:
    """Ends with one sentence, in the service manager's status too: that shows it to users who may not read the journal."""
    from waterflowd.app.sd_notify import notify

    click.echo(f"waterflowd: {error}", err=True)
    notify("STATUS=" + " ".join(str(error).split()))
    sys.exit(exit_code)


_FILE = click.option(
    "--config",
    "file",
    type=click.Path(),
    help="The configuration; default: /etc/waterflow/waterflowd.toml if it exists.",
)


@main.command()
@_FILE
@click.option("--data-dir", help="Where the event log lives.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def run(file: str | None, data_dir: str | None, log_level: str | None) -> None:
    """Runs the daemon in the foreground."""
    import asyncio
    import resource

    from waterflow_agent.errors import WaterflowError
    from waterflowd.app import daemon, logs

    config = _load(file, **{"data-dir": data_dir, "log.level": log_level})
    logs.configure(config.log.level, config.log.format)
    # A core dump would hold the secrets of tasks on their way.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(daemon.serve(config))
    except WaterflowError as error:
        _end(error, 1)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@main.command("check-config")
@_FILE
def check_config(file: str | None) -> None:
    """Checks the configuration, and ends 0 when it is right."""
    from waterflow_agent.errors import WaterflowError
    from waterflowd.app import bootstrap

    config = _load(file)
    try:
        bootstrap.check_access(config)
        bootstrap.check_secrets(config)
        bootstrap.check_repositories(config)
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(2)
    click.echo(f"the configuration is right: data in {config.data_dir}, {len(config.repositories)} repositories")


_DATA_DIR = click.option("--data-dir", help="The data directory, if it is not the configured one.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")


@main.command()
@_FILE
@_DATA_DIR
@click.option("--salvage", "target", metavar="DEST", help="Saves what verifies into the new directory DEST.")
@_JSON
def fsck(file: str | None, data_dir: str | None, target: str | None, as_json: bool) -> None:
    """Reads and checks the whole event log of a daemon that is stopped; ends 0 when it is sound.

    With --salvage nothing in the data directory is changed, and the end is 0 when all was saved, 3 when part of it is lost,
    and 4 when nothing could be saved.
    """
    from waterflowd.app import bootstrap
    from waterflowd.rescue import messages, rescue

    config = _load(file, **{"data-dir": data_dir})
    if target is None:
        found = _tried(lambda: bootstrap.examine(config))
        _say(
            [f"sound: {found.records} records in {found.streams} streams of {config.data_dir}"],
            found._asdict(),
            as_json,
        )
        return
    saved = _tried(lambda: rescue.rescue(config, Path(target)))
    _say(messages.of_rescue(saved), saved, as_json)
    sys.exit(rescue.EXIT_CODES[saved.verdict])


@main.command()
@_FILE
@_DATA_DIR
@click.argument("target", metavar="DEST")
@_JSON
def backup(file: str | None, data_dir: str | None, target: str, as_json: bool) -> None:
    """Makes a backup in the new or empty directory DEST, whether the daemon runs or not."""
    from waterflowd.rescue import messages, rescue

    config = _load(file, **{"data-dir": data_dir})
    made = _tried(lambda: rescue.back_up(config, Path(target)))
    _say(messages.of_backup(made, target), made, as_json)


@main.command()
@_FILE
@_DATA_DIR
@click.argument("source", metavar="SRC")
@click.option("--go-on", is_flag=True, help="Ends nothing: right only if no daemon has run since the backup was made.")
@_JSON
def restore(file: str | None, data_dir: str | None, source: str, go_on: bool, as_json: bool) -> None:
    """Makes the data directory, which must be empty, of the backup SRC.

    What was open in the backup may have gone on since: its runs are ended and repositories are suspended, so that nothing
    runs twice.
    """
    from waterflowd.rescue import messages, rescue

    config = _load(file, **{"data-dir": data_dir})
    made = _tried(lambda: rescue.restore(config, Path(source), goes_on=go_on))
    _say(messages.of_restore(made, goes_on=go_on), made, as_json)


def _tried(call: Callable[[], Result]) -> Result:
    """The call's result; ends with 1 and one sentence when it cannot be."""
    from waterflow_agent.errors import WaterflowError

    try:
        return call()
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(1)


def _say(lines: Sequence[str], found: object, as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(lines))


@main.command()
def version() -> None:
    """Prints the version."""
    click.echo(f"waterflowd {waterflowd.__version__}")
