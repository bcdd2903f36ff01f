"""Hostile steps on real agents: whatever a script does, it ends as documented and nothing else is affected."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from typing import Any

import pytest

from tests import living
from tests.attack.arena import GOOD, Arena, Peak, descriptors, memory_bytes
from tests.attack.injection import is_alive
from tests.chance import IS_FULL, SEED
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if IS_FULL else 1200)]

MIB = 1 << 20


def job(script: str, *, keys: str = "", name: str = "a", then: str = "") -> str:
    """Returns a workflow of one job with one script; `keys` and `then` are more lines in and after the step."""
    lines = "".join(f"          {line}\n" for line in script.splitlines())
    extra = "".join(f"        {line}\n" for line in keys.splitlines())
    return f"jobs:\n  {name}:\n    runs-on: web\n    steps:\n      - id: s\n        run: |\n{lines}{extra}{then}"


def step(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the run's first step."""
    first: dict[str, Any] = found["jobs"][0]["steps"][0]
    return first


def all_alive(arena: Arena) -> None:
    """Checks that both agents are connected, and that a small run succeeds."""
    wait_until(lambda: arena.connected() == {"web-1", "web-2"}, "both agents")
    assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"


# Processes ------------------------------------------------------------------------------------------------------------

DEAF = "trap '' TERM INT HUP\necho ready\nwhile :; do sleep 0.2 || :; done"
FORKS = """trap '' TERM
(setsid sh -c 'trap "" TERM; while :; do sleep 0.2 || :; done' &)
setsid sleep 998 &
echo ready
wait
sleep 997"""


@pytest.mark.parametrize(("script", "stop"), [(DEAF, "SIGTERM"), (FORKS, "SIGTERM"), (DEAF, "SIGINT")])
def test_a_step_that_ignores_its_stop_signal_is_killed_with_its_children(
    shared_arena: Arena, script: str, stop: str
) -> None:
    """After the grace period every process is gone, whether it forked, left its session or ignores signals."""
    run = shared_arena.start(job(script, keys=f"stop: {{signal: {stop}, grace: 300ms}}"))
    shared_arena.lines(run, count=1)

    answer = shared_arena.api("POST", f"/v1/runs/{run}/cancel", json={})

    assert answer.status_code in (200, 202), answer.text
    assert shared_arena.wait_for(run)["conclusion"] == "cancelled"
    assert not shared_arena.steps(), "processes were left behind"
    all_alive(shared_arena)


def test_a_daemonized_child_that_keeps_the_output_open_does_not_block_the_step(shared_arena: Arena) -> None:
    """The step ends when its main process ends; the orphan is named, and stopped with the job."""
    script = "(setsid sh -c 'while :; do sleep 0.1; done' &)\nsetsid sleep 996 &\necho mine"
    run = shared_arena.start(job(script, keys="stop: {grace: 300ms}"))

    found = shared_arena.wait_for(run)

    assert found["conclusion"] == "success"
    mine, named = shared_arena.lines(run, count=2)
    assert mine == "mine"
    assert named.startswith("waterflow: still running until the job ends: ")
    assert named.endswith(" s old)")
    wait_until(lambda: not shared_arena.steps(), "the orphans to end with the job")


def test_a_timeout_ends_a_fork_bomb(arena: Arena) -> None:
    """A thousand processes that multiply while they are killed leave nothing behind, and the agent survives.

    On a fast machine they reach the limit for processes before the timeout.
    """
    script = "for n in $(seq 300); do (while :; do (sleep 5 &); sleep 0.05; done) & done\nwait"
    run = arena.start(job(script, keys="timeout-minutes: 0.03\nstop: {grace: 100ms}"))

    found = arena.wait_for(run)

    ended = step(found)
    assert ended["conclusion"] == "timed-out" or ended["reason"]["code"] == "limit", ended
    assert not arena.steps()
    all_alive(arena)


def test_a_step_that_kills_its_agent_continues_and_succeeds(arena: Arena) -> None:
    """The runner keeps the step running, and the next agent finds its result."""
    arena.lose_agent("web-2")
    pid = arena.agent_process("web-1").pid
    run = arena.start(job(f"echo before\nkill -9 {pid}\nsleep 0.3\necho after"))
    wait_until(lambda: not is_alive(pid), "the agent to be killed by its step")

    arena.kill_agent("web-1")
    arena.start_agent("web-1")

    assert arena.wait_for(run)["conclusion"] == "success"
    assert arena.lines(run, count=2) == ["before", "after"]
    assert len(step(arena.run(run))["attempts"]) == 1


