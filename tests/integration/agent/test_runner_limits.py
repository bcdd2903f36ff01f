"""Limits and users of steps, with a real runner: what exceeds a limit ends and says so, and nothing beside it is affected."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.agent.test_runner import ENVIRONMENT, Bench, end_runner, eventually, is_alive
from waterflow_agent.runner import reports
from waterflow_agent.runner.spool import STDOUT

MIB = 1 << 20
#: A user that every machine has, and that owns nothing.
OTHER = "nobody"
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; wait; sleep 300"
#: Stops every other child of the runner as soon as it can, also those that have only just become its own user's.
FREEZER = """import os, signal, sys
print("ready", flush=True)
while True:
    for pid in open(f"/proc/{sys.argv[1]}/task/{sys.argv[1]}/children").read().split():
        if int(pid) != os.getpid():
            try: os.kill(int(pid), signal.SIGSTOP)
            except OSError: pass
"""
#: Counts to 20 with a new process for each number, so it notices when it cannot fork.
NEIGHBOUR = "for i in {1..20}; do /bin/sleep 0.01 || exit 9; echo $i; done"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A connected client of a runner that may use whatever this machine offers."""
    bench = Bench(tmp_path, [])
    await bench.client.connect()
    await bench.until(lambda report: isinstance(report, reports.HeldSteps))
    try:
        yield bench
    finally:
        await bench.client.close()
        await end_runner(tmp_path)


def needs_limit(bench: Bench, *names: str) -> None:
    missing = set(names) - bench.client.abilities.limits
    if missing:
        pytest.skip(f"this machine delegates no control group that limits {', '.join(sorted(missing))}")


async def test_a_step_that_uses_too_much_memory_ends_and_its_reason_names_the_limit(bench: Bench) -> None:
    """The kernel ends it at the limit; a step beside it with the same demand and a higher limit succeeds."""
    needs_limit(bench, "memory")
    script = "python3 -c 'print(len(bytearray(200 << 20)))'"

    bench.start("small", script, memory_bytes_max=64 * MIB)
    bench.start("large", script, memory_bytes_max=512 * MIB)
    small, large = await bench.result("small"), await bench.result("large")

    assert (small.reason, small.error) == ("limit", "ended by the memory limit of 64 MiB")
    assert (large.reason, large.exit_code) == ("exited", 0)
    # A later step in the same group is not blamed for it.
    again = await bench.run("again", "exit 3", memory_bytes_max=64 * MIB)
    assert (again.reason, again.exit_code) == ("exited", 3)


async def test_a_fork_bomb_ends_and_its_reason_names_the_limit(bench: Bench) -> None:
    """It is killed as soon as it reaches the limit, long before its timeout, with all of its processes."""
    needs_limit(bench, "processes")

    ended = await bench.run("bomb", FORK_BOMB, pids_max=50)

    assert (ended.reason, ended.error) == ("limit", "ended by the limit of 50 processes")
    assert (await bench.run("after", "exit 0", pids_max=50)).exit_code == 0


@pytest.mark.slow
async def test_a_working_step_beside_a_fork_bomb_continues(bench: Bench) -> None:
    """Twenty times: the bomb ends by its limit, and the step beside it forks twenty times without a failure."""
    needs_limit(bench, "processes", "memory")
    for turn in range(20):
        bench.start(f"neighbour{turn}", NEIGHBOUR, pids_max=100, memory_bytes_max=256 * MIB)
        bench.start(f"bomb{turn}", FORK_BOMB, pids_max=100, memory_bytes_max=256 * MIB)

        bomb, neighbour = await bench.result(f"bomb{turn}"), await bench.result(f"neighbour{turn}")

        assert bomb.reason == "limit", bomb
        assert (neighbour.reason, neighbour.exit_code) == ("exited", 0), neighbour
        assert bench.output(f"neighbour{turn}", STDOUT).split() == [b"%d" % number for number in range(1, 21)]
        for name in (f"bomb{turn}", f"neighbour{turn}"):
            bench.client.forget(name)


async def test_processor_time_is_limited(bench: Bench) -> None:
    """A step with half a processor uses no more than that, over a time in which it could use far more."""
    needs_limit(bench, "cpu")
    script = (
        "python3 -c 'import time; t=time.monotonic()\nwhile time.monotonic()-t<2: pass\nprint(time.process_time())'"
    )

    await bench.run("a", script, cpu_percent_max=25)

    assert float(bench.output("a", STDOUT)) < 1.2


