"""`hashFiles` from a push to a script, for every way to start a run."""

from __future__ import annotations

import hashlib

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

WORKFLOW = """name: cache
on: {push: {}, workflow_dispatch: {}}
jobs:
  a:
    runs-on: web
    if: hashFiles('**/*.lock') != '' && hashFiles('none/**') == ''
    steps:
      - run: echo "lock-${{ hashFiles('**/*.lock') }}"
"""


def _digest(*contents: str) -> str:
    parts = b"".join(hashlib.sha256(content.encode()).digest() for content in contents)
    return f"lock-{hashlib.sha256(parts).hexdigest()}"


@pytest.mark.slow
def test_the_digest_is_that_of_the_run_s_commit(empty_cluster: Cluster) -> None:
    """A push uses the pushed commit, a manual start the applied one; the digest survives a restart."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"workflows/cache.yml": WORKFLOW, "a.lock": "1", "sub/b.lock": "2"})
    first = wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "a run of the push")[0]["id"]
    assert cluster.wait_for(first)["conclusion"] == "success"
    assert cluster.lines(first, count=1) == [_digest("1", "2")]

    cluster.push(clone, {"sub/b.lock": "3"})
    wait_until(lambda: len(cluster.api("GET", "/v1/runs").json()["runs"]) == 2, "a run of the second push")
    by_hand = cluster.ctl("run", "cache")
    assert by_hand.returncode == 0, by_hand.stderr
    newest = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    assert cluster.lines(newest, count=1) == [_digest("1", "3")]
