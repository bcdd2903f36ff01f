"""What a reload of the configuration finds, applies, and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import KeyChange, Reloaded
from waterflowd.app import reload
from waterflowd.app.config import Config
from waterflowd.app.config_source import ConfigSource
from waterflowd.app.reload import Applier, Reloader

OPS = '[[repositories]]\nname = "ops"\nurl = "/srv/ops.git"\n'


class Harness:
    """A configuration file, and a reloader that applies repositories and the level of the log."""

    def __init__(self, folder: Path, text: str = "") -> None:
        self.file = folder / "waterflowd.toml"
        self.file.write_text(text)
        source = ConfigSource(self.file, environment={})
        self.applied: list[Config] = []
        self.problem: Rejected | None = None
        appliers = [Applier(keys=("repositories", "log.level"), apply=self._apply)]
        self._reloader = Reloader(source, source.load(), appliers, self._check)

    async def _apply(self, config: Config) -> None:
        self.applied.append(config)

    def _check(self, config: Config) -> None:
        if self.problem is not None:
            raise self.problem

    async def reload(self, text: str) -> dict[str, bool]:
        """Whether each key that differs was applied."""
        self.file.write_text(text)
        found = await self._reloader.reload()
        assert found.source == str(self.file)
        return {f"{change.change} {change.key}": change.is_applied for change in found.changes}


async def test_every_key_that_differs_is_reported_as_applied_or_not(tmp_path: Path) -> None:
    """What needs a restart is reported until there is one; what was applied is reported once."""
    harness = Harness(tmp_path, OPS)
    text = '[log]\nlevel = "debug"\nformat = "json"\n[agents]\nlost-after = "5m"\n' + OPS.replace("ops", "web")
    assert await harness.reload(text) == {
        "changed agents.lost-after": False,
        "changed log.format": False,
        "changed log.level": True,
        "removed repositories.ops": True,
        "added repositories.web": True,
    }
    [config] = harness.applied
    assert (config.log.level, config.log.format, config.agents.lost_after) == ("debug", "text", "10m")
    assert [item.name for item in config.repositories] == ["web"]

    assert await harness.reload(text) == {"changed agents.lost-after": False, "changed log.format": False}
    assert await harness.reload('[log]\nlevel = "debug"\n' + OPS.replace("ops", "web")) == {}
    assert len(harness.applied) == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [('[log]\nlevle = "debug"\n', ":2: unknown key"), ("[log\n", "waterflowd.toml"), ('[log]\nlevel = "x"\n', "level")],
)
async def test_a_broken_configuration_changes_nothing(tmp_path: Path, text: str, place: str) -> None:
    """The error has the place; the next reload compares with what runs."""
    harness = Harness(tmp_path, OPS)
    with pytest.raises(Rejected, match=place):
        await harness.reload(text)
    assert harness.applied == []
    harness.problem = Rejected("WF502", "not a url")
    with pytest.raises(Rejected, match="not a url"):
        await harness.reload(OPS.replace("ops", "web"))
    assert harness.applied == []
    harness.problem = None
    assert await harness.reload(OPS) == {}


async def test_a_changed_table_of_an_array_is_named(tmp_path: Path) -> None:
    """Another order of the tables is a change, too: the first one counts in some questions."""
    web = OPS.replace("ops", "web")
    harness = Harness(tmp_path, OPS + web)
    assert await harness.reload(OPS + 'interval = "2m"\n' + web) == {"changed repositories.ops": True}
    assert await harness.reload(web + OPS + 'interval = "2m"\n') == {"changed repositories": True}


def test_the_sentence_names_both_kinds_of_keys() -> None:
    """It is in the log and in the status of the service manager."""
    changes = tuple(
        KeyChange(key=key, change="changed", is_applied=key == "quotas") for key in ("agents.listen", "quotas")
    )
    found = Reloaded(source="f", changes=changes)
    assert reload.text_of(found) == "applied quotas; a restart is needed for agents.listen"
    assert reload.text_of(Reloaded(source="f")) == "nothing has changed"