# Users ----------------------------------------------------------------------------------------------------------------


def needs_users(bench: Bench) -> None:
    if not bench.client.abilities.can_switch:
        pytest.skip("only root can start steps as another user")


def let_others_enter(directory: Path) -> None:
    """Lets other users reach files of the test, whose directory belongs to root."""
    for folder in (directory, *directory.parents):
        if folder.owner() == "root" and folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o011)


async def test_a_step_of_another_user_cannot_reach_the_runner_or_the_agent(bench: Bench) -> None:
    """It can neither read nor list their directories, connect to the socket, signal the runner, or leave its control group."""
    needs_users(bench)
    secret = bench.data_dir / "agent.key"
    secret.write_text("key")
    secret.chmod(0o600)
    let_others_enter(bench.data_dir)
    runner = bench.runner_pid()
    script = f"""id --user --name
cat {secret} 2>/dev/null || echo no key
ls {bench.data_dir}/attempts 2>/dev/null || echo no attempts
python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("{bench.data_dir}/runner.sock")' 2>/dev/null || echo no socket
kill -0 {runner} 2>/dev/null || echo no signal
cat /proc/{runner}/environ 2>/dev/null || echo no environment
for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/*/cgroup.procs; do
    (echo $BASHPID >$group) 2>/dev/null && echo "entered $group"
done
setpriv --reuid 0 true 2>/dev/null || echo no way back
grep -E 'Cap(Eff|Prm|Inh|Amb):.*[1-9a-f]' /proc/self/status || echo no capabilities"""

    ended = await bench.run("a", script, user=OTHER, cwd="/")

    assert ended.exit_code == 0, ended
    denied = ["no key", "no attempts", "no socket", "no signal", "no environment", "no way back", "no capabilities"]
    assert bench.output("a", STDOUT).decode().splitlines() == [OTHER, *denied]


async def test_a_step_of_another_user_is_stopped_with_everything_it_started(bench: Bench) -> None:
    """Signals reach its processes, also those in a session of their own without the mark."""
    needs_users(bench)
    hidden = "setsid env -i bash -c 'trap \"\" TERM; echo hidden $$; while :; do sleep 0.2; done' & "
    bench.start("a", f"trap 'echo stopped; exit 5' TERM; {hidden} while :; do sleep 0.1; done", user=OTHER, cwd="/")
    await bench.printed("a", b"hidden")
    hider = int(bench.output("a", STDOUT).split()[1])

    bench.client.cancel("a")
    ended = await bench.result("a")

    assert (ended.reason, ended.exit_code) == ("cancelled", 5)
    assert b"stopped" in bench.output("a", STDOUT)
    await eventually(lambda: not is_alive(hider))


@pytest.mark.parametrize("user", [None, OTHER])
async def test_what_an_ended_step_left_behind_is_killed_and_counted(bench: Bench, user: str | None) -> None:
    """A double fork with its own session, without the mark, that closed its output: it does not outlive its step."""
    if user is not None:
        needs_users(bench)
    orphan = "setsid env -i bash -c 'exec >/dev/null 2>&1 </dev/null; trap \"\" TERM HUP; while :; do sleep 0.2; done'"

    ended = await bench.run("a", f"({orphan} & echo $!) ; sleep 0.3", user=user, cwd="/")
    left = int(bench.output("a", STDOUT).split()[0])

    assert ended.exit_code == 0
    await eventually(lambda: not is_alive(left))
    await bench.run("b", "exit 0")
    await eventually(lambda: bench.client.leftovers > 0)


async def test_a_working_directory_of_another_user_may_not_be_outside(bench: Bench) -> None:
    """The check is made by the step's own process, after it has entered the directory."""
    needs_users(bench)
    inside = await bench.run("a", "pwd", user=OTHER, cwd="/usr/bin", within="/usr")
    outside = await bench.run("b", "pwd", user=OTHER, cwd="/usr/../etc", within="/usr")

    assert inside.exit_code == 0, inside
    assert (outside.reason, outside.error) == (
        "spawn-failed",
        "working-directory: /usr/../etc is outside the job's directory",
    )


