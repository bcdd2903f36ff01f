"""`GET /metrics`: every metric is documented, labels have few values, and the numbers are correct."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflowd.admin.metric_samples import METRICS

_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def _values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_documented_metrics_match_the_exported_ones() -> None:
    """The table of docs/metrics.md equals the list, and counters have the right suffix."""
    documented_names = {f"{name}_total" if kind.is_counter else name for name, kind in METRICS.items()}

    assert set(re.findall(r"^\| `(waterflow_\w+)` \|", _PAGE.read_text(), re.MULTILINE)) == documented_names


def test_a_run_is_counted(empty_cluster: Cluster) -> None:
    """The metrics count the run by trigger and conclusion, its events and its slot, and the frames of the link."""
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web", slots=3)
    run = empty_cluster.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: exit 1\n")
    empty_cluster.wait_for(run)

    def answer_without_open_runs() -> httpx.Response | None:
        answer = empty_cluster.api("GET", "/metrics")
        return answer if _values(answer.text)["waterflow_runs_open",] == 0 else None

    # On Temporal open runs are counted now and then.
    answer = wait_until(answer_without_open_runs, "the end of the run to be counted")

    assert answer.headers["content-type"].startswith("text/plain")
    values = _values(answer.text)
    assert values["waterflow_runs_started_total", "api"] == 1
    assert values["waterflow_runs_completed_total", "failure"] == 1
    assert values["waterflow_agents", "connected"] == 1
    assert values["waterflow_slots", "free"] == 3
    # On Temporal, the daemon's own log has only its audit trail.
    assert values["waterflow_log_events_total",] >= (1 if "temporal" in empty_cluster.engine[0] else 9)
    assert values["waterflow_link_total", "sessions_opened"] == 1
    assert values["process_resident_memory_bytes",] > 1e7
    known = {f"{name}_total" if kind.is_counter else name for name, kind in METRICS.items()}
    assert {name for name, *_ in values if name.startswith("waterflow_")} <= known
    assert run not in answer.text
