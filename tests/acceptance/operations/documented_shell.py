"""A shell in which the tests run documented commands, as a reader would type them."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from tests.documentation import ROOT, Block, Command
from tests.patience import PATIENCE_S
from tests.ports import Ports

#: Directory and ports of the pages; the tests use others, because several of them may run on one machine.
PAGE_FOLDER = "/tmp/tour"
PAGE_PORTS = ("8080", "7233", "7234")

#: Commands that change nothing. A reader types them later than the test, so the test repeats them until they print what the
#: page says.
_READS = re.compile(r"waterflowctl (status|runs|why|watch|logs|show|events)\b|curl (?!.*(?: -d | --data))", re.DOTALL)
#: Commands whose output depends on the moment; only their exit code is compared.
_MOMENTARY = re.compile(r"waterflowctl (status|runs|why)\b")

#: What differs each time, and its replacement in both texts.
_VARIABLE = (
    (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "ID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)?", "TIME"),
    (r"\b(\d+[hm])*\d+(\.\d+)?(ms|s)\b", "DURATION"),
    (r"\b[0-9a-f]{7,10}\b(?=[\s\x1b]|$)", "COMMIT"),
    (r"\bweb-[12]\b", "AGENT"),
    (r"\bseq \d+", "SEQ"),
    (r"#…|#\S{20,}", "#SECRET"),
    (r'"cursor":"[^"]*"', '"cursor":CURSOR'),
    (r'"status":"(queued|waiting|running|completed)"', '"status":STATUS'),
    (r"\s+", " "),
)


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    output: str


class DocumentedShell:
    """A bash that runs the commands of pages in `folder`, with ports of its own; `close` ends all that it has started."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ports = Ports(len(PAGE_PORTS))
        # As for a reader whose curl fails on an error of the server: its exit code would be 0.
        (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
        (folder / "examples").symlink_to(ROOT / "examples")
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                "TZ": "UTC",
                "PYTHONDONTWRITEBYTECODE": "1",
                **{name: os.environ[name] for name in ("VIRTUAL_ENV", "PYTHONPATH") if name in os.environ},
            },
        )

    def adapted(self, text: str) -> str:
        """Returns a text of a page with the test's folder and ports."""
        text = text.replace(PAGE_FOLDER, str(self.folder))
        for written, own in zip(PAGE_PORTS, self._ports.numbers, strict=True):
            text = re.sub(rf"(?<=:){written}\b", str(own), text)
        return text

    def run_block(self, block: Block) -> None:
        """Runs the commands of a block, or saves the file that it is; fails the test where the page is wrong."""
        if "file" in block.attributes:
            self.run(f"mkdir -p $(dirname {block.attributes['file']})")
            working_directory = Path(self.run("pwd").output.strip())
            (working_directory / block.attributes["file"]).write_text(self.adapted(block.content))
            return
        if "before" in block.attributes:
            changed = self.run(block.attributes["before"])
            assert changed.code == 0, f"{block.location}: {changed.output}"
        for command in block.commands:
            self._check(block, command)

    def _check(self, block: Block, command: Command) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            ended = self.run(self.adapted(command.text))
            problem = self._difference(command, ended)
            if problem is None:
                return
            if not _READS.match(command.text) or time.monotonic() > deadline:
                raise AssertionError(f"{block.location}: $ {command.text}\n{problem}\nIt printed:\n{ended.output}")
            time.sleep(0.1)

    def _difference(self, command: Command, ended: Ended) -> str | None:
        if (ended.code != 0) != command.fails:
            return f"exit code {ended.code}, but the page {'shows an error' if command.fails else 'shows no error'}"
        if _MOMENTARY.match(command.text) and not command.fails:
            return None
        printed = {_plain(line) for line in ended.output.splitlines()}
        documented = (line for line in self.adapted("\n".join(command.prints)).splitlines() if line.strip(" .…"))
        missing = [line for line in documented if _plain(line) not in printed]
        return f"not printed: {missing}" if missing else None

    def run(self, command: str) -> Ended:
        """Runs one command in this shell and waits for it."""
        mark = f"ended-{uuid.uuid4().hex}"
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n%s %d\\n' {mark} $?\n".encode())
        self._bash.stdin.flush()
        output = self._read_until(mark.encode(), command)
        text, _, code = output.partition(f"\n{mark} ")
        return Ended(int(code), text)

    def _read_until(self, mark: bytes, command: str) -> str:
        assert self._bash.stdout is not None
        read = b""
        deadline = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while not re.search(mark + rb" \d+\n", read):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"{command!r} has not ended; so far it printed:\n{read.decode()}")
                piece = os.read(self._bash.stdout.fileno(), 65_536)
                assert piece, f"the shell ended with {command!r}:\n{read.decode()}"
                read += piece
        return read.decode()

    def close(self) -> None:
        """Ends the shell and all processes that it has started, which are in its session or work in its folder."""
        self._bash.kill()
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream is not None:
                stream.close()
        for process in self._left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._ports.close()

    def _left_over(self) -> list[int]:
        mine = f"HOME={self.folder}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


def _plain(line: str) -> str:
    for pattern, replacement in _VARIABLE:
        line = re.sub(pattern, replacement, line)
    return line.strip()
