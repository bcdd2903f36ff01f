"""The running daemon matches its own `/openapi.json`: the document describes every answer.

Schemathesis generates valid and invalid requests from the document. `WATERFLOW_SWEEP=full` generates many more of
them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.acceptance.cluster import Cluster
from tests.acceptance.conftest import MakeCluster
from tests.chance import IS_FULL
from tests.patience import PATIENCE_S, wait_until
from waterflowd.access.roles import Role

EXAMPLES = 200 if IS_FULL else 8
CHECKS: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
WORKFLOW = """
name: one
inputs:
  what: {default: hello}
jobs:
  a:
    runs-on: web
    report: {columns: {Out: "${{ steps.first.outputs.out }}"}}
    steps:
      - run: echo hello; echo out=1 >>"$WATERFLOW_OUTPUT"
        id: first
      - uses: log
        with: {message: done}
"""


class Served(NamedTuple):
    """A daemon that requires tokens, with an agent, a repository and a run."""

    address: str
    #: Authorization header by principal; None without a token.
    principals: dict[str, str | None]
    #: Existing values of path parameters: (parameter, prefix of the path), value.
    known: dict[tuple[str, str], str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Served]:
    """A daemon with an agent, a repository, a workflow, a completed run, and a token for each principal."""
    cluster = make_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield _serve(cluster)
    finally:
        cluster.close()


def _serve(cluster: Cluster) -> Served:
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"workflows/one.yml": WORKFLOW})
    wait_until(lambda: cluster.api("GET", "/v1/definitions").json()["definitions"], "the workflow to be known")
    run = cluster.start(WORKFLOW)
    cluster.wait_for(run)
    made = {
        role: cluster.api("POST", "/v1/tokens", json={"role": role, "name": f"the-{role}"}).json()["secret"]
        for role in ("viewer", "admin")
    }
    fingerprint = cluster.api("GET", "/v1/agents").json()["agents"][0]["fingerprint"]
    join_token = cluster.api("POST", "/v1/agents/tokens", json={"groups": ["web"]}).json()["id"]
    cluster.stop_daemon()
    text = cluster.config.read_text().replace("open = true", "open = false")
    cluster.config.write_text(text)
    cluster.start_daemon()
    return Served(
        address=f"http://127.0.0.1:{cluster.api_port}",
        principals={"nobody": None, **{role: f"Bearer {secret}" for role, secret in made.items()}},
        known={
            ("run_id", "/v1/runs"): run,
            ("path", "/v1/definitions"): "workflows/one.yml",
            ("name", "/v1/repositories"): "ops",
            ("token_id", "/v1/agents/tokens"): join_token,
            ("fingerprint", "/v1/agents"): fingerprint,
        },
    )


def _operations(served: Served) -> list[Any]:
    document = httpx.get(f"{served.address}/openapi.json", timeout=PATIENCE_S).json()
    # The endless streams have their own tests.
    del document["paths"]["/v1/events"]
    del document["paths"]["/v1/live"]
    # This test chooses the principal; otherwise requests would be made with invalid tokens.
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["x-needs-token"] = operation.pop("security", None) is not None
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Any] = list(schema.get_all_operations())
    return [found.ok() for found in operations]


def _requests(served: Served, operation: Any) -> st.SearchStrategy[tuple[Any, bool]]:
    """Generates valid and invalid requests of the operation, and whether they refer to something that exists."""
    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.path_parameters or operation.query or operation.body:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    return st.tuples(st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]), st.booleans())


def _is_expected(principal: str, operation: Any, response: Any) -> bool:
    """Returns whether the status matches the principal: 401 without a token, 403 for a role that is too low."""
    status: int = response.status_code
    if principal != "nobody" and b"no such path" in response.content:
        # An address that matches no route, such as one with a line break: roles are not checked.
        return status == 404
    definition = operation.definition.raw
    if definition.get("x-signed"):
        # A token does not help, because the requests are not signed.
        return status != 403
    if definition.get("x-signs-in"):
        # Only a page of the daemon may sign a browser in, and these requests have no headers of one.
        return status == 403
    if not definition["x-needs-token"]:
        return status not in (401, 403)
    if principal == "nobody":
        return status == 401
    is_allowed = Role(principal).includes(Role(definition["x-role"]))
    return (status not in (401, 403)) if is_allowed else status == 403


def _check(served: Served, principal: str, operation: Any) -> None:
    """Sends requests for one operation and checks the answers."""
    header = served.principals[principal]
    headers = {"Authorization": header} if header else {}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requested=_requests(served, operation))
    def conforms(requested: tuple[Any, bool]) -> None:
        case, is_about_something = requested
        case.headers.pop("Authorization", None)
        # Beyond 64 KiB of address and headers (a character takes up to 12 bytes) the connection is closed, with or
        # without an answer.
        assume(len(repr((case.query, case.path_parameters, dict(case.headers)))) < 4_000)
        for (name, beginning), value in served.known.items():
            if is_about_something and operation.path.startswith(beginning) and name in case.path_parameters:
                case.path_parameters[name] = value
        response = case.call(base_url=served.address, headers=headers, timeout=PATIENCE_S)
        case.validate_response(response, checks=CHECKS)
        assert _is_expected(principal, operation, response), (
            f"{operation.method} {operation.path} answers {response.status_code} to {principal}"
        )

    conforms()


@pytest.mark.slow
@pytest.mark.timeout(3_600 if EXAMPLES > 10 else 1200)
@pytest.mark.parametrize("principal", ["nobody", "viewer", "admin"])
def test_every_response_is_described(served: Served, principal: str) -> None:
    """Status, content type and schema of each answer are described; none is a 5xx or exceeds the role."""
    operations = _operations(served)
    assert len(operations) > 25
    for operation in operations:
        _check(served, principal, operation)
