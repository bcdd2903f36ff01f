"""The configuration: precedence of its four sources, and errors with their location and a suggestion."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import RepositoryLimits, RepositoryQuotas
from waterflowd.app import config

WHOLE = """
data-dir = "/data"
log = { level = "debug", format = "json" }

[api]
listen = "127.0.0.1:9000"
open = true
socket = ""
socket-role = "none"
socket-users = { "1000" = "viewer" }
requests-per-second = 0

[agents]
listen = "tcp://0.0.0.0:7000"
enroll-listen = "tcp://0.0.0.0:7001"
lost-after = "1h30m"
address = "wf.example"

[[repositories]]
name = "ops"
url = "file:///srv/ops.git"
refs = ["main"]
paths = ["workflows"]
interval = "30s"
groups = ["web", "db"]

[[repositories]]
name = "apps"
url = "/srv/apps.git"
"""


def load(text: str, tmp_path: Path, environment: dict[str, str] | None = None, **overrides: Any) -> config.Config:
    file = tmp_path / "waterflowd.toml"
    file.write_text(text)
    return config.load(file, overrides=overrides, environment=environment or {})


def refusal(text: str, tmp_path: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(Rejected) as refused:
        load(text, tmp_path, environment)
    assert refused.value.code in ("WF620", "WF621")
    return refused.value.text


def test_every_key_of_the_file_is_read(tmp_path: Path) -> None:
    """The file has all tables, with hyphens in keys."""
    found = load(WHOLE, tmp_path)
    assert (found.data_dir, found.log.level) == ("/data", "debug")
    assert (found.api.listen, found.api.open, found.api.socket) == ("127.0.0.1:9000", True, "")
    assert found.agents.lost_after_ms == 5_400_000
    ops, apps = found.repository_settings
    assert (ops.name, ops.refs, ops.paths, ops.interval_ms, ops.groups) == (
        "ops",
        ("main",),
        ("workflows",),
        30_000,
        ("web", "db"),
    )
    assert (apps.interval_ms, apps.groups) == (60_000, ("*",))


def test_a_repository_has_the_common_quotas_unless_it_has_its_own(tmp_path: Path) -> None:
    """A repository that is not in the configuration has the common ones too."""
    text = '[quotas]\nruns-per-hour = 5\n[[repositories]]\nname = "a"\nurl = "/a"\n[[repositories]]\nname = "b"\nurl = "/b"\n'
    found = load(text + "quotas = { output-bytes-per-hour = 0 }\n", tmp_path)
    quotas = RepositoryQuotas(*config.repository_limits(found))
    common = RepositoryLimits(runs_per_hour=5, output_bytes_per_hour=1 << 30)
    assert [quotas.limits(name) for name in ("a", "b", "gone", None)] == [
        common,
        RepositoryLimits(runs_per_hour=5),
        common,
        common,
    ]


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ("{ runs = 1 }", "repositories.a.quotas.runs: unknown quota; known: runs-per-hour, output-bytes-per-hour"),
        ("{ runs-per-hour = -1 }", "repositories.a.quotas.runs-per-hour: expected 0 (no limit) to "),
    ],
)
def test_an_invalid_quota_is_reported_with_its_repository(tmp_path: Path, quotas: str, message: str) -> None:
    """Its name or its value."""
    with pytest.raises(Rejected) as refused:
        load(f'[[repositories]]\nname = "a"\nurl = "/a"\nquotas = {quotas}\n', tmp_path)
    assert refused.value.text.startswith(f"{tmp_path}/waterflowd.toml:4: {message}")


def test_an_empty_configuration_is_valid(tmp_path: Path) -> None:
    """Every key has a valid default."""
    assert load("", tmp_path) == config.Config()


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    """Each source overrides the following ones; an option that is not set overrides nothing."""
    environment = {"WATERFLOWD_DATA_DIR": "/environment", "WATERFLOWD_API_LISTEN": "127.0.0.1:1"}
    text = 'data-dir = "/file"\nlog.level = "error"\n[api]\nlisten = "127.0.0.1:2"\nsocket = "/file.sock"\n'
    found = load(text, tmp_path, environment, **{"data-dir": "/command", "api.listen": None})
    assert found.data_dir == "/command"
    assert found.api.listen == "127.0.0.1:1"
    assert found.api.socket == "/file.sock"
    assert found.log.level == "error"
    assert found.agents == config.AgentsTable()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_booleans_in_the_environment_are_parsed(tmp_path: Path, text: str, value: bool) -> None:
    """The environment contains only text."""
    assert load("", tmp_path, {"WATERFLOWD_API_OPEN": text}).api.open is value


def test_an_invalid_value_in_the_environment_names_its_variable(tmp_path: Path) -> None:
    """The message does not name the file."""
    assert "WATERFLOWD_API_OPEN" in refusal("", tmp_path, {"WATERFLOWD_API_OPEN": "perhaps"})


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    """`WATERFLOWD_CONFIG` is used without an argument, and must exist."""
    file = tmp_path / "other.toml"
    file.write_text('data-dir = "/other"')
    assert config.load(environment={"WATERFLOWD_CONFIG": str(file)}).data_dir == "/other"
    with pytest.raises(Rejected, match="cannot read"):
        config.load(environment={"WATERFLOWD_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        ('data-dri = "/x"\n', 1, "data-dir"),
        ('data_dir = "/x"\n', 1, "data-dir"),
        ('\n[api]\nlisten = "127.0.0.1:1"\nopn = true\n', 4, "open"),
        ('[agents]\n\nlost-aftre = "1m"\n', 3, "lost-after"),
        (
            '[[repositories]]\nname = "a"\nurl = "/a"\n[[repositories]]\nname = "b"\nurl = "/b"\nintreval = "1m"\n',
            7,
            "interval",
        ),
        ("[agent]\n", 1, "agents"),
        ("[[repository]]\n", 1, "repositories"),
        ("api = {opn = true}\n", 1, "open"),
        ("\n\napi.opn = true\n", 3, "open"),
        ('\n"lsiten" = 1\n[api]\n', 2, ""),
    ],
)
def test_an_unknown_key_is_reported_with_its_line_and_a_suggestion(
    tmp_path: Path, text: str, line: int, meant: str
) -> None:
    """This holds in every table and in every notation."""
    reported = refusal(text, tmp_path)
    assert f"waterflowd.toml:{line}: unknown key" in reported
    assert not meant or f'did you mean "{meant}"' in reported


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("data-dir = 5\n", ":1"),
        ("\n[api]\nopen = 'yes'\n", ":3"),
        ("api = 7\n", ":1"),
        ("[[repositories]]\nname = 'a'\nurl = '/a'\nrefs = 'main'\n", ":4"),
        ("[repositories]\n", ":1"),
        ("[[repositories]]\nname = 'a'\n", ":1"),
        ("= nonsense", "waterflowd.toml"),
        ("data-dir = '\x00'", "waterflowd.toml"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported_with_its_location(tmp_path: Path, text: str, location: str) -> None:
    """The cases are a text instead of a list, a missing key, and invalid TOML."""
    assert location in refusal(text, tmp_path)


def test_a_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    """The error has a readable message."""
    file = tmp_path / "waterflowd.toml"
    file.write_bytes(b"data-dir = '\xff'")
    with pytest.raises(Rejected, match=re.escape(str(file))):
        config.load(file, environment={})
    with pytest.raises(Rejected, match="cannot read"):
        config.load(tmp_path, environment={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[api]\nlisten = '8080'\n", "api.listen"),
        ("[api]\nlisten = '127.0.0.1:99999'\n", "api.listen"),
        ("[agents]\nlisten = '0.0.0.0:7233'\n", "agents.listen"),
        ("[agents]\nenroll-listen = 'tcp://0.0.0.0:70000'\n", "agents.enroll-listen"),
        ("[agents]\nlost-after = 'soon'\n", "agents.lost-after"),
        ("[agents]\nlost-after = '1ms'\n", "too short"),
        ("[[repositories]]\nname = 'a'\nurl = '/a'\ninterval = '1x'\n", "repositories.a.interval"),
        ("[[repositories]]\nname = 'a b'\nurl = '/a'\n", "invalid name"),
        ("log.level = 'loud'\n", "log.level"),
        ("[log]\nformat = 'xml'\n", "log.format"),
        ("[api]\nurl = 'flow.internal'\n", "api.url"),
        ("[api]\nurl = 'https://flow.internal/waterflow'\n", "api.url"),
        ("[api]\nurl = 'ftp://flow.internal'\n", "api.url"),
        ("[api]\nrequests-per-second = -1\n", "api.requests-per-second"),
        ("data-dir = ''\n", "data-dir"),
        ("engine = 'lmdb'\n", "engine: expected log or temporal, found 'lmdb'"),
        ("engine = 'temporal'\n", 'temporal.address: required with engine = "temporal"'),
        (
            "engine = 'temporal'\n[temporal]\naddress = 'a:1'\n",
            'temporal.payload-keys: required with engine = "temporal"',
        ),
        ("[temporal]\naddress = 'a:1'\n", "temporal.payload-keys: required with temporal.address"),
        ("[temporal]\naddress = 'a'\npayload-keys = '/k'\n", "temporal.address: expected host:port, found 'a'"),
        ("[temporal]\naddress = 'a:99999'\npayload-keys = '/k'\n", "temporal.address"),
        ("[temporal]\nnamespace = 'a b'\n", "temporal.namespace"),
        ("[temporal]\ncert = '/c'\n", "temporal: cert and key must be set together"),
        ("[temporal]\ncert = '/c'\nkey = '/k'\napi-key-file = '/a'\n", "temporal: set either cert and key"),
        ("[temporal]\nobjects = '/srv'\n", "temporal.objects: expected dir:/path or s3://bucket/prefix"),
        ("[temporal]\nname = 'd 1'\n", "temporal.name"),
    ],
)
def test_an_invalid_value_is_reported_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    """It is reported before anything is opened."""
    assert message in refusal(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data-dir = '/x'\n[log]\nlevel = 'loud'\n", "3: log.level: "),
        ("log.format = 'text'\nlog.level = 'loud'\n", "2: log.level: "),
        ("[artifacts]\nreserved-bytes = 1\nkeep = 'soon'\n", "3: artifacts.keep: "),
        (
            "[[repositories]]\nname = 'a'\nurl = '/a'\n[[repositories]]\nname = 'b'\ninterval = '1x'\nurl = '/b'\n",
            "6: repositories.b.interval: ",
        ),
        ("[[repositories]]\nname = 'a b'\nurl = '/a'\n", "1: repositories: "),
        ("[[secrets.grants]]\nsecrets = ['a']\n", "1: secrets.grants, number 1: "),
        ("\n\ndata-dir = ''\n", "3: data-dir "),
    ],
)
def test_an_invalid_value_is_reported_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    """The line of the key, or of its table if the message is about all of it."""
    assert refusal(text, tmp_path).startswith(f"{tmp_path}/waterflowd.toml:{place}")


def test_a_missing_value_is_reported_with_the_file(tmp_path: Path) -> None:
    """There is no line of a table that is not there."""
    assert refusal("\nengine = 'temporal'\n", tmp_path).startswith(f"{tmp_path}/waterflowd.toml: temporal.address: ")


def test_a_value_from_elsewhere_is_not_reported_with_a_line_of_the_file(tmp_path: Path) -> None:
    """The environment overrides the file, so the mistake is there."""
    text = refusal("[log]\nlevel = 'info'\n", tmp_path, {"WATERFLOWD_LOG_LEVEL": "loud"})
    assert text.startswith("WATERFLOWD_LOG_LEVEL: log.level: ")


def test_the_temporal_table_is_read(tmp_path: Path) -> None:
    """With the log engine it may be there as well, so that a cluster can be prepared."""
    text = """
