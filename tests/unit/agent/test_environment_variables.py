"""Every key has a variable, by one rule, and messages name it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import waterflow_agent.config
import waterflowd.app.config
from waterflow_agent import environment_variables
from waterflow_agent.environment_variables import NUMBER, Variable
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import shell

OPS = {
    "WATERFLOWD_REPOSITORIES_0_NAME": "ops",
    "WATERFLOWD_REPOSITORIES_0_URL": "/srv/ops.git",
    "WATERFLOWD_REPOSITORIES_0_REFS": "main, tags/v*",
    "WATERFLOWD_REPOSITORIES_0_QUOTAS": "runs-per-hour=50",
}
DAEMON = list(environment_variables.variables(waterflowd.app.config.Config, "WATERFLOWD_"))
AGENT = list(environment_variables.variables(waterflow_agent.config.Config, "WATERFLOW_AGENT_"))


def daemon(environment: Mapping[str, str], **overrides: Any) -> waterflowd.app.config.Config:
    return waterflowd.app.config.load(environment=environment, overrides=overrides)


def agent(environment: Mapping[str, str]) -> waterflow_agent.config.Config:
    return waterflow_agent.config.load(environment=environment)


def refusal(load: Any, environment: Mapping[str, str]) -> str:
    with pytest.raises(Rejected) as refused:
        load(environment)
    assert refused.value.code == "WF620"
    return refused.value.text


def test_a_list_of_tables_is_numbered() -> None:
    """Each key of a table has its own variable, and a list in it is separated by commas."""
    found = daemon(
        OPS | {"WATERFLOWD_REPOSITORIES_1_NAME": "web", "WATERFLOWD_REPOSITORIES_1_URL": "https://git.example/web.git"}
    )

    ops, web = found.repositories
    assert (ops.name, ops.url, ops.refs, ops.quotas) == (
        "ops",
        "/srv/ops.git",
        ("main", "tags/v*"),
        {"runs-per-hour": 50},
    )
    assert (web.name, web.refs) == ("web", ())


@pytest.mark.parametrize(
    "text",
    [
        '[{name = "ops", url = "/srv/ops.git", refs = ["main"]}]',
        '[{"name": "ops", "url": "/srv/ops.git", "refs": ["main"]}]',
    ],
    ids=["toml", "json"],
)
def test_a_list_of_tables_may_be_one_variable(text: str) -> None:
    """In TOML, as in the file, or in JSON, as programs write it."""
    (ops,) = daemon({"WATERFLOWD_REPOSITORIES": text}).repositories

    assert (ops.name, ops.url, ops.refs) == ("ops", "/srv/ops.git", ("main",))


def test_a_table_is_pairs_or_written_out() -> None:
    """Only the written form can have values that are not texts."""
    assert daemon({"WATERFLOWD_API_SOCKET_USERS": "deploy=runner, 1007=none"}).api.socket_users == {
        "deploy": "runner",
        "1007": "none",
    }
    environment = {
        "WATERFLOWD_ENVIRONMENTS_0_NAME": "production",
        "WATERFLOWD_ENVIRONMENTS_0_APPROVERS": "alice,bob",
        "WATERFLOWD_ENVIRONMENTS_0_VARS": '{zone = "a", replicas = 3}',
    }
    (production,) = daemon(environment).environments
    assert (production.approvers, production.vars) == (("alice", "bob"), {"zone": "a", "replicas": 3})


def test_the_environment_replaces_the_lists_of_the_file(tmp_path: Any) -> None:
    """Its tables are not mixed with those of the file; keys of other tables are overridden one by one."""
    file = tmp_path / "waterflowd.toml"
    file.write_text(
        '[api]\nlisten = "127.0.0.1:1"\nopen = true\n[[repositories]]\nname = "a"\nurl = "/a"\nrefs = ["x"]\n'
    )

    found = waterflowd.app.config.load(file, environment=OPS | {"WATERFLOWD_API_LISTEN": "127.0.0.1:2"})

    assert [item.name for item in found.repositories] == ["ops"]
    assert (found.api.listen, found.api.open) == ("127.0.0.1:2", True)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WATERFLOWD_API_OPNE": "true"}, "unknown variable WATERFLOWD_API_OPNE (did you mean WATERFLOWD_API_OPEN?)"),
        (
            OPS | {"WATERFLOWD_REPOSITORIES_0_INTREVAL": "1m"},
            "unknown variable WATERFLOWD_REPOSITORIES_0_INTREVAL (did you mean WATERFLOWD_REPOSITORIES_0_INTERVAL?)",
        ),
        (
            {"WATERFLOWD_REPOSITORIES_0_NAME": "ops"},
            "WATERFLOWD_REPOSITORIES_0_URL is required with the other variables WATERFLOWD_REPOSITORIES_0_...",
        ),
        (
            {"WATERFLOWD_REPOSITORIES_1_URL": "/a"},
            "WATERFLOWD_REPOSITORIES_1_... is set, but WATERFLOWD_REPOSITORIES_0_... is not; number the tables 0, 1, 2 and",
        ),
        (
            OPS | {"WATERFLOWD_REPOSITORIES": "[]"},
            "set either WATERFLOWD_REPOSITORIES or numbered variables such as WATERFLOWD_REPOSITORIES_0_..., not both",
        ),
        ({"WATERFLOWD_REPOSITORIES": "[{name = ops}]"}, "WATERFLOWD_REPOSITORIES: neither JSON nor a TOML value: "),
        (
            {"WATERFLOWD_REPOSITORIES": '[{"name": "a"}]'},
            'WATERFLOWD_REPOSITORIES: [0]: missing key "url"',
        ),
        ({"WATERFLOWD_QUOTAS_RUNS_PER_HOUR": "many"}, "WATERFLOWD_QUOTAS_RUNS_PER_HOUR: expected a whole number"),
        (
            OPS | {"WATERFLOWD_REPOSITORIES_0_QUOTAS": "runs-per-hour"},
            "WATERFLOWD_REPOSITORIES_0_QUOTAS: expected key=value, found 'runs-per-hour'",
        ),
        # Found by the checks of the whole configuration.
        ({"WATERFLOWD_API_LISTEN": "x"}, "WATERFLOWD_API_LISTEN: api.listen: expected host:port"),
        (
            OPS | {"WATERFLOWD_REPOSITORIES_0_INTERVAL": "soon"},
            "WATERFLOWD_REPOSITORIES_0_INTERVAL: repositories.ops.interval: ",
        ),
        (
            OPS | {"WATERFLOWD_REPOSITORIES_0_AGE_FILES": "a.age"},
            "WATERFLOWD_REPOSITORIES_0_...: repositories.ops: age-files and age-identity-file must be set together",
        ),
        (
            {"WATERFLOWD_SECRETS_GRANTS_0_SECRETS": "a"},
            "WATERFLOWD_SECRETS_GRANTS_0_...: secrets.grants, number 1: name repositories",
        ),
    ],
)
def test_a_mistake_names_the_variable(environment: dict[str, str], message: str) -> None:
    """Whether the variable is unknown, or its value is no such value, or is refused with the others."""
    assert refusal(daemon, environment).startswith(message)


def test_the_message_about_an_option_does_not_name_the_variable_that_it_overrides() -> None:
    """The command line precedes the environment."""
    with pytest.raises(Rejected, match=r"^api\.listen: expected host:port"):
        daemon({"WATERFLOWD_API_LISTEN": "127.0.0.1:1"}, **{"api.listen": "x"})


@pytest.mark.parametrize(
    "environment",
    [
        {
            "WATERFLOWD_SERVICE_HOST": "10.0.0.1",
            "WATERFLOWD_SERVICE_PORT_API": "8080",
            "WATERFLOWD_PORT": "tcp://10.0.0.1:1",
        },
        {"WATERFLOWD_API_PORT_8080_TCP_ADDR": "10.0.0.1", "WATERFLOWD_API_PORT_8080_TCP": "tcp://10.0.0.1:8080"},
        {"WATERFLOWD_GIT_TOKEN_OPS": "x", "WATERFLOWD_VAULT_TOKEN": "x", "WATERFLOWD_VAULT_SECRET_ID": "x"},
        {"WATERFLOWD_SECRETS_ENV_PREFIX": "WATERFLOWD_HIDDEN_", "WATERFLOWD_HIDDEN_KEY": "x"},
    ],
    ids=["service", "other-service", "credentials", "secrets"],
)
def test_variables_of_others_are_no_mistakes(environment: dict[str, str]) -> None:
    """Kubernetes adds some for a service called waterflowd, and secrets are not keys."""
    daemon(environment)


def test_the_short_names_of_the_image() -> None:
    """WATERFLOW_SERVER may be a host alone. SERVER_GROUP may have several groups. The full names precede them."""
    short = {"WATERFLOW_SERVER": "wf.example", "SERVER_GROUP": "web-servers,db", "WATERFLOW_AGENT_SHORT_NAMES": "true"}

    found = agent(short)
    both = agent(short | {"WATERFLOW_AGENT_SERVER": "tcp://other:1", "WATERFLOW_AGENT_GROUPS": "a"})

    assert (found.server, found.groups) == ("tcp://wf.example:7233", ["web-servers", "db"])
    assert (both.server, both.groups) == ("tcp://other:1", ["a"])


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("tcp://wf.example:7000", "tcp://wf.example:7000"),
        ("wf.example:7000", "tcp://wf.example:7000"),
        ("tcp://wf.example", "tcp://wf.example:7233"),
        ("::1", "tcp://[::1]:7233"),
        ("[::1]:7000", "tcp://[::1]:7000"),
        ("a, b:1", "tcp://a:7233,tcp://b:1"),
    ],
)
def test_the_short_address_may_omit_scheme_and_port(text: str, server: str) -> None:
    """Several are separated by commas, as everywhere."""
    assert agent({"WATERFLOW_SERVER": text, "WATERFLOW_AGENT_SHORT_NAMES": "1"}).server == server


def test_the_address_of_the_api_is_refused_by_the_image_and_ignored_elsewhere() -> None:
    """WATERFLOW_SERVER is also the variable of waterflowctl."""
    environment = {"WATERFLOW_SERVER": "http://wf.example:8080"}

    assert agent(environment).server == ""
    text = refusal(agent, environment | {"WATERFLOW_AGENT_SHORT_NAMES": "true"})
    assert text.startswith("WATERFLOW_SERVER: expected the daemon's port for agents, such as tcp://")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WATERFLOW_AGENT_SLOTS": "0"}, "WATERFLOW_AGENT_SLOTS: slots: expected 1 to 1024, found 0"),
        (
            {"WATERFLOW_AGENT_SOLTS": "1"},
            "unknown variable WATERFLOW_AGENT_SOLTS (did you mean WATERFLOW_AGENT_SLOTS?)",
        ),
        ({"SERVER_GROUP": "[web"}, "SERVER_GROUP: neither JSON nor a TOML value"),
        ({"DOCKER_HOST": "/var/run/docker.sock"}, "DOCKER_HOST: docker-host: expected unix:///path"),
    ],
)
def test_a_mistake_of_the_agent_names_the_variable_that_is_set(environment: dict[str, str], message: str) -> None:
    """Also by its short name."""
    assert refusal(agent, environment).startswith(message)


def test_the_engine_may_be_named_as_docker_does() -> None:
    """The agent's own variable precedes it."""
    assert agent({"DOCKER_HOST": "unix:///run/a.sock"}).docker_host == "unix:///run/a.sock"
    assert agent({"DOCKER_HOST": "unix:///a", "WATERFLOW_AGENT_DOCKER_HOST": "unix:///b"}).docker_host == "unix:///b"