def test_a_step_that_kills_its_runner_is_lost_and_its_processes_end(arena: Arena) -> None:
    """The step's outcome is unknown, so it is `lost`, and none of its processes keeps running."""
    marker = arena.folder / "marker"
    arena.lose_agent("web-2")
    run = arena.start(job(f"echo x >> {marker}\nkill -9 $PPID\nsleep 600\necho y >> {marker}"))

    found = arena.wait_for(run)

    assert step(found)["outcome"] == "lost", step(found)
    assert not arena.steps()
    assert marker.read_text() == "x\n", "it went on after it was called lost"
    assert arena.wait_for(arena.start(job("echo fine")))["conclusion"] == "success"


def test_a_step_that_kills_agent_and_runner_is_lost_and_the_next_one_runs(arena: Arena) -> None:
    """The restarted agent starts a runner, which settles what the old one held."""
    arena.lose_agent("web-2")
    pid = arena.agent_process("web-1").pid
    run = arena.start(job(f"kill -9 $PPID {pid}\nsleep 600"))
    wait_until(lambda: not is_alive(pid), "the agent to be killed")

    arena.kill_agent("web-1")
    arena.start_agent("web-1")

    assert step(arena.wait_for(run))["outcome"] == "lost"
    assert not arena.steps()
    assert arena.wait_for(arena.start(job("echo fine")))["conclusion"] == "success"


def test_a_stopped_step_is_ended_by_its_timeout(shared_arena: Arena) -> None:
    """A step that stops itself (SIGSTOP) cannot handle signals; it is killed after the grace period."""
    run = shared_arena.start(job("kill -STOP $$", keys="timeout-minutes: 0.01\nstop: {grace: 200ms}"))

    assert step(shared_arena.wait_for(run))["conclusion"] == "timed-out"
    assert not shared_arena.steps()


def test_thirty_cancels_at_random_moments_each_end_once(shared_arena: Arena) -> None:
    """Whenever the cancel arrives, each run is cancelled or succeeds exactly once and leaves no process."""
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    runs = []
    for number in range(30):
        run = shared_arena.start(job(f"echo begin\nsleep {dice.uniform(0, 0.3):.3f}\necho end", name=f"j{number}"))
        time.sleep(dice.uniform(0, 0.4))
        answer = shared_arena.api("POST", f"/v1/runs/{run}/cancel", json={"force": dice.random() < 0.3})
        assert answer.status_code in (200, 202, 409), answer.text
        runs.append(run)
    for run in runs:
        found = shared_arena.wait_for(run)
        assert found["conclusion"] in ("cancelled", "success"), found
        events = shared_arena.judge.events(run)
        assert [row["type"] for row in events].count("run-completed") == 1
        assert [row["seq"] for row in events] == list(range(1, len(events) + 1))
        for attempt in step(found)["attempts"]:
            assert attempt["status"] == "finished", attempt
    assert not shared_arena.steps()
    rows = shared_arena.agent_rows()
    assert [row["slots_busy"] for row in rows] == [0, 0], "a slot was not released"


def test_a_timeout_fires_while_the_daemon_is_down(arena: Arena) -> None:
    """The agent enforces the timeout, and the restarted daemon gets the report."""
    run = arena.start(job("echo begin\nsleep 600", keys="timeout-minutes: 0.1\nstop: {grace: 200ms}"))
    arena.lines(run, count=1)
    arena.kill_daemon()

    wait_until(lambda: not arena.steps(), "the agents to end the step by themselves")
    arena.start_daemon()

    found = arena.wait_for(run)
    assert step(found)["conclusion"] == "timed-out"
    assert arena.lines(run) == ["begin"]


# Output ---------------------------------------------------------------------------------------------------------------