async def test_a_step_that_stops_new_processes_of_its_user_does_not_stop_the_runner(bench: Bench) -> None:
    """Steps of one user can stop each other, even before their program runs; other steps start, and the stopped ones end."""
    needs_users(bench)
    (bench.data_dir / "freezer.py").write_text(FREEZER)
    let_others_enter(bench.data_dir)
    bench.start("freezer", f"exec python3 {bench.data_dir}/freezer.py {bench.runner_pid()}", user=OTHER, cwd="/")
    await bench.printed("freezer", b"ready")

    for turn in range(20):
        bench.start(f"victim{turn}", "exit 0", user=OTHER, cwd="/")
        assert (await bench.run(f"neighbour{turn}", "exit 0")).exit_code == 0
    for turn in range(20):
        bench.client.cancel(f"victim{turn}")
    ended = [await bench.result(f"victim{turn}") for turn in range(20)]

    assert {one.reason for one in ended} <= {"exited", "cancelled"}, ended
    assert "cancelled" in {one.reason for one in ended}, "the freezer never stopped a process"


async def test_a_program_that_cannot_be_started_as_another_user_is_explained(bench: Bench) -> None:
    """As for the runner's own user: the step has not started, and its reason says what is wrong with the program."""
    needs_users(bench)
    (bench.data_dir / "lost.sh").write_text("#!/no/such/interpreter\n")
    (bench.data_dir / "lost.sh").chmod(0o755)
    (bench.data_dir / "noise").write_bytes(b"\x00\x01\x02")
    (bench.data_dir / "noise").chmod(0o755)
    let_others_enter(bench.data_dir)
    programs = {
        f"{bench.data_dir}/lost.sh": "the interpreter in its first line does not exist",
        f"{bench.data_dir}/noise": "Exec format error",
        "no-such-program": "not found in PATH",
        "/etc/passwd": "Permission denied",
    }

    for number, (program, text) in enumerate(programs.items()):
        for user in (None, OTHER):
            name = f"{user}{number}"
            spec = reports.StepSpec(name=name, argv=[program], cwd="/", env=ENVIRONMENT, user=user)
            bench.client.start(spec)
            ended = await bench.result(name)
            assert (ended.reason, ended.error) == ("spawn-failed", f"cannot start {program}: {text}")
            assert (ended.exit_code, ended.started_at) == (None, None)
    assert not [report for report in bench.seen if isinstance(report, reports.StepStarted)]


async def test_a_step_of_another_user_has_its_groups_and_the_usual_signals(bench: Bench) -> None:
    """Nothing of the runner's own state reaches it: not its groups, ignored or blocked signals, or open files."""
    needs_users(bench)
    # The first 28 signals: the C library keeps two later ones for itself.
    signals = "sed -nE 's/^(SigIgn|SigBlk):.*[0-9a-f](.{7})$/\\1 \\2/p' /proc/self/status"
    script = f"id --groups; {signals}; ls /proc/self/fd | wc -l"

    own, other = await bench.run("a", script), await bench.run("b", script, user=OTHER, cwd="/")

    assert (own.exit_code, other.exit_code) == (0, 0)
    account = pwd.getpwnam(OTHER)
    groups = " ".join(map(str, os.getgrouplist(OTHER, account.pw_gid)))
    expected = [groups, *bench.output("a", STDOUT).decode().splitlines()[1:]]
    assert bench.output("b", STDOUT).decode().splitlines() == expected
    assert expected[1:3] == ["SigBlk 0000000", "SigIgn 0000000"]


async def test_a_step_is_not_started_as_a_user_that_does_not_exist(bench: Bench) -> None:
    """The reason names the user."""
    ended = await bench.run("a", "exit 0", user="no-such-user")

    assert (ended.reason, ended.error) == ("spawn-failed", "this server has no user no-such-user")


async def test_a_runner_without_the_right_refuses_other_users(bench: Bench) -> None:
    """It says why; its own user needs no right."""
    if os.geteuid() == 0:
        pytest.skip("root has the right")
    own = await bench.run("a", "exit 0", user=pwd.getpwuid(os.geteuid()).pw_name)
    other = await bench.run("b", "exit 0", user=OTHER)

    assert own.exit_code == 0
    assert (other.reason, other.error) == (
        "spawn-failed",
        f"the step runner cannot run steps as {OTHER}: it was not started with that right",
    )
