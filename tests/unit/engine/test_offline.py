"""`offline` applies to servers that are offline when their turn comes, and not afterwards."""

from __future__ import annotations

from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

RETRIED = """
jobs:
  a:
    runs-on: {group: web, target: each, offline: skip}
    retry: {max-attempts: 2, initial-interval: 1s}
    steps: [{run: work}]
"""


def test_a_retry_waits_for_an_offline_server() -> None:
    """The instance has already started there, so its next try waits for the server until the job times out."""
    scenario = Scenario(RETRIED)
    scenario.play("connect web-1 web\nstart\nfinish a[web-1]/1 failure\ndisconnect web-1\nwait 10s")
    assert not scenario.run.is_completed
    scenario.play("connect web-1 web\nfinish a[web-1]/1 failure")
    assert scenario.run.conclusion is Conclusion.FAILURE
