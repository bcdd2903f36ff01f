"""Secrets under a booted systemd: real credentials of the daemon's unit, and encrypted files in its sandbox."""

from __future__ import annotations

from typing import Any

import pyrage
import pytest

from tests.booted.machine import Machine
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

VALUES = {
    "LOADED": "osprey-2718-loaded",
    "SEALED": "heron-3141-sealed",
    "OF_AGE": "lynx-1618-of-age",
}
STEP = """on: {push: {}}
jobs:
  a:
    runs-on: web
    steps:
      - env: {LOADED: "${{ secrets.LOADED }}", SEALED: "${{ secrets.SEALED }}", OF_AGE: "${{ secrets.OF_AGE }}"}
        run: |
          printf '%s\\n' "$LOADED" "$SEALED" "$OF_AGE" | sha256sum | cut -c 1-16
          printf '%s\\n' "$LOADED" "$SEALED" "$OF_AGE"
"""
REPOSITORY = """age-files = ["secrets/OF_AGE.age"]
age-identity-file = "/etc/waterflow/ops.agekey"
[[secrets.grants]]
secrets = ["LOADED", "SEALED", "OF_AGE"]
repositories = ["ops"]
refs = ["main"]
groups = ["web"]
"""


def _give_credentials(machine: Machine) -> None:
    """Sets up credentials as in docs/secrets.md: one in plain text, one encrypted with the machine's own key."""
    machine.root.write("/etc/waterflow/loaded", VALUES["LOADED"] + "\n", 0o600)
    machine.run("systemd-creds", "setup")
    path = "/etc/waterflow/sealed.cred"
    machine.run("systemd-creds", "encrypt", "--name=secret.SEALED", "-", path, stdin=VALUES["SEALED"])
    machine.change(
        "waterflowd",
        f"LoadCredential=secret.LOADED:/etc/waterflow/loaded\nLoadCredentialEncrypted=secret.SEALED:{path}",
    )


def _give_key(machine: Machine) -> pyrage.x25519.Identity:
    """Creates a key that belongs to root, and that the daemon's group may read."""
    identity = pyrage.x25519.Identity.generate()
    machine.root.write("/etc/waterflow/ops.agekey", f"{identity}\n", 0o640)
    machine.run("chgrp", "waterflow", "/etc/waterflow/ops.agekey")
    file = machine.root.inside("/etc/waterflow/waterflowd.toml")
    file.write_text(file.read_text() + REPOSITORY)
    return identity


def _push(machine: Machine, identity: pyrage.x25519.Identity) -> dict[str, Any]:
    """Pushes a workflow and an encrypted file; returns the run when it has completed."""
    machine.run("git", "clone", "--quiet", "/srv/ops.git", "/srv/clone")
    machine.root.write("/srv/clone/workflows/w.yml", STEP)
    sealed = machine.root.inside("/srv/clone/secrets/OF_AGE.age")
    sealed.parent.mkdir()
    sealed.write_bytes(pyrage.encrypt(VALUES["OF_AGE"].encode(), [identity.to_public()]))
    git = ("git", "-C", "/srv/clone", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    machine.run(*git, "add", "--all")
    machine.run(*git, "commit", "--quiet", "--message=Secrets")
    machine.run(*git, "push", "--quiet", "origin", "HEAD:main")
    runs = wait_until(machine.runs, "a run of the push")
    return machine.wait_for(runs[0]["id"])


def test_credentials_of_the_unit_and_encrypted_files_are_secrets(machine: Machine) -> None:
    """Credentials and age files reach the step, are masked, and are in no journal, unit or process."""
    _give_credentials(machine)
    identity = _give_key(machine)
    machine.systemctl("restart", "waterflowd.service")
    wait_until(machine.is_connected, "the agent to be connected")

    found = _push(machine, identity)

    assert found["conclusion"] == "success", (found["jobs"], machine.journal())
    digest = machine.run("sh", "-c", "sha256sum | cut -c 1-16", stdin="".join(f"{v}\n" for v in VALUES.values()))
    wait_until(lambda: len(machine.lines(found["id"])) == 4, "the output")
    assert machine.lines(found["id"]) == [digest.stdout.strip(), "***", "***", "***"]
    reported = machine.run("journalctl", "--no-pager", "--quiet", "--output=verbose").stdout
    displayed = machine.run("systemctl", "show", "waterflowd", "waterflow-agent", "waterflow-runner").stdout
    command_lines = machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    environment = machine.run("cat", f"/proc/{machine.pid('waterflowd')}/environ").stdout
    for value in (*VALUES.values(), str(identity)):
        assert value not in reported
        assert value not in displayed
        assert value not in command_lines
        assert value not in environment
    searched = ("grep", "-rlF", *(f"--regexp={value}" for value in VALUES.values()), "/var/lib")
    wait_until(lambda: machine.run(*searched, check=False).returncode == 1, "no file to hold a value")
