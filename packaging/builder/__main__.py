"""`python -m builder`: builds all packages, or updates the lock of the interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pip

import waterflowd
from builder import cpython, environment, layout
from builder.formats import Nfpm
from builder.layout import Tree

_LOCK = layout.PACKAGING / "cpython.lock"
_FORMATS = ("deb", "rpm")


@click.command()
@click.option("--wheels", type=click.Path(path_type=Path), default=layout.REPOSITORY / "dist")
@click.option("--work", type=click.Path(path_type=Path), default=layout.REPOSITORY / "build" / "packages")
@click.option("--target", type=click.Path(path_type=Path), default=layout.REPOSITORY / "dist")
@click.option("--release", default="1", help="Release number of the package.")
@click.option("--format", "kinds", type=click.Choice(_FORMATS), multiple=True, default=_FORMATS)
@click.option("--lock", is_flag=True, help="Only pin the newest Debian packages of the interpreter.")
def main(wheels: Path, work: Path, target: Path, release: str, kinds: tuple[str, ...], lock: bool) -> None:
    """Build the packages waterflow and waterflow-agent from the wheels in --wheels into --target."""
    os.umask(0o022)
    if lock:
        cpython.write_lock(_LOCK, work)
        return
    begun_s = time.monotonic()
    at_s = int(os.environ.get("SOURCE_DATE_EPOCH") or _last_change_s())
    tools = Path(sys.executable).parent
    parts = cpython.read_lock(_LOCK)
    files = cpython.fetch(parts, work / "downloads")
    for name in ("source", "cpython", "trees"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "source").mkdir()
    target.mkdir(parents=True, exist_ok=True)
    cpython.unpack(files, work / "source")
    cpython.assemble(work / "source", work / "cpython", tools / "patchelf")
    interpreter = work / "cpython" / "bin" / f"python{cpython.VERSION}"
    library = environment.install(
        interpreter,
        Path(pip.__file__).parents[1],
        [layout.REPOSITORY / "requirements" / "runtime.txt"],
        _wheels(wheels),
    )
    nfpm = Nfpm(tools / "nfpm", target, waterflowd.__version__, release, at_s)
    full = f"{waterflowd.__version__}-{release}"
    for package in (layout.DAEMON, layout.AGENT):
        common = Tree(package, work / "trees" / package.name)
        layout.add_programs(common, interpreter, library, tools / "patchelf")
        layout.add_system_files(common)
        layout.add_documents(common, full, at_s, parts, work / "source")
        if package is layout.DAEMON:
            layout.add_schemas(common)
        for kind in kinds:
            tree = Tree(package, work / "trees" / f"{package.name}-{kind}")
            shutil.copytree(common.root, tree.root, symlinks=True)
            layout.add_format(tree, kind, full, at_s)
            file = nfpm.pack(tree, kind)
            click.echo(f"{file.stat().st_size / (1 << 20):7.1f} MiB  {file}")
    click.echo(f"built in {time.monotonic() - begun_s:.0f} s")


def _wheels(folder: Path) -> list[Path]:
    wheels = sorted(folder.glob(f"waterflow*-{waterflowd.__version__}-*.whl"))
    if len(wheels) != 2:
        raise click.ClickException(
            f"{folder} must contain the two wheels of version {waterflowd.__version__}: run `make dist`"
        )
    return wheels


def _last_change_s() -> int:
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=layout.REPOSITORY, capture_output=True, text=True, check=False
    )
    if not done.stdout.strip():
        raise click.ClickException("not a Git checkout: set SOURCE_DATE_EPOCH")
    return int(done.stdout)


if __name__ == "__main__":
    main()