def test_steps_inherit_the_configured_engine() -> None:
    """The file may name it too; without the key, they inherit what the agent has."""
    own = {"PATH": "/bin", "DOCKER_CERT_PATH": "/certs"}

    configured = waterflow_agent.config.environment_of_agent(waterflow_agent.config.Config(docker_host="ssh://b"), own)
    plain = waterflow_agent.config.environment_of_agent(waterflow_agent.config.Config(), own)

    assert shell.inherited(configured)["DOCKER_HOST"] == "ssh://b"
    assert shell.inherited(plain)["DOCKER_CERT_PATH"] == "/certs"
    assert "DOCKER_HOST" not in shell.inherited(plain)


def _text_of(variable: Variable) -> str:
    """The default of a key as a variable has it, or a value for a key without one."""
    if variable.default is None:
        return "x"
    if isinstance(variable.default, str):
        return variable.default
    builtin = msgspec.to_builtins(variable.default)
    return json.dumps(builtin)


@pytest.mark.parametrize(
    ("record", "prefix", "every"),
    [(waterflowd.app.config.Config, "WATERFLOWD_", DAEMON), (waterflow_agent.config.Config, "WATERFLOW_AGENT_", AGENT)],
    ids=["daemon", "agent"],
)
def test_every_variable_is_read(record: type[msgspec.Struct], prefix: str, every: list[Variable]) -> None:
    """With all of them set to their defaults, each key of the configuration is set, and to its default."""
    environment = {item.name.replace(NUMBER, "0"): _text_of(item) for item in every}
    numbered = {item.name.partition(f"_{NUMBER}_")[0] for item in every if NUMBER in item.name}
    environment = {name: text for name, text in environment.items() if name not in numbered}

    found = environment_variables.read(record, prefix, environment)

    assert sorted(found.sources.values()) == sorted([*environment, *(f"{name}_0_..." for name in numbered)])
    config = msgspec.convert(found.settings, record, strict=False)
    for item in every:
        if NUMBER not in item.name and item.name not in numbered:
            value: Any = config
            for part in item.path:
                value = getattr(value, part.replace("-", "_"))
            assert value == item.default, item.name


def test_every_key_has_a_variable() -> None:
    """Of each table, also of those in lists; none is shared by two keys."""
    names = [variable.name for variable in (*DAEMON, *AGENT)]
    assert len(names) == len(set(names))
    assert {
        "WATERFLOWD_DATA_DIR",
        "WATERFLOWD_AGENTS_ADDRESS",
        "WATERFLOWD_REPOSITORIES",
        f"WATERFLOWD_REPOSITORIES_{NUMBER}_URL",
        f"WATERFLOWD_SECRETS_GRANTS_{NUMBER}_REPOSITORIES",
        f"WATERFLOWD_ENVIRONMENTS_{NUMBER}_VARS",
        "WATERFLOW_AGENT_LABELS",
        "WATERFLOW_AGENT_DOCKER_HOST",
    } <= set(names)
