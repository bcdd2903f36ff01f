"""`demo`: all of Waterflow on this machine, in a temporary directory, without root and without a network.

Other users of the machine can neither read the directory nor reach the unix socket in it, and the API's port needs a token.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from waterflowd.ctl.commands.watch import watch_to_end
from waterflowd.ctl.demo import repository
from waterflowd.ctl.demo.daemons import READY, AgentPorts, DemoDaemon, toml_string
from waterflowd.ctl.demo.processes import DAEMONS, TEMPORAL, Processes, free_port
from waterflowd.ctl.demo.temporal import NAMESPACE, DevelopmentServer
from waterflowd.ctl.display.terminal import clean_line, style
from waterflowd.ctl.failures import RUN_FAILED, Failure

#: The preferred ports of the API, and the addresses for agents.
_PORTS = (8080, 8081)
_HOSTS = ("127.0.0.1", "127.0.0.2")
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
    help="temporal: start two daemons and Temporal's development server, and kill a daemon in the middle of the run.",
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
        names = DAEMONS if temporal is not None else DAEMONS[:1]
        self._socket_folder = folder
        if any(len(os.fsencode(folder / f"{name}.sock")) > _SOCKET_PATH_BYTES_MAX for name in names):
            self._socket_folder = Path(tempfile.mkdtemp(prefix="waterflow-demo-", dir="/tmp"))
        self._daemons = [
            DemoDaemon(name=name, folder=folder, host=host, socket=self._socket_folder / f"{name}.sock")
            for name, host in zip(names, _HOSTS, strict=False)
        ]
        self._first = self._daemons[0]
        self._choose_ports(_PORTS)

    def _choose_ports(self, preferred: Sequence[int]) -> None:
        self._agent_ports = AgentPorts(free_port(), free_port())
        for daemon, port in zip(self._daemons, preferred, strict=False):
            daemon.api_port = free_port(port)

    def play(self) -> int:
        """Run the demo and return the exit code of the first run."""
        bare, work = repository.create(self._folder)
        self._start_temporal()
        self._start_daemons(bare)
        self._start_agents()
        for daemon in self._daemons:
            # On a line of its own, a terminal of 80 columns does not break it.
            _say(
                f"web        open this address in a browser; it signs in once, within a minute:\n{daemon.sign_in_link()}"
            )
        command = repository.push_first(bare, work)
        _say(f"\n$ {command}")
        run = self._first_run()
        code = self._watch(run["id"])
        if code == 130:
            return code
        self._print_next_steps(work, run["id"], self._create_token())
        if sys.stdin.isatty() and sys.stdout.isatty():
            # Ctrl-C is how a demo ends: that is no failure.
            with contextlib.suppress(KeyboardInterrupt):
                self._stay()
        return code

    def close(self) -> None:
        """Close the connections to the daemons."""
        for daemon in self._daemons:
            daemon.client.close()

    def remove_socket(self) -> None:
        """Remove the directory of the sockets, if it is another one than the demo's."""
        if self._socket_folder != self._folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _start_temporal(self) -> None:
        if self._temporal is None:
            return
        _say("starting Temporal's development server, which keeps the runs")
        self._temporal.create_files()
        self._processes.start_command(TEMPORAL, self._temporal.command())
        self._processes.wait_until(self._temporal.is_up, "starting Temporal's server", _UP_S)
        _say(f"temporal   {self._temporal.address}, namespace {NAMESPACE}")
        _say(f"pages      {self._temporal.pages}")

    def _start_daemons(self, bare: Path) -> None:
        _say(f"starting {'a daemon' if len(self._daemons) == 1 else 'two daemons'} and three agents in {self._folder}")
        for tries_left in reversed(range(_PORT_TRIES)):
            started: list[DemoDaemon] = []
            try:
                for daemon in self._daemons:
                    if daemon is not self._first:
                        daemon.copy_key(self._first)
                    started.append(daemon)
                    self._start_daemon(
                        daemon, daemon.configuration(bare, self._agent_ports, self._hosts, self._temporal)
                    )
                break
            except Failure:
                # Another process, such as a second demo, may have taken a port since it was found free.
                if not tries_left or not self._processes.has_logged(started[-1].name, *_PORT_TAKEN):
                    raise
            for daemon in started:
                self._processes.kill(daemon.name)
            self._choose_ports((0, 0))
        # A daemon must know the empty repository before the first push, so that the push starts a run.
        self._first.client.post("/v1/repositories/ops/sync", wait="true")
        for daemon in self._daemons:
            _say(f"daemon     unix:{daemon.socket}   (process {self._processes.pid(daemon.name)})")

    @property
    def _hosts(self) -> list[str]:
        return [daemon.host for daemon in self._daemons]

    def _start_daemon(self, daemon: DemoDaemon, configuration: str) -> None:
        daemon.client.close()
        self._processes.start(daemon.name, "waterflowd", configuration)
        self._processes.wait_until(lambda: self._is_up(daemon), "starting the daemon", _UP_S)

    def _is_up(self, daemon: DemoDaemon) -> bool:
        # From its log, because another daemon may answer on a port that ours could not get.
        return self._processes.has_logged(daemon.name, READY)

    def _watch(self, run: str) -> int:
        """Show the run until it ends, and its output; on Temporal, kill a daemon in the middle. Returns the exit code."""
        if self._temporal is None:
            code = watch_to_end(self._first.client, run)
            self._print_output(self._first, run)
            return code
        killed = self._kill_daemon_in_the_middle(run)
        [survivor] = [daemon for daemon in self._daemons if daemon is not killed]
        code = watch_to_end(survivor.client, run)
        self._print_output(survivor, run)
        if code != 130:
            self._start_daemon(killed, (self._folder / f"{killed.name}.toml").read_text("utf-8"))
            _say(f"started {killed.name} again (process {self._processes.pid(killed.name)})")
        return code

    def _kill_daemon_in_the_middle(self, run: str) -> DemoDaemon:
        """Kill the daemon of the server on which a step of the second job is running."""
        job: dict[str, Any] = {}

        def is_in_the_middle() -> bool:
            jobs = self._first.client.get(f"/v1/runs/{run}")["jobs"]
            job.update(next((each for each in jobs if each["id"] == "frontend"), {}))
            # On a busy machine the job may already have completed.
            return job.get("status") in ("running", "completed")

        self._processes.wait_until(is_in_the_middle, "the first job", _RUN_S)
        server = str(job["agent"])
        daemon = next((each for each in self._daemons if server in each.connected()), self._first)
        pid = self._processes.pid(daemon.name)
        _say(f"$ kill -9 {pid}   # {daemon.name}, to which {server} is connected; job frontend is {job['status']}")
        self._processes.kill(daemon.name)
        _say("its agents connect to the other daemon, which continues the run:\n")
        return daemon

    def _start_agents(self) -> None:
        for name, group in _AGENTS:
            made = self._first.client.post("/v1/agents/tokens", {"groups": [group], "ttl": "10m", "uses": 1})
            token = self._folder / f"{name}.token"
            token.touch(0o600)
            token.write_text(made["token"] + "\n", "utf-8")
            self._processes.start(name, "waterflow_agent", _agent_configuration(self._folder, name, group, token))
        self._processes.wait_until(self._are_connected, "starting the agents", _UP_S)
        of = {name: daemon.name for daemon in self._daemons for name in daemon.connected()}
        for name, group in _AGENTS:
            where = f", connected to {of[name]}" if len(self._daemons) > 1 and name in of else ""
            _say(f"agent      {name:<6} in {group}{where}")

    def _are_connected(self) -> bool:
        connected: set[str] = set()
        return connected.union(*(daemon.connected() for daemon in self._daemons)) == {name for name, _ in _AGENTS}

    def _first_run(self) -> dict[str, Any]:
        began = time.monotonic()
        rows: list[dict[str, Any]] = []

        def has_run() -> bool:
            rows[:] = self._first.client.get("/v1/runs", limit=1)["runs"]
            return bool(rows)

        self._processes.wait_until(has_run, "the first run", _RUN_S)
        _say(f"the push started a run after {time.monotonic() - began:.1f} s\n")
        return rows[0]

    def _print_output(self, daemon: DemoDaemon, run: str) -> None:
        _say(f"\n$ {_own_command()} logs {run}")
        for row in daemon.client.lines(f"/v1/runs/{run}/logs"):
            _say(f"{row['job']}/{row['step']} | {clean_line(row['text'], has_colors=False)}")

    def _create_token(self) -> str:
        """Create the token for the API's port. It is valid for as long as the demo's data exists."""
        made = self._first.client.post("/v1/tokens", {"role": "admin", "name": "demo", "groups": [], "ttl": "30d"})
        return str(made["secret"])

    def _print_next_steps(self, work: Path, run: str, token: str) -> None:
        first = self._first
        address = first.api
        curl = f"curl --unix-socket {shlex.quote(str(first.socket))}"
        restart = self._processes.command_text(first.name, "waterflowd")
        ctl = _own_command()
        _say(f"""
{style("Try next, in another terminal:", is_bold=True)}
  export WATERFLOW_SERVER=unix:{first.socket}
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
  {ctl} run deploy --detach && kill -9 {self._processes.pid(first.name)}
  {restart}
""")
        if self._temporal is not None:
            other = self._daemons[-1]
            _say(f"""\
{style("Two daemons:", is_bold=True)} either can be asked, also for what the other one does
  {ctl} --server unix:{other.socket} runs

{style("Look into Temporal:", is_bold=True)} at {self._temporal.pages}, or with what is sealed opened by the daemon
  {self._temporal.show_command(run, f"{address}/v1/temporal")}
""")

    def _stay(self) -> None:
        _say("press Ctrl-C to stop the demo")
        is_up = {daemon.name: True for daemon in self._daemons}
        while True:
            time.sleep(1.0)
            for daemon in self._daemons:
                name, was_up = daemon.name, is_up[daemon.name]
                is_up[name] = _answers(daemon)
                if was_up and not is_up[name]:
                    _say(f"{name} has stopped; restart it in another terminal:")
                    _say("  " + self._processes.command_text(name, "waterflowd"))
                elif is_up[name] and not was_up:
                    _say(f"{name} is running again, and so are its runs: waterflowctl runs")


def _answers(daemon: DemoDaemon) -> bool:
    try:
        daemon.client.get("/v1/repositories")
    except Failure:
        return False
    return True


def _own_command() -> str:
    """Return what to type for waterflowctl: its name if it is in PATH, else its path."""
    if shutil.which("waterflowctl") is not None:
        return "waterflowctl"
    beside = Path(sys.executable).with_name("waterflowctl")
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m waterflowd.ctl"


def _agent_configuration(folder: Path, name: str, group: str, token: Path) -> str:
    return f"""\
name = "{name}"
join-token-file = {toml_string(token)}
groups = ["{group}"]
slots = 2
data-dir = {toml_string(folder / name)}
"""


def _say(text: str) -> None:
    click.echo(text)


def _say_if_possible(text: str) -> None:
    """Say it, unless the terminal is closed: everything must be stopped all the same."""
    with contextlib.suppress(OSError):
        click.echo(text)
