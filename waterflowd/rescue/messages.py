"""What the rescue commands say to a person: what was done, what is lost, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from waterflowd.rescue.rescue import Ended, Rescued, Restored
from waterflowd.store.copying import Manifest
from waterflowd.store.salvage import SalvageReport

#: Names that are listed one by one; of more only the number is said, and `--json` has them all.
LISTED_MAX = 20


def of_backup(made: Manifest, target: str) -> list[str]:
    """A backup that is done."""
    return [
        f"backup made and verified: {target}",
        f"{made.records} records in {made.streams} streams, {len(made.files)} files, {made.size_bytes} bytes",
        "The configuration is not in it.",
    ]


def of_restore(made: Restored, *, goes_on: bool) -> list[str]:
    """A restore that is done."""
    lines = [f"restored and verified: {made.directory}", _generation(made.ended)]
    if goes_on:
        return [*lines, "Open runs and repositories go on, as you have asked for."]
    return [
        *lines,
        *_ended(made.ended),
        "Steps that still run on agents are stopped when their agents connect. Results of attempts that this log knows are",
        "recorded as late reports; what began after the backup is not in this log.",
        "Agents that joined or were revoked since the backup are not known as such: compare waterflowctl agents.",
        "Tokens that were revoked since are valid again: compare waterflowctl tokens.",
    ]


def of_rescue(saved: Rescued) -> list[str]:
    """A salvage that is done."""
    if saved.verdict == "nothing":
        return ["nothing could be saved: no record of the log can be read; restore a backup"]
    kept = saved.kept
    lines = [
        f"saved {saved.verdict}: {saved.directory}",
        f"kept: {kept.records} records in {kept.streams} streams, {kept.plans} plans",
        _generation(saved.ended),
    ]
    return [*lines, *_lost(kept), *_ended(saved.ended)]


def _generation(ended: Ended) -> str:
    return f"Its generation is {ended.generation}, above all that agents have seen: older leases fit nothing any more."


def _lost(kept: SalvageReport) -> Iterator[str]:
    if kept.records_lost is None:
        yield "lost: an unknown number of records"
    elif kept.records_lost:
        yield f"lost: {kept.records_lost} records"
    if kept.damaged_pages:
        yield f"damaged: {kept.damaged_pages} pages of the log"
    cuts = [
        f"{cut.stream}: kept up to event {cut.kept}, {'unknown' if cut.lost is None else cut.lost} lost ({cut.why})"
        for cut in kept.cuts
    ]
    yield from _listed("cut streams", cuts)
    yield from _listed("cut output logs", kept.outputs_cut)
    cut_names = {cut.stream for cut in kept.cuts}
    if "fleet" in cut_names:
        yield "Agents may be missing, or be here again after they were revoked: compare waterflowctl agents."
    if "audit" in cut_names:
        yield "Tokens may be missing, or be valid again after they were revoked: compare waterflowctl tokens."
    if not kept.has_server_key:
        yield "lost: keys/server.key; take it from a backup, or every agent must be enrolled again"


def _ended(ended: Ended) -> Iterator[str]:
    yield from _listed("ended runs, whose steps may have gone on since", ended.runs)
    yield from _listed("runs that stand still", ended.stalled)
    yield from _listed("suspended repositories; look, then waterflowctl resume NAME", ended.repositories)


def _listed(title: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{title}: {len(names)}"
        yield from (f"  {name}" for name in names[:LISTED_MAX])
        if len(names) > LISTED_MAX:
            yield f"  and {len(names) - LISTED_MAX} more; --json has them all"
