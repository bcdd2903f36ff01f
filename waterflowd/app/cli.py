"""`waterflowd`: the daemon's command line. Heavy imports live inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import waterflowd
from waterflow_agent.display import escape_for_display

if TYPE_CHECKING:
    from waterflow_agent.errors import WaterflowError
    from waterflowd.app.config import Config
    from waterflowd.app.config_source import ConfigSource

Result = TypeVar("Result")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(waterflowd.__version__, prog_name="waterflowd", message="%(prog)s %(version)s")
def main() -> None:
    """The Waterflow daemon: watches Git repositories and runs their workflows on your servers."""


def _load(file: str | None, **overrides: Any) -> Config:
    return _read(_source(file, **overrides))


def _source(file: str | None, **overrides: Any) -> ConfigSource:
    from waterflowd.app.config_source import ConfigSource

    return ConfigSource(Path(file) if file else None, overrides)


def _read(source: ConfigSource) -> Config:
    from waterflow_agent.errors import WaterflowError

    try:
        return source.load()
    except WaterflowError as error:
        _end(error, 2)


def _end(error: WaterflowError, exit_code: int) -> NoReturn:
    """Exits with an error message, also in the status of the service manager, for users who may not read the journal."""
    from waterflowd.app.sd_notify import notify

    click.echo(f"waterflowd: {error}", err=True)
    notify("STATUS=" + " ".join(str(error).split()))
    sys.exit(exit_code)


_FILE = click.option(
    "--config",
    "file",
    type=click.Path(),
    help="Configuration file; default: /etc/waterflow/waterflowd.toml if it exists.",
)


@main.command()
@_FILE
@click.option("--data-dir", help="Data directory.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
def run(file: str | None, data_dir: str | None, log_level: str | None, log_format: str | None) -> None:
    """Run the daemon in the foreground."""
    import asyncio
    import faulthandler
    import resource

    from waterflow_agent.errors import WaterflowError
    from waterflowd.app import daemon, logs

    source = _source(file, **{"data-dir": data_dir, "log.level": log_level, "log.format": log_format})
    config = _read(source)
    logs.configure(config.log.level, config.log.format)
    # A crash in native code says where it happened, in names of files and functions.
    faulthandler.enable()
    # A core dump would contain the secrets of tasks.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(daemon.serve(config, source))
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
@click.option(
    "--connect",
    is_flag=True,
    help="Connect to the Temporal cluster and to the bucket for artifacts, and list what is missing.",
)
def check_config(file: str | None, connect: bool) -> None:
    """Check the configuration. The exit code is 0 when it is valid, 2 otherwise.

    Then it lists what the workflows of the repositories may not use, and the lines that would permit it. With --connect,
    the exit code is 1 when the cluster or the bucket for artifacts lacks something.
    """
    from waterflow_agent.errors import WaterflowError
    from waterflowd.app import bootstrap, cluster_check, workflow_check
    from waterflowd.app.artifacts import bucket
    from waterflowd.app.config import grant_lints

    config = _load(file)
    try:
        if connect:
            is_ready, lines = True, []
            if config.artifacts.storage:
                is_ready, line = bucket.check_bucket(config)
                lines.append(line)
            if config.temporal.address or not config.artifacts.storage:
                has_all, more = cluster_check.check_cluster(config)
                is_ready, lines = is_ready and has_all, lines + more
            click.echo("\n".join(map(escape_for_display, lines)))
            if not is_ready:
                sys.exit(1)
        bucket.open_bucket(config)
        bootstrap.check_access(config)
        bootstrap.check_audit(config)
        bootstrap.check_secrets(config)
        bootstrap.check_repositories(config)
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(2)
    count = len(config.repositories)
    noun = "repository" if count == 1 else "repositories"
    click.echo(f"configuration OK: data directory {config.data_dir}, {count} {noun}")
    for lint in grant_lints(config, {item.name for item in config.repositories}):
        click.echo(f"note: {escape_for_display(lint)}")
    for report in bootstrap.check_workflows(config):
        click.echo("\n".join(map(escape_for_display, workflow_check.text_of(report))))


_DATA_DIR = click.option("--data-dir", help="Data directory, if it is not the configured one.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


_IDENTITY = click.option(
    "--identity",
    "identity_file",
    metavar="KEY-FILE",
    help="File with the age identity that decrypts an encrypted backup.",
)


@main.command()
@_FILE
@_DATA_DIR
@_IDENTITY
@click.option("--salvage", "target", metavar="DEST", help="Copy everything that verifies into the new directory DEST.")
@_JSON
def fsck(file: str | None, data_dir: str | None, identity_file: str | None, target: str | None, as_json: bool) -> None:
    """Check the whole event log of a stopped daemon, or a backup. The exit code is 0 when it is intact, 1 otherwise.

    With --salvage, the data directory is not changed, and the exit code is 0 when everything was saved, 3 when part of it is
    lost, and 4 when nothing could be saved.
    """
    from waterflowd.rescue import messages, operations

    config = _load(file, **{"data-dir": data_dir})
    if target is None:
        found = _run_or_exit(lambda: operations.examine(config, _path(identity_file)))
        shown = found._asdict() | {"seals": {name: seals._asdict() for name, seals in found.seals.items()}}
        _print(messages.of_check(found, config.data_dir), shown, as_json)
        return
    saved = _run_or_exit(lambda: operations.salvage(config, Path(target)))
    _print(messages.of_salvage(saved), saved, as_json)
    sys.exit(operations.EXIT_CODES[saved.verdict])


@main.command("audit-key")
@click.argument("path", metavar="FILE")
def audit_key(path: str) -> None:
    """Create or renew the key of the audit trail.

    A new key is put in front of those that FILE has. FILE must be outside the data directory. The daemon uses a new key
    after its next start.
    """
    from waterflowd.app import audit

    made = _run_or_exit(lambda: audit.create_key(Path(path)))
    click.echo(f"created the audit key {made.id.hex()} in {path}")
    click.echo("The daemon must be able to read it, and nobody else. Keep a copy elsewhere: fsck needs it.")


@main.group(invoke_without_command=True)
@_FILE
@_DATA_DIR
@_JSON
@click.pass_context
def keys(context: click.Context, file: str | None, data_dir: str | None, as_json: bool) -> None:
    """List the keys of the server, and the agents that have not followed to the current one.

    The daemon may be running.
    """
    if context.invoked_subcommand is not None:
        if file or data_dir or as_json:
            # They would have no effect: the subcommand would change the keys of the default data directory.
            raise click.UsageError(f"put the options after `{context.invoked_subcommand}`")
        return
    from waterflowd.rescue import server_keys

    config = _load(file, **{"data-dir": data_dir})
    found = _run_or_exit(lambda: server_keys.listing(config))
    _print(list(map(escape_for_display, server_keys.text_of(found))), found, as_json)


@keys.command("rotate")
@_FILE
@_DATA_DIR
@click.option(
    "--accept-old-for",
    metavar="DURATION",
    default="30d",
    show_default=True,
    help="How long the old key is accepted. Agents that have not connected by then must be enrolled again.",
)
@_JSON
def rotate_keys(file: str | None, data_dir: str | None, accept_old_for: str, as_json: bool) -> None:
    """Create a new key of the server. The daemon must be stopped.

    Agents follow by themselves when they connect next: they learn the new key over the old one.
    """
    from waterflow_agent import durations
    from waterflowd.rescue import server_keys

    try:
        accept_old_ms = durations.parse(accept_old_for)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--accept-old-for") from error
    config = _load(file, **{"data-dir": data_dir})
    found = _run_or_exit(lambda: server_keys.rotate(config, accept_old_ms))
    lines = [*server_keys.text_of(found), "Start the daemon now, and make a backup: older ones have only the old key."]
    _print(list(map(escape_for_display, lines)), found, as_json)


@keys.command("retire")
@_FILE
@_DATA_DIR
@click.option("--force", "is_forced", is_flag=True, help="Cut off agents that still use an old key.")
@_JSON
def retire_keys(file: str | None, data_dir: str | None, is_forced: bool, as_json: bool) -> None:
    """Stop accepting old keys of the server now. The daemon must be stopped."""
    from waterflowd.rescue import server_keys

    config = _load(file, **{"data-dir": data_dir})
    found = _run_or_exit(lambda: server_keys.retire(config, is_forced=is_forced))
    _print(list(map(escape_for_display, server_keys.text_of(found))), found, as_json)


@main.command()
@_FILE
@_DATA_DIR
@click.argument("target", metavar="DEST")
@click.option(
    "--encrypt-to",
    "recipients",
    metavar="RECIPIENT",
    multiple=True,
    help="Encrypt the backup to this age recipient (age1...); repeat for others. DEST becomes one file.",
)
@_JSON
def backup(file: str | None, data_dir: str | None, target: str, recipients: tuple[str, ...], as_json: bool) -> None:
    """Create a backup in the new or empty directory DEST.

    The daemon may be running. With --encrypt-to, DEST is a new file, and nothing of the backup is in the clear
    outside of the data directory.
    """
    from waterflowd.rescue import messages, operations

    config = _load(file, **{"data-dir": data_dir})
    made = _run_or_exit(lambda: operations.back_up(config, Path(target), recipients))
    _print(messages.of_backup(made, target), made, as_json)


@main.command()
@_FILE
@_DATA_DIR
@click.argument("source", metavar="SRC")
@click.option(
    "--continue",
    "is_continued",
    is_flag=True,
    help="Continue open runs instead of ending them. Only safe if no daemon has run since the backup.",
)
@_IDENTITY
@_JSON
def restore(
    file: str | None,
    data_dir: str | None,
    source: str,
    is_continued: bool,
    identity_file: str | None,
    as_json: bool,
) -> None:
    """Restore an empty data directory from the backup SRC.

    Work that is open in the backup may have continued since. So that nothing runs twice, its runs are ended and the
    repositories are suspended.
    """
    from waterflowd.rescue import messages, operations

    config = _load(file, **{"data-dir": data_dir})
    made = _run_or_exit(
        lambda: operations.restore(config, Path(source), is_continued=is_continued, identity_file=_path(identity_file))
    )
    _print(messages.of_restore(made, is_continued=is_continued), made, as_json)


@main.command("forget-cluster")
@_FILE
@_DATA_DIR
def forget_cluster(file: str | None, data_dir: str | None) -> None:
    """Give up the open runs on the Temporal cluster that the data directory belongs to. The daemon must be stopped.

    It is only needed when a daemon refuses to start with another engine, or in another namespace, because runs are open
    there or the cluster will never answer again (WF815). Nothing is changed on the cluster: other daemons continue these
    runs, and so does this one when it returns.
    """
    from waterflowd.app import former_cluster

    config = _load(file, **{"data-dir": data_dir})
    known = _run_or_exit(lambda: former_cluster.forget(Path(config.data_dir)))
    if known is None:
        click.echo(f"the data directory {config.data_dir} does not belong to a cluster: nothing to do")
        return
    click.echo(escape_for_display(f"the data directory {config.data_dir} no longer belongs to {known.place}"))


def _path(name: str | None) -> Path | None:
    return Path(name) if name is not None else None


def _run_or_exit(call: Callable[[], Result]) -> Result:
    """The result of the call; exits with 1 and an error message when it fails."""
    from waterflow_agent.errors import WaterflowError

    try:
        return call()
    except WaterflowError as error:
        click.echo(f"waterflowd: {error}", err=True)
        sys.exit(1)


def _print(lines: Sequence[str], found: object, as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(lines))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"waterflowd {waterflowd.__version__}")
