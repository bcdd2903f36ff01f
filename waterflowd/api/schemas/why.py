"""Why a run, or a part of it, is where it is."""

from __future__ import annotations

import msgspec

from waterflowd.api.runs.why import WhyLink


class WhySchema(msgspec.Struct, frozen=True, kw_only=True):
    """From what was asked about down to what must happen first, or to what happened, after the event `seq` of the run."""

    seq: int
    chain: list[WhyLink]