[temporal]
address = "temporal.internal:7233"
namespace = "flows"
ca = "/etc/waterflow/ca.pem"
cert = "/etc/waterflow/cert.pem"
key = "/etc/waterflow/cert.key"
payload-keys = "/etc/waterflow/payload.keys"
objects = "s3://bucket/waterflow"
name = "d1"
"""
    found = load(text, tmp_path, {"WATERFLOWD_TEMPORAL_NAMESPACE": "other"})
    assert (found.engine, found.temporal.address, found.temporal.namespace) == (
        "log",
        "temporal.internal:7233",
        "other",
    )
    assert load('engine = "temporal"\n' + text, tmp_path).engine == "temporal"
    for objects in ("dir:/srv/waterflow", "s3://bucket"):
        assert load(f'[temporal]\nobjects = "{objects}"\n', tmp_path).temporal.objects == objects


def test_repository_names_are_unique(tmp_path: Path) -> None:
    """Otherwise they would share a stream."""
    one = "[[repositories]]\nname = 'ops'\nurl = '/a'\n"
    assert 'duplicate name "ops"' in refusal(one + one, tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "address", "reported"),
    [
        ("tcp://127.0.0.1:7233", "", "tcp://127.0.0.1:7233"),
        ("tcp://0.0.0.0:7233", "wf.example", "tcp://wf.example:7233"),
        ("tcp://0.0.0.0:7233", "", f"tcp://{socket.gethostname()}:7233"),
        ("tcp://*:7233", "", f"tcp://{socket.gethostname()}:7233"),
        ("tcp://[::]:7233", "", f"tcp://{socket.gethostname()}:7233"),
        ("tcp://[::]:7233", "2001:db8::1", "tcp://[2001:db8::1]:7233"),
        ("tcp://[::]:7233", "[2001:db8::1]", "tcp://[2001:db8::1]:7233"),
        ("tcp://[2001:db8::2]:7233", "", "tcp://[2001:db8::2]:7233"),
        ("tcp://0.0.0.0:7233", "wf.example, 2001:db8::1", "tcp://wf.example:7233,tcp://[2001:db8::1]:7233"),
    ],
)
def test_a_join_token_names_an_address_that_others_can_reach(endpoint: str, address: str, reported: str) -> None:
    """These are the configured ones, or the one in `listen`, or the name of this host, always with the bound port."""
    assert config.advertised(endpoint, address) == reported


def test_a_join_token_has_a_limited_number_of_addresses(tmp_path: Path) -> None:
    """An agent would accept no more of them."""
    many = ",".join(f"h{number}" for number in range(17))
    assert "agents.address: expected at most 16 addresses" in refusal(f'[agents]\naddress = "{many}"', tmp_path)


VAULT = """[vault]
address = "https://vault.example.org:8200"
{lines}
[vault.secrets]
DEPLOY-KEY = "apps/web#deploy_key"
"""


def _load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "waterflowd.toml"
    path.write_text(text)
    return config.load(path, environment={})


def test_the_vault_table_becomes_its_settings(tmp_path: Path) -> None:
    """Durations are converted to seconds."""
    loaded = _load(tmp_path, VAULT.format(lines='cache = "5m"\nkv-version = 1')).vault.settings
    assert loaded.fields == {"deploy_key": ("apps/web", "deploy_key")}
    assert (loaded.cache_s, loaded.timeout_s, loaded.version, loaded.mount) == (300, 10, 1, "secret")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("https://vault", "http://vault", "vault.address: http would expose"),
        ("https://vault.example.org:8200", "vault.example.org", "vault.address: expected https://host:port"),
        ("https://vault", "https://user:pass@vault", "vault.address: expected https://host:port"),
        (":8200", ":8200/v1", "vault.address: expected https://host:port"),
        ("{lines}", "kv-version = 3", "vault.kv-version: expected 1 or 2"),
        ("{lines}", 'mount = "../sys"', "vault.mount: expected"),
        ("{lines}", 'cache = "1s"', "vault.cache: expected 5s to 1h"),
        ("{lines}", 'timeout = "1h"', "vault.timeout: expected"),
        ("{lines}", 'timeout = "soon"', "is not a duration"),
        ("apps/web#deploy_key", "apps/web", 'DEPLOY-KEY: expected "path#field"'),
        ("apps/web#deploy_key", "apps/../../sys/raw#x", 'DEPLOY-KEY: expected "path#field"'),
        ("apps/web#deploy_key", "/apps/web#x", 'DEPLOY-KEY: expected "path#field"'),
        ("apps/web#deploy_key", "apps/web?list=true#x", 'DEPLOY-KEY: expected "path#field"'),
        ('DEPLOY-KEY = "apps/web#deploy_key"', "", "vault.secrets: expected 1 to"),
        ('address = "https://vault.example.org:8200"', "", "vault.address is required when vault.secrets is set"),
        ("{lines}", "token = 5", 'unknown key "token"'),
    ],
)
def test_errors_of_the_vault_table_name_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """They are reported before any request; the file cannot contain a token."""
    with pytest.raises(Rejected) as raised:
        _load(tmp_path, VAULT.replace(old, new).replace("{lines}", ""))
    assert raised.value.code == "WF620"
    assert message in raised.value.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('age-files = ["a.age"]', "must be set together"),
        ('age-identity-file = "/k"', "must be set together"),
        ('age-files = ["a.toml"]\nage-identity-file = "/k"', "end in .age"),
        ('age-files = ["/etc/a.age"]\nage-identity-file = "/k"', "paths in the repository"),
        ('age-files = ["../a.age"]\nage-identity-file = "/k"', "paths in the repository"),
        (f'age-files = {["a.age"] * 21}\nage-identity-file = "/k"', "at most 20 files"),
    ],
)
def test_errors_of_encrypted_files_name_the_repository(tmp_path: Path, lines: str, message: str) -> None:
    """Files and key must be set together, and the files are in the repository."""
    with pytest.raises(Rejected) as raised:
        _load(tmp_path, f'[[repositories]]\nname = "ops"\nurl = "/srv/ops.git"\n{lines}\n')
    assert "repositories.ops" in raised.value.text
    assert message in raised.value.text
