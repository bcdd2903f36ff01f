"""The artifacts that a re-run keeps of an earlier run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.unit.artifacts.harness import RUN, attempt, new_store, put
from waterflow_agent.errors import Stalled
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import StreamName
from waterflowd.model.records import Record, Reused, ReusedJob
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.host import ONE_STEP, HostHarness, request
from waterflowd.time_slices import TimeSlices


class DamagedHistory(LogHistory):
    """Cannot be read for as long as it is damaged."""

    is_damaged = True

    async def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        if self.is_damaged:
            raise Stalled("WF304", "the record is damaged")
        return await super().read(stream, first, limit)


async def test_a_history_that_cannot_be_read_is_an_error_and_is_read_again(tmp_path: Path) -> None:
    """Otherwise the re-run would never have the artifacts that it keeps, and nothing would say why."""
    store = new_store(tmp_path)
    async with HostHarness(artifacts=store) as host:
        put(store, "site", {"a": b"x"}, attempt(job="a"))
        reused = Reused(run=RUN, jobs={"a": ReusedJob(conclusion=Conclusion.SUCCESS)})
        run = (await host.driver.start(msgspec.structs.replace(request(ONE_STEP), reused=reused))).id
        history = DamagedHistory(host.log, host.feed, TimeSlices())
        kept = KeptArtifacts(store, history)

        with pytest.raises(Stalled, match="damaged"):
            await kept.keep(run, host.artifacts.write)
        history.is_damaged = False
        await kept.keep(run, host.artifacts.write)

        assert [(record.name, record.kept_from) for record in store.records.of_run(run)] == [("site", RUN)]
