"""`waterflowd check-config --connect`, and a daemon's start on a cluster that is not ready."""

from __future__ import annotations

import asyncio
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.integration.temporal import doors
from tests.integration.temporal.server import KEYS, Namespace, Server, delete_namespace, new_namespace, program
from tests.patience import PATIENCE_S
from waterflowd.app.cli import main
from waterflowd.temporal import check, cluster
from waterflowd.temporal.check import Report
from waterflowd.temporal.cluster import ClusterSettings
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.workflow import messages

DAY_S = 24 * 3600


def settings(address: str, namespace: str = "waterflow", **files: Path) -> ClusterSettings:
    """Settings with the texts of these files."""
    texts: dict[str, Any] = {key: file.read_text() for key, file in files.items()}
    texts |= {f"{key}_file": str(file) for key, file in files.items()}
    return ClusterSettings(address=address, namespace=namespace, **texts)


async def checked(wanted: ClusterSettings) -> Report:
    return await check.check(wanted, converter.data_converter(KEYS), "d1")


async def only(wanted: ClusterSettings) -> tuple[str, str]:
    """The one finding of a check."""
    report = await checked(wanted)
    assert len(report.findings) == 1, report
    return report.findings[0].code, report.findings[0].text


async def found(wanted: ClusterSettings, *codes: str) -> Report:
    """The report, once it has these findings: each part of a cluster learns of a change in its own time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            report = await checked(wanted)
            if [finding.code for finding in report.findings] == list(codes):
                return report
            await asyncio.sleep(0.1)


async def follow(text: str, server: Server) -> None:
    """Runs the command that a finding suggests."""
    words = shlex.split(text.partition("; next: ")[2])
    assert words[0] == "temporal"
    arguments = [str(program()), *words[1:], "--address", server.address]
    done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_nothing_is_missing_in_a_prepared_namespace(namespace: Namespace) -> None:
    """The report has the version of the server."""
    report = await found(settings(namespace.server.address, namespace.name))
    assert report.server_version.startswith("1.")


async def test_each_suggested_command_leads_to_the_next_finding(temporal_server: Server) -> None:
    """From an empty cluster to a ready one, by doing what the sentences say."""
    wanted = settings(temporal_server.address, "test-empty-cluster")
    code, text = await only(wanted)
    assert code == "WF805"
    assert text.startswith(f"the namespace test-empty-cluster does not exist at {temporal_server.address}; next: ")
    await follow(text, temporal_server)
    text = (await found(wanted, "WF806")).findings[0].text
    assert text.startswith("the namespace test-empty-cluster lacks 8 search attributes (WaterflowRepository, ")
    await follow(text, temporal_server)
    await found(wanted)
    await delete_namespace(Namespace(temporal_server, wanted.namespace))


async def test_a_short_retention_is_reported(temporal_server: Server) -> None:
    """A start that is repeated after that time would run again."""
    made = await new_namespace(temporal_server, retention_s=3 * DAY_S)
    [finding] = (await found(settings(temporal_server.address, made.name), "WF807")).findings
    text = finding.text
    assert text.partition("; ")[0] == (
        f"the namespace {made.name} deletes workflows 3 days after their end, and runs must be kept for 7 days"
    )
    await follow(text, temporal_server)
    await found(settings(temporal_server.address, made.name))
    await delete_namespace(made)


async def test_a_search_attribute_of_another_type_is_reported(temporal_server: Server) -> None:
    """Together with those that are missing."""
    made = await new_namespace(temporal_server, attributes={"WaterflowNumber": "Keyword", "WaterflowPath": "Keyword"})
    wrong, missing = (await found(settings(temporal_server.address, made.name), "WF806", "WF806")).findings
    assert f"WaterflowNumber of the namespace {made.name} has the type Keyword instead of Int" in wrong.text
    assert "lacks 6 search attributes" in missing.text
    await delete_namespace(made)


# Unreachable ----------------------------------------------------------------------------------------------------------


async def test_a_cluster_that_cannot_be_reached_is_reported() -> None:
    """A port where nothing listens, a name that does not exist, and names that cannot exist."""
    async with doors.listening(doors.silence) as address:
        pass
    code, text = await only(settings(address))
    assert code == "WF802"
    assert text.startswith(f"temporal.address: {address} cannot be reached (")
    for name in ("cluster.invalid", "cluster..invalid", f"{'x' * 64}.invalid"):
        code, text = await only(settings(f"{name}:7233"))
        assert code == "WF802"
        assert f"{name}:7233 has a name that cannot be resolved" in text


async def test_a_port_of_something_else_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another kind, and one that does not answer."""
    async with doors.listening(doors.web_server) as address:
        code, text = await only(settings(address))
        assert (code, "does not speak gRPC" in text) == ("WF802", True)
    monkeypatch.setattr(cluster, "CONNECT_S_MAX", 0.2)
    async with doors.listening(doors.silence) as address:
        code, text = await only(settings(address))
        assert (code, "did not answer within 0.2 s" in text) == ("WF802", True)


