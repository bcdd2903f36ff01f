"""The daemon's credential for Vault: a token, or the secret id of its role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from waterflow_agent.errors import Rejected
from waterflowd.secrets import key_file


def reader(kind: str, file: str, environment: Mapping[str, str], data_dir: Path) -> Callable[[], str]:
    """A function that reads the key of this kind (`token` or `secret-id`). It blocks, and raises `Rejected` WF622.

    The order is the environment variable `WATERFLOWD_VAULT_<KIND>`, the systemd credential `vault-<kind>`, the configured file.
    """
    variable = f"WATERFLOWD_VAULT_{kind.replace('-', '_').upper()}"
    credential = f"vault-{kind}"

    def read() -> str:
        if environment.get(variable):
            return _checked(environment[variable], f"the environment variable {variable}")
        if directory := environment.get("CREDENTIALS_DIRECTORY"):
            path = Path(directory, credential)
            if path.exists():
                return _checked(
                    key_file.read(path, f"the credential {credential}", data_dir), f"the credential {credential}"
                )
        if file:
            return _checked(key_file.read(Path(file), f"vault.{kind}-file", data_dir), file)
        raise Rejected(
            "WF622", f"no {kind} for Vault: set {variable}, the credential {credential}, or vault.{kind}-file"
        )

    return read


def _checked(text: str, source: str) -> str:
    key = text.strip()
    # The HTTP library would quote anything else in its error.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Rejected("WF622", f"{source} does not hold a Vault key: expected one word")
    return key
