"""`artifacts`: the files that the jobs of a run have stored."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display, size_text
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display.artifact_lines import removal_text
from waterflowd.ctl.display.terminal import cell_time, table, zone_name
from waterflowd.ctl.failures import REFUSED, USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json, print_json_list
from waterflowd.ctl.references import find_run

_COPY_BYTES = 1 << 20


class _RunOrCommand(click.Group):
    """`artifacts RUN` is short for `artifacts list RUN`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See the base class."""
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the base class."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunOrCommand)
def artifacts() -> None:
    """List the artifacts of a run (`artifacts RUN`), download one, or delete some."""


@artifacts.command("list")
@click.argument("run", shell_complete=completing("runs"))
@json_option
@click.pass_context
def list_artifacts(context: click.Context, run: str, as_json: bool) -> None:
    """List the artifacts of a run."""
    client = client_of(context)
    found = find_run(client, run, "artifacts")
    rows = client.get(run_path(found["id"], "/artifacts"))["artifacts"]
    if as_json:
        print_json_list(rows)
        return
    headings = ["NAME", "FILES", "SIZE", "FROM", f"STORED ({zone_name()})", f"KEPT UNTIL ({zone_name()})"]
    table(headings, [_cells(row) for row in rows], empty="this run has no artifacts", optional=headings[3:5])
    names = [row["name"] for row in rows if not row.get("removal")]
    if names:
        click.echo(f"next: waterflowctl artifacts download {found['id']} {escape_for_display(names[0])}")


def _cells(row: dict[str, Any]) -> list[object]:
    return [
        escape_for_display(row["name"]),
        str(row["files"]),
        size_text(row["bytes"]),
        escape_for_display(f"{row['job']}/{row['step']}"),
        cell_time(row["created_at"]),
        _kept(row),
    ]


def _kept(row: dict[str, Any]) -> object:
    """Until when it is kept, or what became of it. Daemons of older versions have no removed artifacts."""
    removal = row.get("removal")
    if removal:
        return removal_text(removal)
    return cell_time(row["expires_at"]) if row["expires_at"] else "its run is removed"


@artifacts.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("name")
@click.option("-o", "--output", metavar="DIR", help="New or empty directory for the files; by default NAME.")
@click.option("--tar", "archive", metavar="FILE", help="Write a tar archive instead; - for standard output.")
@json_option
@click.pass_context
def download(
    context: click.Context, run: str, name: str, output: str | None, archive: str | None, as_json: bool
) -> None:
    """Download an artifact; continues after a lost connection."""
    if output is not None and archive is not None:
        raise Failure(USAGE, "--output and --tar are mutually exclusive", "use one of them")
    client = client_of(context)
    found = find_run(client, run, "artifacts download")
    path = run_path(found["id"], f"/artifacts/{quote(name, safe='')}")
    details = client.get(path, limit=1)
    if archive == "-":
        _copy(client.chunks(f"{path}/content"), sys.stdout.buffer)
        return
    if archive is not None:
        place = Path(archive)
        _replace(place, client.chunks(f"{path}/content"))
    else:
        place = Path(output or name)
        _extract(place, client.chunks(f"{path}/content"))
    row = details["artifact"]
    if as_json:
        print_json([{**row, "path": str(place)}])
        return
    click.echo(f"{escape_for_display(str(place))}: {count(row['files'], 'file')}, {size_text(row['bytes'])}")


@artifacts.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
@click.pass_context
def delete(context: click.Context, run: str, names: tuple[str, ...], as_json: bool) -> None:
    """Delete artifacts of a run. Their space is free at once; the list of artifacts says who deleted them."""
    client = client_of(context)
    found = find_run(client, run, "artifacts delete")
    for name in names:
        row = client.delete(run_path(found["id"], f"/artifacts/{quote(name, safe='')}"))
        if as_json:
            print_json([row])
            continue
        size = f"{count(row['files'], 'file')}, {size_text(row['bytes'])}"
        click.echo(f"{escape_for_display(row['name'])}: deleted ({size})")


def _copy(chunks: Iterator[bytes], target: BinaryIO) -> None:
    for chunk in chunks:
        target.write(chunk)
    target.flush()


def _replace(place: Path, chunks: Iterator[bytes]) -> None:
    """Write a file completely or not at all."""
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with new.open("wb") as file:
            _copy(chunks, file)
        new.replace(place)
    except OSError as error:
        raise _unwritable(place, error) from None
    finally:
        new.unlink(missing_ok=True)


def _extract(place: Path, chunks: Iterator[bytes]) -> None:
    """Extract an archive into a new or empty directory, completely or not at all."""
    place = Path(os.path.abspath(place))
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            text = f"{escape_for_display(str(place))} exists and is not empty"
            raise Failure(REFUSED, text, "choose another directory with --output DIR")
        new.mkdir(parents=True)
        with tarfile.open(fileobj=io.BufferedReader(_Chunks(chunks), _COPY_BYTES), mode="r|") as archive:
            _extract_files(archive, new)
        if place.exists():
            place.rmdir()
        new.rename(place)
    except tarfile.TarError as error:
        raise Failure(REFUSED, f"the daemon sent an invalid archive: {error}", "try again") from None
    except OSError as error:
        raise _unwritable(place, error) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _extract_files(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract regular files below the folder; raises `TarError` for everything else, and for paths that lead out of it."""
    # The filters of tarfile need Python 3.11.4; Debian 12 has 3.11.2.
    for member in archive:
        source = archive.extractfile(member) if member.isreg() else None
        if source is None or any(part in ("", ".", "..") for part in member.name.split("/")):
            raise tarfile.TarError(f"{escape_for_display(member.name, 200)} is not a file of an artifact")
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o777 if member.mode & stat.S_IXUSR else 0o666
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)


def _unwritable(place: Path, error: OSError) -> Failure:
    return Failure(REFUSED, f"cannot write {escape_for_display(str(place))}: {error.strerror or error}", "see --output")


class _Chunks(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        """See the base class."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See the base class."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
