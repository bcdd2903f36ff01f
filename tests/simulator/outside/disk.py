"""The disk of a server."""

from __future__ import annotations

from waterflow_agent.runner.spool import SpoolChunk


class Segment:
    """A segment of a journal: its frames, and how many of them are flushed."""

    def __init__(self, snapshot: bytes) -> None:
        self.frames = [snapshot]
        self.flushed = 0


class Disk:
    """What a server keeps: the agent's journal, spools, the runner's files, and the files of steps."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        #: The runner's spools, by the path of their first file.
        self.spools: dict[str, list[SpoolChunk]] = {}
        self.is_full = False

    def lose_power(self, *, loses_tail: bool) -> None:
        """Loses what was not flushed, or keeps it by chance."""
        if loses_tail:
            for segment in self.segments:
                del segment.frames[segment.flushed :]
            self.segments = [segment for segment in self.segments if segment.frames]
