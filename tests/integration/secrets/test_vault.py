"""The Vault client against a real server (OpenBao): both engines, both ways to authenticate, and rejected requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.secrets import openbao
from tests.integration.secrets.openbao import ROOT_TOKEN, OpenBao
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.secrets import vault_key
from waterflowd.secrets.vault import Vault
from waterflowd.secrets.vault_settings import VaultSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

VALUE = "s3cret-of-vault"


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One server for all tests in this file; each test uses its own paths."""
    with openbao.serving(pytestconfig, tmp_path_factory.mktemp("openbao")) as running:
        yield running


Connect = Callable[..., Vault]


@pytest.fixture
async def connect(server: OpenBao) -> AsyncIterator[Connect]:
    """Creates clients; `key` is the token or the secret id, everything else is settings."""
    made: list[Vault] = []

    def make(
        key: str | Callable[[], str] = ROOT_TOKEN, monotonic: Callable[[], float] | None = None, **changes: Any
    ) -> Vault:
        settings = msgspec.structs.replace(
            VaultSettings(
                address=server.address,
                mount="secret",
                version=2,
                namespace="",
                ca_file=str(server.ca_file),
                role_id="",
                approle_mount="approle",
                timeout_s=60,
                cache_s=60,
                fields={},
            ),
            **changes,
        )
        read = key if callable(key) else lambda: key
        made.append(Vault(settings, read, monotonic) if monotonic is not None else Vault(settings, read))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def refused(vault: Vault, path: str) -> Rejected:
    """Returns the error of a read that fails permanently."""
    with pytest.raises(Rejected) as raised:
        await vault.read(path)
    assert VALUE not in str(raised.value)
    return raised.value


async def test_version_2_gives_the_newest_version(server: OpenBao, connect: Connect) -> None:
    """Strings are unchanged, numbers and booleans are JSON; lists and maps are omitted."""
    server.put("apps/v2", key="old")
    server.put("apps/v2", key=VALUE, port=5432, tls=True, many=["a"], none=None, text="two\nlines ünd")
    vault = connect()
    values, cache_s = await vault.read("apps/v2")
    assert values == {"key": VALUE, "port": "5432", "tls": "true", "text": "two\nlines ünd"}
    assert cache_s == 60


async def test_a_missing_or_deleted_secret_has_no_value(server: OpenBao, connect: Connect) -> None:
    """A missing path, version or engine has the same result as an unknown name."""
    server.put("apps/deleted", key=VALUE)
    server.ask("DELETE", "/secret/data/apps/deleted")
    vault = connect()
    assert (await vault.read("apps/deleted"))[0] == {}
    assert (await vault.read("apps/never"))[0] == {}
    assert (await connect(mount="no-engine").read("apps/never"))[0] == {}


