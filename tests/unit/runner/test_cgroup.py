"""What a runner writes into its own control group, checked with plain files."""

from __future__ import annotations

from pathlib import Path

from waterflow_agent.runner.cgroup import GroupTree, StepGroup


def test_controllers_stay_off_until_a_step_has_limits(tmp_path: Path) -> None:
    """systemd cannot start a new runner beside an old step if the unit's group delegates controllers."""
    top = tmp_path / "waterflow-label"
    for folder in (top / "runner", top / "step-1"):
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").touch()
    (top / "step-1" / "pids.max").touch()
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    switches = [cgroup / "cgroup.subtree_control" for cgroup in (tmp_path, top)]
    for switch in switches:
        switch.touch()

    tree = GroupTree(str(tmp_path), str(tmp_path), "label")
    group = StepGroup(str(top / "step-1"), tree)
    group.limit({})
    assert [switch.read_text() for switch in switches] == ["", ""]

    group.limit({"processes": 100})
    assert all("+pids" in switch.read_text() for switch in switches)
    assert (top / "step-1" / "pids.max").read_text() == "100"