def _read_logs(arena: Arena, run: str) -> tuple[int, int]:
    """Returns the number of lines and characters of the run's whole output, read as a stream."""
    import httpx

    lines = characters = 0
    url = f"http://127.0.0.1:{arena.api_port}/v1/runs/{run}/logs"
    with httpx.stream("GET", url, timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200
        for text in answer.iter_lines():
            if text:
                lines += 1
                characters += len(json.loads(text)["text"])
    return lines, characters


def test_a_gigabyte_without_a_newline_is_truncated_and_delays_no_other_run(arena: Arena) -> None:
    """The missing bytes are counted, the daemon stays small, and other runs continue."""
    size = 1 << 30
    memory = Peak(lambda: memory_bytes(arena.daemon_pid))
    run = arena.start(job(f"head -c {size} /dev/zero | tr '\\0' a\necho"))
    slowest = 0.0
    while not arena.has_ended(run):
        slowest = max(slowest, arena.latency_s())
        memory.look()
    found = arena.run(run)
    attempt = step(found)["attempts"][0]
    assert found["conclusion"] == "success", found
    kept = attempt["output_bytes"]
    # A line that replaces the missing part says how large that part is; the line counts as kept.
    assert 0 <= kept + attempt["output_dropped"] - (size + 1) < 200, attempt
    assert 0 < kept <= 64 * MIB + 64 * 1024, kept
    _, characters = _read_logs(arena, run)
    memory.look()
    print(f"kept {kept}, daemon's RssAnon +{memory.growth / MIB:.1f} MiB, slowest other run {slowest:.3f} s")
    assert characters <= kept
    assert memory.growth <= 64 * MIB, f"the daemon grew by {memory.growth / MIB:.1f} MiB"


def test_very_many_short_lines_arrive_each_once(arena: Arena) -> None:
    """The lines arrive in order, or are dropped by the limit and counted; the daemon stays small."""
    count = 10_000_000 if IS_FULL else 300_000
    memory = Peak(lambda: memory_bytes(arena.daemon_pid))
    began = time.monotonic()
    run = arena.start(job(f"seq {count}"))
    slowest = 0.0
    while not arena.has_ended(run):
        slowest = max(slowest, arena.latency_s())
        memory.look()
    took = time.monotonic() - began
    found = arena.run(run)
    attempt = step(found)["attempts"][0]
    assert found["conclusion"] == "success", found
    lines, characters = _read_logs(arena, run)
    memory.look()
    print(
        f"{took:.1f} s, dropped {attempt['output_dropped']}, RssAnon +{memory.growth / MIB:.1f} MiB, other {slowest:.3f} s"
    )
    if attempt["output_dropped"] == 0:
        assert lines == count
        assert characters == sum(len(str(number)) for number in range(1, count + 1))
    assert memory.growth <= 64 * MIB, f"the daemon grew by {memory.growth / MIB:.1f} MiB"


def test_binary_output_is_displayed_as_harmless_text(shared_arena: Arena) -> None:
    """0xff, NUL, escape sequences, carriage returns, markup, and commands are shown as text; a command sets nothing."""
    script = (
        r"printf '\377\376\n\0nul\0\n\033]0;title\007\n\033]8;;http://x\033\\link\n'"
        "\n"
        r"printf '::set-env name=PATH::/x\n::add-mask::x\na\rb\n<script>alert(1)</script>\n\342\200\256rtl\n'"
    )
    run = shared_arena.start(job(script, then='      - run: echo "$PATH"\n'))

    assert shared_arena.wait_for(run)["conclusion"] == "success"
    lines = shared_arena.lines(run, count=11)

    assert "::add-mask::***" in lines
    assert lines[0] == "\ufffd\ufffd"
    assert lines[1] == "\0nul\0"
    assert "/x" not in lines[-1].split(":"), "a line of output changed the environment"
    assert "<script>alert(1)</script>" in lines
    displayed = shared_arena.ctl("logs", run)
    assert displayed.returncode == 0, displayed.stderr
    assert "\033]" not in displayed.stdout, "an escape sequence reached the terminal"


# The environment and files --------------------------------------------------------------------------------------------


def test_a_removed_working_directory_fails_only_the_next_step(shared_arena: Arena) -> None:
    """A step that removes its own directory continues, and the next step fails with a message."""
    script = 'rm -rf "$WATERFLOW_WORKSPACE"\necho gone'
    run = shared_arena.start(job(script, then="      - run: pwd\n"))

    found = shared_arena.wait_for(run)

    assert step(found)["conclusion"] == "success"
    following = found["jobs"][0]["steps"][1]
    assert following["status"] == "completed"
    assert following["reason"]["text"], following
    all_alive(shared_arena)


def test_values_larger_than_the_kernels_limit_reach_the_script_completely(shared_arena: Arena) -> None:
    """The kernel's limit of 128 KiB for one environment variable does not limit the workflow."""
    for size in (120_000, 131_000, 131_072, 200 * 1024):
        run = shared_arena.start(job('echo "${#BIG} ${#SMALL}"', keys=f"env: {{BIG: {'x' * size}, SMALL: y}}"))
        assert shared_arena.wait_for(run)["conclusion"] == "success", step(shared_arena.run(run))
        assert shared_arena.lines(run, count=1) == [f"{size} 1"]
    all_alive(shared_arena)


HOSTILE_OUTPUTS = {
    "names that steer": ("printf 'PATH=/x\\nLD_PRELOAD=/x.so\\n' >> $WATERFLOW_ENV", "success"),
    "names that steer, as outputs": ("printf 'PATH=/x\\nLD_PRELOAD=/x.so\\n' >> $WATERFLOW_OUTPUT", "success"),
    "not an entry": ("echo nonsense >> $WATERFLOW_OUTPUT", "failure"),
    "a delimiter that never comes": ("printf 'a<<END\\nx\\nEN D\\n' >> $WATERFLOW_OUTPUT", "failure"),
    "a delimiter inside": ("printf 'a<<END\\nEND x\\nEND\\n' >> $WATERFLOW_OUTPUT", "success"),
    "an empty delimiter": ("printf 'a<<\\nx\\n\\n' >> $WATERFLOW_OUTPUT", "failure"),
    "a gigabyte": ("truncate -s 1G $WATERFLOW_OUTPUT", "failure"),
    "a link to a secret": ("ln -sf /etc/shadow $WATERFLOW_OUTPUT", "failure"),
    "a link to a device": ("ln -sf /dev/zero $WATERFLOW_OUTPUT", "failure"),
    "a pipe": ("rm $WATERFLOW_OUTPUT; mkfifo $WATERFLOW_OUTPUT", "failure"),
    "a pipe with a writer": (
        "rm $WATERFLOW_OUTPUT; mkfifo $WATERFLOW_OUTPUT; setsid sh -c 'yes > '$WATERFLOW_OUTPUT >/dev/null 2>&1 &",
        "failure",
    ),
    "a directory": ("rm $WATERFLOW_OUTPUT; mkdir $WATERFLOW_OUTPUT", "failure"),
    "gone": ("rm $WATERFLOW_OUTPUT", "success"),
    "its directory gone": ("rm -r $(dirname $WATERFLOW_OUTPUT)", "success"),
    "no rights": ("chmod 0 $WATERFLOW_OUTPUT; chmod 0 $(dirname $WATERFLOW_OUTPUT)", "success"),
    "not UTF-8": (r"printf 'a=\377\n' >> $WATERFLOW_OUTPUT", "failure"),
    "a NUL": (r"printf 'a=\0\n' >> $WATERFLOW_OUTPUT", "failure"),
    "a hundred thousand names": ("seq -f 'n%.0f=x' 100000 >> $WATERFLOW_OUTPUT", "failure"),
    "an expression": ("echo 'a=$''{{ run.id }}' >> $WATERFLOW_OUTPUT", "success"),
    "a hard link elsewhere": (
        "ln $WATERFLOW_OUTPUT $WATERFLOW_WORKSPACE/kept; echo a=1 >> $WATERFLOW_OUTPUT",
        "success",
    ),
    "a script that is replaced": (
        "rm $(dirname $WATERFLOW_OUTPUT)/script; ln -s /etc/shadow $(dirname $WATERFLOW_OUTPUT)/script",
        "success",
    ),
    "deep directories": (
        "cd $(dirname $WATERFLOW_OUTPUT); for n in $(seq 300); do mkdir d; cd d; done 2>/dev/null || :",
        "success",
    ),
}


def test_hostile_output_files_fail_only_their_step(arena: Arena) -> None:
    """Only regular files of limited size are read, no links, pipes or devices; the next step gets a clean file."""
    arena.lose_agent("web-2")
    before = descriptors(arena.agent_process("web-1").pid)
    memory = Peak(lambda: memory_bytes(arena.agent_process("web-1").pid))
    then = '      - if: always()\n        run: test -f "$WATERFLOW_OUTPUT" && test ! -s "$WATERFLOW_OUTPUT" && echo "$PATH"\n'
    runs = {name: arena.start(job(script, then=then)) for name, (script, _) in HOSTILE_OUTPUTS.items()}
    for name, (_, conclusion) in HOSTILE_OUTPUTS.items():
        found = arena.wait_for(runs[name])
        memory.look()
        one, following = found["jobs"][0]["steps"]
        assert one["conclusion"] == conclusion, (name, one)
        assert following["conclusion"] == "success", (name, following)
        assert "root:" not in json.dumps(found), name
        assert "/x" not in arena.lines(runs[name], count=1)[-1].split(":"), name
    assert memory.growth < 64 * MIB, f"the agent grew by {memory.growth / MIB:.1f} MiB"
    wait_until(lambda: descriptors(arena.agent_process("web-1").pid) <= before + 4, "the agent to close what it opened")
    assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"


def test_a_step_that_removes_its_agent_s_files_harms_only_that_agent(arena: Arena) -> None:
    """A step that runs as the agent's user may ruin its agent, but nothing else: the other agent keeps working."""
    arena.lose_agent("web-2")
    run = arena.start(job('rm -rf "$(dirname "$WATERFLOW_OUTPUT")/../../"*\necho done'))
    wait_until(lambda: not living.found(arena.agent_dir("web-1"), "journal/*"), "the files to be gone")
    arena.start_agent("web-2")

    other = arena.start(GOOD)

    assert arena.wait_for(other)["conclusion"] == "success"
    with contextlib.suppress(AssertionError):
        arena.wait_for(run, 3)
    assert arena.is_daemon_ready()
    assert os.path.isdir(arena.daemon_dir)