async def test_version_1_gives_the_fields_for_at_most_their_lease(server: OpenBao, connect: Connect) -> None:
    """The field `ttl` is the lease; one that is longer than the cache time changes nothing."""
    server.ask("POST", "/sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    server.ask("POST", "/kv1/apps/short", {"key": VALUE, "ttl": "30s"})
    server.ask("POST", "/kv1/apps/long", {"key": VALUE})
    vault = connect(mount="kv1", version=1)
    values, cache_s = await vault.read("apps/short")
    assert (values["key"], cache_s) == (VALUE, 30)
    assert (await vault.read("apps/long"))[1] == 60


async def test_the_wrong_engine_version_never_gives_a_value(server: OpenBao, connect: Connect) -> None:
    """The result is empty or an error."""
    server.put("apps/version", key=VALUE)
    assert (await connect(version=1).read("apps/version"))[0] == {}


async def test_a_token_reads_only_what_its_policy_allows(server: OpenBao, connect: Connect) -> None:
    """The error names the path, and contains no text of the response."""
    server.put("apps/mine", key=VALUE)
    server.put("apps/others", key=VALUE)
    server.policy("mine", "secret/data/apps/mine")
    vault = connect(server.token("mine"))
    assert (await vault.read("apps/mine"))[0] == {"key": VALUE}
    assert "path apps/others (status 403)" in (await refused(vault, "apps/others")).text
    assert (await refused(connect("no-such-token"), "apps/mine")).code == "WF626"


async def test_the_token_file_is_read_for_each_request(server: OpenBao, connect: Connect, tmp_path: Path) -> None:
    """A token that Vault's agent writes takes effect at once; a file that others can read is refused."""
    server.put("apps/file", key=VALUE)
    file = tmp_path / "token"
    file.touch(mode=0o600)
    vault = connect(vault_key.reader("token", str(file), {}, tmp_path / "data"))
    file.write_text("revoked")
    assert "403" in (await refused(vault, "apps/file")).text
    file.write_text(f"{ROOT_TOKEN}\n")
    assert (await vault.read("apps/file"))[0] == {"key": VALUE}
    file.chmod(0o644)
    assert "can be read by other users" in (await refused(vault, "apps/file")).text


class Role:
    """An AppRole whose tokens live for a minute."""

    def __init__(self, server: OpenBao, name: str, path: str) -> None:
        if "approle/" not in server.ask("GET", "/sys/auth"):
            server.ask("POST", "/sys/auth/approle", {"type": "approle"})
        server.policy(name, f"secret/data/{path}")
        body = {"token_policies": [name], "token_ttl": "60s", "token_max_ttl": "60s"}
        server.ask("POST", f"/auth/approle/role/{name}", body)
        self.id = server.ask("GET", f"/auth/approle/role/{name}/role-id")["data"]["role_id"]
        self.secret_id = server.ask("POST", f"/auth/approle/role/{name}/secret-id")["data"]["secret_id"]
        self._server = server

    def revoke_tokens(self) -> None:
        """Revokes all tokens that AppRole has issued."""
        self._server.ask("PUT", "/sys/leases/revoke-prefix/auth/approle")


async def test_a_role_logs_in_and_again_before_its_token_expires(server: OpenBao, connect: Connect) -> None:
    """One login for many reads, and a new one after two thirds of the token's time to live."""
    server.put("apps/role", key=VALUE)
    role = Role(server, "web", "apps/role")
    now, logins = [0.0], [0]

    def key() -> str:
        logins[0] += 1
        return str(role.secret_id)

    vault = connect(key, lambda: now[0], role_id=role.id)
    for at, expected in ((0, 1), (39, 1), (41, 2)):
        now[0] = at
        assert (await vault.read("apps/role"))[0] == {"key": VALUE}
        assert logins[0] == expected


async def test_a_role_whose_token_was_revoked_logs_in_again(server: OpenBao, connect: Connect) -> None:
    """A refused AppRole token causes a new login; if the fresh token is refused too, the refusal is final."""
    server.put("apps/revoked", key=VALUE)
    role = Role(server, "revoked", "apps/revoked")
    vault = connect(role.secret_id, role_id=role.id)
    assert (await vault.read("apps/revoked"))[0] == {"key": VALUE}
    role.revoke_tokens()
    assert (await vault.read("apps/revoked"))[0] == {"key": VALUE}
    assert "403" in (await refused(vault, "apps/role")).text
    assert "the role login" in (await refused(connect("wrong", role_id=role.id), "apps/revoked")).text


async def test_a_namespace_has_separate_secrets(server: OpenBao, connect: Connect) -> None:
    """The same path in another namespace is another secret."""
    server.ask("PUT", "/sys/namespaces/team")
    server.ask("POST", "/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, namespace="team")
    server.put("apps/where", key="of the root")
    server.ask("POST", "/secret/data/apps/where", {"data": {"key": VALUE}}, namespace="team")
    assert (await connect(namespace="team").read("apps/where"))[0] == {"key": VALUE}
    assert (await connect().read("apps/where"))[0] == {"key": "of the root"}


async def test_an_untrusted_server_gets_no_token(connect: Connect) -> None:
    """The error says that the certificate is the problem."""
    vault = connect(ca_file="")
    with pytest.raises(Retryable, match="CERTIFICATE_VERIFY_FAILED"):
        await vault.read("apps/v2")


async def test_an_invalid_ca_file_is_reported_with_its_key(connect: Connect, tmp_path: Path) -> None:
    """The error is raised before anything is sent."""
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "vault.ca-file" in (await refused(connect(ca_file=str(tmp_path / "ca.pem")), "apps/v2")).text
    assert "vault.ca-file" in (await refused(connect(ca_file=str(tmp_path / "none.pem")), "apps/v2")).text


async def test_a_sealed_server_is_retried(server: OpenBao, connect: Connect) -> None:
    """Once it is unsealed, secrets are read again."""
    server.put("apps/sealed", key=VALUE)
    vault = connect()
    server.seal()
    try:
        with pytest.raises(Retryable, match=r"sealed .*503"):
            await vault.read("apps/sealed")
    finally:
        server.unseal()
    values: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE_S):
        while not values:
            # Its engines take a moment after the unsealing.
            with contextlib.suppress(Retryable):
                values, _ = await vault.read("apps/sealed")
            await asyncio.sleep(0.02)
    assert values == {"key": VALUE}
