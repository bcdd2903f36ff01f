"""Sources of settings, their precedence, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent import config
from waterflow_agent.errors import Rejected


def load(tmp_path: Path, text: str = "", **more: object) -> config.Config:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return config.load(path, environment=more.pop("environment", {}), **more)  # type: ignore[arg-type]


def test_every_key_of_a_file_is_read(tmp_path: Path) -> None:
    """The test uses the documented file."""
    loaded = load(
        tmp_path,
        """
        name = "web-1"
        server = "tcp://waterflow.example.org:7233"
        join-token-file = "/etc/waterflow/join-token"
        groups = ["web-servers"]
        slots = 8
        data-dir = "/var/lib/waterflow-agent"
        labels = { zone = "a" }
        """,
    )

    assert (loaded.name, loaded.slots, loaded.groups, loaded.labels) == ("web-1", 8, ["web-servers"], {"zone": "a"})
    assert config.enroll_endpoint(loaded) == "tcp://waterflow.example.org:7234"


def test_the_server_may_have_several_addresses(tmp_path: Path) -> None:
    """In a list, or separated by commas, as on the command line and in the environment; each host has its enrollment port."""
    both = "tcp://a.example:7300,tcp://[::1]:7300"
    for loaded in (
        load(tmp_path, 'server = ["tcp://a.example:7300", "tcp://[::1]:7300"]'),
        load(tmp_path, f'server = "{both}"'),
        load(tmp_path, environment={"WATERFLOW_AGENT_SERVER": both}),
        load(tmp_path, overrides={"server": both}),
    ):
        assert loaded.server == both
        assert config.enroll_endpoint(loaded) == "tcp://a.example:7234,tcp://[::1]:7234"
    named = load(tmp_path, f'server = "{both}"\nenroll-server = ["tcp://c.example:1", "tcp://d.example:2"]')
    assert config.enroll_endpoint(named) == "tcp://c.example:1,tcp://d.example:2"


def test_order_of_precedence(tmp_path: Path) -> None:
    """The command line precedes the environment, the environment the file, and the file the defaults."""
    text = 'name = "file"\nslots = 2\ndata-dir = "/file"\n'
    environment = {"WATERFLOW_AGENT_NAME": "environment", "WATERFLOW_AGENT_SLOTS": "3"}

    loaded = load(tmp_path, text, environment=environment, overrides={"name": "line", "server": None})

    assert (loaded.name, loaded.slots, loaded.data_dir, loaded.log_level) == ("line", 3, "/file", "info")


def test_lists_in_the_environment_are_separated_by_commas(tmp_path: Path) -> None:
    """Groups and labels are separated by commas; SERVER_GROUP is the short name."""
    environment = {"SERVER_GROUP": "web-servers", "WATERFLOW_AGENT_LABELS": "zone=a, rack=7"}

    loaded = load(tmp_path, environment=environment)
    both = load(tmp_path, environment=environment | {"WATERFLOW_AGENT_GROUPS": "a,b"})

    assert (loaded.groups, loaded.labels) == (["web-servers"], {"zone": "a", "rack": "7"})
    assert both.groups == ["a", "b"]


def test_the_node_path_is_a_list_of_directories(tmp_path: Path) -> None:
    """In the environment they are separated by colons, like PATH."""
    named = load(tmp_path, 'node-path = ["/etc/nodes"]\n')
    several = load(tmp_path, environment={"WATERFLOW_AGENT_NODE_PATH": "/a:/b:"})

    assert (named.node_path, several.node_path) == (["/etc/nodes"], ["/a", "/b"])


def test_environment_can_name_the_file(tmp_path: Path) -> None:
    """Some services cannot change their command line."""
    path = tmp_path / "other.toml"
    path.write_text("slots = 9\n")

    assert config.load(environment={"WATERFLOW_AGENT_CONFIG": str(path)}).slots == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\n\nslot = 3\n', ':3: unknown key "slot" (did you mean "slots"?)'),
        ("[section]\nx = 1\n", ':1: unknown key "section"'),
        ('name = "a"\nslots = "many"\n', ":2: "),
        ("\nslots = 0\n", "agent.toml:2: slots: expected 1 to"),
        ('node-path = ["nodes"]\n', "node-path: expected absolute directories"),
        ('server = "example.org"\n', "server: expected tcp://host:port"),
        ('server = ["tcp://a:1", "example.org"]\n', "server: expected tcp://host:port, found 'example.org'"),
        ('server = "tcp://a:1;tcp://b:1"\n', "server: expected tcp://host:port"),
        ('name = "a"\nserver = [1]\n', "agent.toml:2: "),
        (f"server = {[f'tcp://h{n}:1' for n in range(17)]}\n", "server: expected at most 16 addresses, found 17"),
        ('enroll-server = ["x"]\n', "enroll-server: expected tcp://host:port"),
        ('name = "no spaces please"\n', "name: expected"),
        ('name = "SHA256:uYfNqd1c"\n', "looks like a fingerprint; choose another name"),
        ('name = "sha256-uYfNqd1c"\n', "looks like a fingerprint; choose another name"),
        ('runner = "other"\n', "runner: expected"),
        ('server-key = "short"\n', "server-key: expected"),
        ("name = \n", "agent.toml: "),
        ('name = "a"\nlog-level = "loud"\n', "agent.toml:2: log-level: expected"),
    ],
)
def test_mistake_is_reported_with_its_location(tmp_path: Path, text: str, message: str) -> None:
    """The message has the line if there is one, and always the key."""
    with pytest.raises(Rejected) as caught:
        load(tmp_path, text)

    assert message in caught.value.text
    assert caught.value.code == "WF620"


@pytest.mark.parametrize(
    "environment",
    [
        {"WATERFLOW_AGENT_SLOTS": "many"},
        {"WATERFLOW_AGENT_LABELS": "zone"},
        {"WATERFLOW_AGENT_CONFIG": "/no/such/file"},
    ],
)
def test_mistake_in_the_environment_names_the_variable(tmp_path: Path, environment: dict[str, str]) -> None:
    """If the variable names a file that does not exist, the message may have the file's path instead."""
    with pytest.raises(Rejected) as caught:
        config.load(environment=environment)

    assert any(part in caught.value.text for part in (*environment, "/no/such/file"))


def test_name_defaults_to_the_host(tmp_path: Path) -> None:
    """The default is always valid."""
    assert load(tmp_path).name
