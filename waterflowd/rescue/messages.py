"""The output of backup, restore and salvage: what was done, what is lost, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from waterflowd.rescue.archive import EncryptedBackup
from waterflowd.rescue.operations import ClosedWork, RestoreResult, SalvageResult
from waterflowd.store.check import Findings
from waterflowd.store.copying import Manifest
from waterflowd.store.salvage import SalvageReport

#: Names per list; `--json` prints all of them.
LISTED_MAX = 20


def of_check(found: Findings, directory: str) -> list[str]:
    """The output of `fsck` for an intact log."""
    lines = [f"intact: {found.records} records in {found.streams} streams of {directory}"]
    if found.artifacts:
        lines.append(f"intact: {found.artifacts} artifacts")
    for stream, seals in found.seals.items():
        if seals.missing_keys:
            lines.append(f"{stream} trail: not verified, because there is no key ({', '.join(seals.missing_keys)})")
        elif seals.verified:
            before = f", {seals.unsealed} from before the key" if seals.unsealed else ""
            lines.append(f"{stream} trail: sealed, {seals.verified} records verified{before}")
        else:
            lines.append(f"{stream} trail: not sealed")
    return lines


def of_backup(made: Manifest, target: str) -> list[str]:
    """The output after a backup."""
    content = f"{made.records} records in {made.streams} streams, {len(made.files)} files, {made.size_bytes} bytes"
    if isinstance(made, EncryptedBackup):
        return [
            f"encrypted backup created: {target}",
            content,
            f"SHA-256 of the file: {made.archive_sha256} ({made.archive_bytes} bytes)",
            "The backup does not contain the configuration. To check it: waterflowd fsck --data-dir FILE --identity KEY-FILE",
        ]
    return [
        f"backup created and verified: {target}",
        content,
        "The backup does not contain the configuration. It contains the server's key: protect it, or use --encrypt-to.",
    ]


def of_restore(made: RestoreResult, *, is_continued: bool) -> list[str]:
    """The output after a restore."""
    lines = [f"restored and verified: {made.directory}", _generation(made.ended)]
    if is_continued:
        return [*lines, "Open runs and repositories continue, as requested."]
    return [
        *lines,
        *_closed(made.ended),
        "Steps that still run on agents are stopped when their agents connect. Results of known attempts are recorded as",
        "late reports. Work that started after the backup is not in this log.",
        "Agents that were enrolled after the backup are missing, and revoked ones are back: check waterflowctl agents.",
        "API tokens that were revoked after the backup are valid again: check waterflowctl tokens.",
    ]


def of_salvage(saved: SalvageResult) -> list[str]:
    """The output after a salvage."""
    if saved.verdict == "nothing":
        return ["nothing could be saved: no record of the log is readable; restore a backup"]
    kept = saved.kept
    lines = [
        f"saved {'everything' if saved.verdict == 'whole' else 'a part'}: {saved.directory}",
        f"kept: {kept.records} records in {kept.streams} streams, {kept.plans} plans",
        _generation(saved.ended),
    ]
    return [*lines, *_lost(kept), *_closed(saved.ended)]


def _generation(ended: ClosedWork) -> str:
    return f"The new generation is {ended.generation}, higher than any that agents have seen: older leases are no longer valid."


def _lost(kept: SalvageReport) -> Iterator[str]:
    if kept.records_lost is None:
        yield "lost: an unknown number of records"
    elif kept.records_lost:
        yield f"lost: {kept.records_lost} records"
    if kept.damaged_pages:
        yield f"damaged: {kept.damaged_pages} pages of the log"
    cuts = [
        f"{cut.stream}: kept up to event {cut.kept}, {'unknown' if cut.lost is None else cut.lost} lost ({cut.reason})"
        for cut in kept.cuts
    ]
    yield from _listed("cut streams", cuts)
    yield from _listed("cut output logs", kept.outputs_cut)
    yield from _listed("lost artifacts", kept.artifacts_lost)
    cut_names = {cut.stream for cut in kept.cuts}
    if "fleet" in cut_names:
        yield "Agents may be missing, and revoked ones may be back: check waterflowctl agents."
    if "audit" in cut_names:
        yield "API tokens may be missing, and revoked ones may be valid again: check waterflowctl tokens."
    if not kept.has_server_key:
        yield "lost: keys/server.key; copy it from a backup, or enroll every agent again"


def _closed(ended: ClosedWork) -> Iterator[str]:
    yield from _listed("ended runs (their steps may have continued since)", ended.runs)
    yield from _listed("stalled runs", ended.stalled)
    yield from _listed("suspended repositories (check them, then waterflowctl resume NAME)", ended.repositories)


def _listed(title: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{title}: {len(names)}"
        yield from (f"  {name}" for name in names[:LISTED_MAX])
        if len(names) > LISTED_MAX:
            yield f"  and {len(names) - LISTED_MAX} more; --json has them all"