# Certificates ---------------------------------------------------------------------------------------------------------


async def test_a_cluster_with_tls_is_checked_as_one_without(namespace: Namespace, tmp_path: Path) -> None:
    """The door passes everything on to the real server."""
    authority = doors.Authority(tmp_path, "ca")
    passing = doors.passing_on_to(namespace.server.address)
    async with doors.listening(passing, authority.context()) as address:
        await found(settings(address, namespace.name, ca=authority.ca))


async def test_a_certificate_of_another_authority_is_reported(namespace: Namespace, tmp_path: Path) -> None:
    """It names the file that was trusted, or says that it was the system's."""
    authority, other = doors.Authority(tmp_path, "ca"), doors.Authority(tmp_path, "other")
    async with doors.listening(doors.passing_on_to(namespace.server.address), authority.context()) as address:
        code, text = await only(settings(address, namespace.name, ca=other.ca))
        assert code == "WF803"
        assert text.startswith(f"the certificate of {address} is not signed by a CA in {other.ca} (")
        wanted = ClusterSettings(address=address, namespace=namespace.name, api_key="secret")
        code, text = await only(wanted)
        assert (code, "a CA in the certificates of this system" in text) == ("WF803", True)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (("DNS:temporal.internal", "2"), "is for another name"),
        (("IP:127.0.0.1", "-1"), "has expired; next: renew it on the cluster"),
    ],
)
async def test_an_unsuitable_certificate_is_reported(
    namespace: Namespace, tmp_path: Path, made: tuple[str, str], sentence: str
) -> None:
    """The sentence says what is wrong with it."""
    authority = doors.Authority(tmp_path, "ca")
    passing = doors.passing_on_to(namespace.server.address)
    async with doors.listening(passing, authority.context(alternative=made[0], days=made[1])) as address:
        code, text = await only(settings(address, namespace.name, ca=authority.ca))
        assert (code, sentence in text) == ("WF803", True), text


async def test_tls_on_one_side_only_is_reported(namespace: Namespace, tmp_path: Path) -> None:
    """A cluster without TLS and a setting for it, and the reverse."""
    authority = doors.Authority(tmp_path, "ca")
    code, text = await only(settings(namespace.server.address, namespace.name, ca=authority.ca))
    assert (code, "does not speak TLS" in text) == ("WF803", True), text
    async with doors.listening(doors.passing_on_to(namespace.server.address), authority.context()) as address:
        code, text = await only(settings(address, namespace.name))
        assert (code, "set temporal.ca if the cluster requires TLS" in text) == ("WF802", True), text


async def test_certificates_of_clients_are_checked(namespace: Namespace, tmp_path: Path) -> None:
    """A cluster that requires one: without, with a wrong one, and with the right one."""
    authority, other = doors.Authority(tmp_path, "ca"), doors.Authority(tmp_path, "other")
    context = authority.context(clients=authority.ca)
    async with doors.listening(doors.passing_on_to(namespace.server.address), context) as address:
        code, text = await only(settings(address, namespace.name, ca=authority.ca))
        assert (code, "if the cluster requires a client certificate, set temporal.cert" in text) == (
            "WF803",
            True,
        ), text
        cert, key = other.issue("stranger")
        code, text = await only(settings(address, namespace.name, ca=authority.ca, cert=cert, key=key))
        assert (code, f"check that the cluster trusts the CA of the certificate in {cert}" in text) == (
            "WF803",
            True,
        ), text
        cert, key = authority.issue("daemon")
        await found(settings(address, namespace.name, ca=authority.ca, cert=cert, key=key))
        strange_key = other.issue("second")[1]
        code, text = await only(settings(address, namespace.name, ca=authority.ca, cert=cert, key=strange_key))
        assert (code, "cannot be used" in text) == ("WF803", True), text


async def test_a_ca_file_without_a_certificate_is_reported(tmp_path: Path) -> None:
    """It is noticed before anything is sent."""
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    code, text = await only(settings("127.0.0.1:1", ca=file))
    assert (code, text.startswith(f"temporal.ca: {file} contains no certificate in PEM")) == ("WF803", True)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (16, "does not accept this daemon (no such key); next: correct temporal.cert"),
        (7, "this daemon may not connect at 127.0.0.1:"),
    ],
)
async def test_a_cluster_that_refuses_the_daemon_is_reported(status: int, sentence: str) -> None:
    """A gRPC server that answers as an authorizer does."""
    async with doors.listening(doors.refusing(status, "no such key")) as address:
        code, text = await only(settings(address))
        assert (code, sentence in text) == ("WF804", True), text
        assert "(no such key)" in text


# The command ----------------------------------------------------------------------------------------------------------


def written(folder: Path, *lines: str, engine: str = "log") -> Path:
    """A configuration file, and the key file that it names."""
    (folder / "payload.keys").write_text("11" * 32)
    (folder / "payload.keys").chmod(0o600)
    file = folder / "waterflowd.toml"
    text = f'engine = "{engine}"\ndata-dir = "{folder}/data"\n[temporal]\npayload-keys = "{folder}/payload.keys"\n'
    file.write_text(text + "\n".join(lines))
    return file


