"""`waterflowd`: the daemon's command line. Heavy imports live inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import waterflowd

if TYPE_CHECKING:
    from waterflowd.config import Config


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Watches Git repositories and runs their workflows on your servers."""


def _load(file: str | None, **overrides: Any) -> Config:
    from waterflowd import config
    from waterflowd.errors import WaterflowError

    try:
        return config.load(Path(file) if file else None, overrides=overrides)
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(2)


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

    from waterflowd import daemon, logs
    from waterflowd.errors import WaterflowError

    config = _load(file, **{"data-dir": data_dir, "log.level": log_level})
    logs.configure(config.log.level, config.log.format)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(daemon.serve(config))
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(1)


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
    from waterflowd import bootstrap
    from waterflowd.errors import WaterflowError

    config = _load(file)
    try:
        bootstrap.check_access(config)
        bootstrap.check_repositories(config)
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(2)
    click.echo(f"the configuration is right: data in {config.data_dir}, {len(config.repositories)} repositories")


@main.command()
@_FILE
@click.option("--data-dir", help="The directory to check.")
def fsck(file: str | None, data_dir: str | None) -> None:
    """Reads and checks the whole event log of a daemon that is stopped; ends 0 when it is sound."""
    from waterflowd import bootstrap
    from waterflowd.errors import WaterflowError

    config = _load(file, **{"data-dir": data_dir})
    try:
        click.echo(bootstrap.examine(config))
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(1)


@main.command()
def version() -> None:
    """Prints the version."""
    click.echo(f"waterflowd {waterflowd.__version__}")
