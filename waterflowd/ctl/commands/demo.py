"""`demo`: all of Waterflow on this machine, in a temporary directory, without root and without a network.

Other users of the machine can neither read the directory nor reach the unix socket in it, and the API's port needs a token.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from waterflowd.ctl.client import Client
from waterflowd.ctl.commands.watch import watch_to_end
from waterflowd.ctl.demo import repository
from waterflowd.ctl.demo.processes import DAEMON, TEMPORAL, Processes, free_port
from waterflowd.ctl.demo.temporal import NAMESPACE, DevelopmentServer
from waterflowd.ctl.display.terminal import clean_line, style
from waterflowd.ctl.failures import RUN_FAILED, Failure
from waterflowd.ctl.settings import Settings

#: The preferred port of the API.
_PORT = 8080
#: How often the daemon is started on other ports if one was taken in the meantime.
_PORT_TRIES = 5
#: Error codes for a port in use: that of the API, and those for agents.
_PORT_TAKEN = ("[WF610]", "[WF221]")
#: Far longer than needed, even on a busy machine.
_UP_S = 120.0
_RUN_S = 120.0
#: The path of a unix socket has at most so many bytes.
_SOCKET_PATH_BYTES_MAX = 107
_AGENTS = (("web-1", "web-servers"), ("web-2", "web-servers"), ("db-1", "db-servers"))


@click.command()
@click.option("--keep", is_flag=True, help="Keep the directory.")
@click.option(
    "--engine",
    type=click.Choice(["log", "temporal"]),
    default="log",
    help="temporal: also start Temporal's development server, and kill the daemon in the middle of the run.",
)
@click.pass_context
def demo(context: click.Context, keep: bool, engine: str) -> None:
    """Try Waterflow: a daemon, three agents and a first run in a temporary directory.

    Creates a Git repository, a daemon and three agents in two groups, pushes a workflow and watches its run. On a terminal
    it keeps running until Ctrl-C; otherwise it exits after the first run, with the exit code of that run. Needs neither root
    nor a network.
    """
    # SIGINT too, because a shell script ignores it for commands in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="waterflow-demo-"))
    processes = Processes(folder)
    code = RUN_FAILED
    play: _Demo | None = None
    try:
        play = _Demo(folder, processes, DevelopmentServer(folder) if engine == "temporal" else None)
        context.call_on_close(play.close)
        code = play.play()
    except KeyboardInterrupt:
        code = 130
    finally:
        _ignore_signals()
        _say_if_possible("stopping the demo ...")
        processes.end()
        if play is not None:
            play.remove_socket()
        if keep:
            _say_if_possible(f"kept all files in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    context.exit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """Ignore a second Ctrl-C, which would leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class _Demo:
    """One demo, from the repository to suggestions what to try next."""

    def __init__(self, folder: Path, processes: Processes, temporal: DevelopmentServer | None) -> None:
        self._folder = folder
        self._processes = processes
        self._temporal = temporal
        self._socket = folder / "waterflowd.sock"
        if len(os.fsencode(self._socket)) > _SOCKET_PATH_BYTES_MAX:
            self._socket = Path(tempfile.mkdtemp(prefix="waterflow-demo-", dir="/tmp")) / "waterflowd.sock"
        self._client = Client(Settings(server=f"unix:{self._socket}", token=None))
        self._choose_ports(_PORT)

    def _choose_ports(self, preferred: int) -> None:
        self._port, self._work_port, self._enroll_port = free_port(preferred), free_port(), free_port()

    def play(self) -> int:
        """Run the demo and return the exit code of the first run."""
        bare, work = repository.create(self._folder)
        self._start_temporal()
        self._start_daemon(bare)
        self._start_agents()
        # On a line of its own, a terminal of 80 columns does not break it.
        _say(f"web        open this address in a browser; it signs in once, within a minute:\n{self._sign_in_link()}")
        command = repository.push_first(bare, work)
        _say(f"\n$ {command}")
        run = self._first_run()
        if self._temporal is not None:
            self._kill_daemon_in_the_middle(run["id"])
        code = watch_to_end(self._client, run["id"])
        self._print_output(run["id"])
        if code == 130:
            return code
        self._print_next_steps(work, run["id"], self._create_token())
        if sys.stdin.isatty() and sys.stdout.isatty():
            self._stay()
        return code

    def close(self) -> None:
        """Close the connection to the daemon."""
        self._client.close()

    def remove_socket(self) -> None:
        """Remove the socket's directory, if it is another one than the demo's."""
        if self._socket.parent != self._folder:
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _start_temporal(self) -> None:
        if self._temporal is None:
            return
        _say("starting Temporal's development server, which keeps the runs")
        keys = self._folder / "payload.keys"
        keys.touch(0o600)
        keys.write_text(secrets.token_hex(32) + "\n", "utf-8")
        self._processes.start_command(TEMPORAL, self._temporal.command())
        self._processes.wait_until(self._temporal.is_up, "starting Temporal's server", _UP_S)
        _say(f"temporal   {self._temporal.address}, namespace {NAMESPACE}")
        _say(f"pages      {self._temporal.pages}")

    def _start_daemon(self, bare: Path) -> None:
        _say(f"starting a daemon and three agents in {self._folder}")
        audit_key = self._folder / "audit.key"
        audit_key.touch(0o600)
        audit_key.write_text(secrets.token_hex(32) + "\n", "utf-8")
        for tries_left in reversed(range(_PORT_TRIES)):
            configuration = self._daemon_configuration(bare)
            self.daemon = self._processes.start(DAEMON, "waterflowd", configuration)
            try:
                self._processes.wait_until(self._is_up, "starting the daemon", _UP_S)
                break
            except Failure:
                # Another process, such as a second demo, may have taken a port since it was found free.
                if not tries_left or not self._processes.has_logged(DAEMON, *_PORT_TAKEN):
                    raise
            self._processes.forget(DAEMON)
            self._client.close()
            self._choose_ports(0)
        # The daemon must know the empty repository before the first push, so that the push starts a run.
        self._client.post("/v1/repositories/ops/sync", wait="true")
        _say(f"daemon     unix:{self._socket}   (process {self.daemon.pid})")

    def _kill_daemon_in_the_middle(self, run: str) -> None:
        """Kill the daemon while a step of the second job is running, and start it again."""
        status = ""

        def is_in_the_middle() -> bool:
            nonlocal status
            jobs = self._client.get(f"/v1/runs/{run}")["jobs"]
            status = next((str(job["status"]) for job in jobs if job["id"] == "frontend"), "")
            # On a busy machine the job may already have completed.
            return status in ("running", "completed")

        self._processes.wait_until(is_in_the_middle, "the first job", _RUN_S)
        _say(f"$ kill -9 {self.daemon.pid}   # the daemon, while job frontend is {status}")
        configuration = (self._folder / f"{DAEMON}.toml").read_text("utf-8")
        self._processes.kill(DAEMON)
        self.daemon = self._processes.start(DAEMON, "waterflowd", configuration)
        self._processes.wait_until(self._is_up, "starting the daemon again", _UP_S)
        _say(f"started a new daemon (process {self.daemon.pid}); the run continues:\n")

    def _daemon_configuration(self, bare: Path) -> str:
        return f"""\
data-dir = {_toml_string(self._folder / "data")}
{self._engine_configuration()}[audit]
key-file = {_toml_string(self._folder / "audit.key")}
[api]
listen = "127.0.0.1:{self._port}"
socket = {_toml_string(self._socket)}
[agents]
listen = "tcp://127.0.0.1:{self._work_port}"
enroll-listen = "tcp://127.0.0.1:{self._enroll_port}"
[[repositories]]
name = "ops"
url = {_toml_string(bare)}
refs = ["main"]
interval = "1s"
"""

    def _engine_configuration(self) -> str:
        if self._temporal is None:
            return ""
        return f"""\
engine = "temporal"
[temporal]
address = "{self._temporal.address}"
namespace = "{NAMESPACE}"
payload-keys = {_toml_string(self._folder / "payload.keys")}
"""

    def _is_up(self) -> bool:
        # From its log, because another daemon may answer on a port that ours could not get.
        return self._processes.has_logged(DAEMON, "waterflow.daemon: ready in ")

    def _start_agents(self) -> None:
        for name, group in _AGENTS:
            made = self._client.post("/v1/agents/tokens", {"groups": [group], "ttl": "10m", "uses": 1})
            token = self._folder / f"{name}.token"
            token.touch(0o600)
            token.write_text(made["token"] + "\n", "utf-8")
            self._processes.start(name, "waterflow_agent", _agent_configuration(self._folder, name, group, token))
        self._processes.wait_until(self._are_connected, "starting the agents", _UP_S)
        for name, group in _AGENTS:
            _say(f"agent      {name:<6} in {group}")

    def _are_connected(self) -> bool:
        rows = self._client.get("/v1/agents")["agents"]
        return bool(sum(row["status"] == "connected" for row in rows) == len(_AGENTS))

    def _first_run(self) -> dict[str, Any]:
        began = time.monotonic()
        rows: list[dict[str, Any]] = []

        def has_run() -> bool:
            rows[:] = self._client.get("/v1/runs", limit=1)["runs"]
            return bool(rows)

        self._processes.wait_until(has_run, "the first run", _RUN_S)
        _say(f"the push started a run after {time.monotonic() - began:.1f} s\n")
        return rows[0]

    def _print_output(self, run: str) -> None:
        _say(f"\n$ {_own_command()} logs {run}")
        for row in self._client.lines(f"/v1/runs/{run}/logs"):
            _say(f"{row['job']}/{row['step']} | {clean_line(row['text'], has_colors=False)}")

    def _sign_in_link(self) -> str:
        """Return an address that signs a browser in as the user of the demo."""
        return str(self._client.post("/v1/session-links")["url"])

    def _create_token(self) -> str:
        """Create the token for the API's port. It is valid for as long as the demo's data exists."""
        made = self._client.post("/v1/tokens", {"role": "admin", "name": "demo", "groups": [], "ttl": "30d"})
        return str(made["secret"])

    def _print_next_steps(self, work: Path, run: str, token: str) -> None:
        address = f"http://127.0.0.1:{self._port}"
        curl = f"curl --unix-socket {shlex.quote(str(self._socket))}"
        restart = self._processes.command_text(DAEMON, "waterflowd")
        ctl = _own_command()
        _say(f"""
{style("Try next, in another terminal:", is_bold=True)}
  export WATERFLOW_SERVER=unix:{self._socket}
  {ctl} web      # an address of the web pages that signs your browser in
  {ctl} status
  {ctl} run deploy
  {ctl} show {run}
  {curl} http://localhost/v1/runs
  {curl} http://localhost/v1/runs/{run}/logs
  {curl} -H 'Content-Type: application/yaml' --data-binary @{work / repository.WORKFLOW_PATH} http://localhost/v1/runs
Only you (and root) can use this socket. Programs that need TCP use {address} with this token of an admin:
  export WATERFLOW_TOKEN={token}

{style("Change it:", is_bold=True)} each push starts a run, and errors are shown with their line
  cd {work}
  $EDITOR {repository.WORKFLOW_PATH} && git commit -am 'Change' && git push
  {ctl} workflows

{style("Break it:", is_bold=True)} start a run, kill the daemon, restart it: the run continues
  {ctl} run deploy --detach && kill -9 {self.daemon.pid}
  {restart}
""")
        if self._temporal is not None:
            _say(f"""\
{style("Look into Temporal:", is_bold=True)} at {self._temporal.pages}, or with what is sealed opened by the daemon
  {self._temporal.show_command(run, f"{address}/v1/temporal")}
""")

    def _stay(self) -> None:
        _say("press Ctrl-C to stop the demo")
        is_up = True
        while True:
            time.sleep(1.0)
            was_up, is_up = is_up, self._is_up()
            if was_up and not is_up:
                _say("the daemon has stopped; restart it in another terminal:")
                _say("  " + self._processes.command_text(DAEMON, "waterflowd"))
            elif is_up and not was_up:
                _say("the daemon is running again, and so are its runs: waterflowctl runs")


def _own_command() -> str:
    """Return what to type for waterflowctl: its name if it is in PATH, else its path."""
    if shutil.which("waterflowctl") is not None:
        return "waterflowctl"
    beside = Path(sys.executable).with_name("waterflowctl")
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m waterflowd.ctl"


def _agent_configuration(folder: Path, name: str, group: str, token: Path) -> str:
    return f"""\
name = "{name}"
join-token-file = {_toml_string(token)}
groups = ["{group}"]
slots = 2
data-dir = {_toml_string(folder / name)}
"""


def _toml_string(text: object) -> str:
    """Return a TOML string."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _say(text: str) -> None:
    click.echo(text)


def _say_if_possible(text: str) -> None:
    """Say it, unless the terminal is closed: everything must be stopped all the same."""
    with contextlib.suppress(OSError):
        click.echo(text)