async def run(*arguments: str) -> Result:
    """Runs waterflowd in this process."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def test_the_command_says_that_nothing_is_missing(namespace: Namespace, tmp_path: Path) -> None:
    """With the log engine, one can prepare a cluster; the other checks follow."""
    await found(settings(namespace.server.address, namespace.name))
    file = written(tmp_path, f'address = "{namespace.server.address}"', f'namespace = "{namespace.name}"')
    done = await run("check-config", "--connect", "--config", str(file))
    first, second, third = done.output.splitlines()
    assert first.startswith("connected to Temporal 1.")
    assert first.endswith(f"at {namespace.server.address}, namespace {namespace.name}")
    assert second == "nothing is missing"
    assert third.startswith("configuration OK")
    assert done.exit_code == 0


async def test_the_command_reads_the_object_store(namespace: Namespace, tmp_path: Path) -> None:
    """A directory that is not there, for example not mounted, and one that is."""
    lines = [f'address = "{namespace.server.address}"', f'namespace = "{namespace.name}"']
    file = written(tmp_path, *lines, f'objects = "dir:{tmp_path}/objects"')
    done = await run("check-config", "--connect", "--config", str(file))
    assert "there is no such directory; create it for the user of the service" in done.output
    assert done.exit_code == 2
    (tmp_path / "objects").mkdir()
    done = await run("check-config", "--connect", "--config", str(file))
    assert done.output.splitlines()[1:3] == [f"connected to dir:{tmp_path}/objects", "nothing is missing"]
    assert done.exit_code == 0


async def test_the_command_names_an_object_store_that_cannot_be_read(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 1, as for a cluster that lacks something."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
        lines = [f'address = "{namespace.server.address}"', f'namespace = "{namespace.name}"']
        file = written(tmp_path, *lines, 'objects = "s3://bucket/waterflow"')
        done = await run("check-config", "--connect", "--config", str(file))
    assert "[WF322]" in done.output.splitlines()[1]
    assert "nothing is missing" not in done.output
    assert done.exit_code == 1


async def test_the_command_lists_what_is_missing(temporal_server: Server, tmp_path: Path) -> None:
    """Each finding is a line with its code, and the exit code is 1."""
    file = written(tmp_path, f'address = "{temporal_server.address}"', 'namespace = "test-none"')
    done = await run("check-config", "--connect", "--config", str(file))
    _, text = done.output.splitlines()
    assert text.startswith("the namespace test-none does not exist")
    assert text.endswith("--retention 30d [WF805]")
    assert done.exit_code == 1


async def test_a_daemon_does_not_start_on_a_cluster_that_is_not_ready(temporal_server: Server, tmp_path: Path) -> None:
    """It says what is missing, and has done nothing."""
    lines = (f'address = "{temporal_server.address}"', 'namespace = "test-none"')
    file = written(tmp_path, *lines, engine="temporal")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "waterflowd", "run", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the namespace test-none does not exist" in done.stderr
    assert done.stderr.endswith("--retention 30d [WF805]\n")
    assert done.returncode == 1
    assert not (tmp_path / "data").exists()


async def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    """A process in which Temporal's client cannot be imported."""
    file = written(tmp_path, 'address = "temporal.internal:7233"')
    code = "import sys; sys.modules['temporalio'] = None; from waterflowd.app.cli import main; main()"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, "check-config", "--connect", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == (
        f"waterflowd: Temporal's client is not installed; next: {sys.executable} -m pip install 'waterflow[temporal]' [WF801]\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "temporal.address is not set, so there is no cluster to connect to"),
        (['address = "127.0.0.1:1"', 'ca = "/none.pem"'], "temporal.ca: /none.pem cannot be read: No such file"),
        (['address = "127.0.0.1:1"', 'api-key-file = "/none"'], "temporal.api-key-file: /none cannot be read"),
    ],
)
async def test_a_missing_setting_or_file_is_named(tmp_path: Path, lines: list[str], sentence: str) -> None:
    """Before anything is sent."""
    done = await run("check-config", "--connect", "--config", str(written(tmp_path, *lines)))
    assert sentence in done.output
    assert done.exit_code == 2


async def test_key_files_that_others_can_read_are_refused(tmp_path: Path) -> None:
    """Payload keys and API keys are secrets."""
    file = written(tmp_path, 'address = "127.0.0.1:1"')
    (tmp_path / "payload.keys").chmod(0o644)
    done = await run("check-config", "--connect", "--config", str(file))
    assert "temporal.payload-keys" in done.output
    assert "can be read by other users" in done.output
    assert done.exit_code == 2


def test_the_names_of_search_attributes_are_temporals_types() -> None:
    """The suggested command would fail with another name."""
    assert set(messages.SEARCH_ATTRIBUTES.values()) <= {"Keyword", "Int"}
