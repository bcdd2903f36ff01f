"""The key that seals the audit trail: where it is, and what happens when it is new or missing.

The key is outside the data directory, so that somebody who can only write the data directory cannot rewrite the trail. A file
holds one key per line: the first one seals new records, and `fsck` checks older records with the others.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.errors import Stalled
from waterflowd.access.events import ActionTaken
from waterflowd.app.config import DEFAULT_AUDIT_KEY_FILE, Config
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.ports import Clock
from waterflowd.secrets import key_file
from waterflowd.store.log import LmdbLog
from waterflowd.store.sealing import SealFindings, SealKey, seal_key

logger = logging.getLogger("waterflow.daemon")

#: The principal of what the daemon records by itself.
DAEMON = "waterflowd"
_CREDENTIAL = "audit-key"
#: Old keys are only needed to check old records.
_KEYS_MAX = 100


def load_keys(config: Config, environment: Mapping[str, str] = os.environ) -> list[SealKey]:
    """The keys, the current one first; empty without a key.

    Raises `Rejected` WF622 for a file that cannot be used, `Stalled` WF320 for a key that is too short.
    """
    path, key = Path(config.audit.key_file), "audit.key-file"
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory, _CREDENTIAL)
        if credential.exists():
            path, key = credential, f"the credential {_CREDENTIAL}"
    if not config.audit.key_file or (
        config.audit.key_file == DEFAULT_AUDIT_KEY_FILE == str(path) and not path.exists()
    ):
        return []
    lines = [line for line in key_file.read(path, key, Path(config.data_dir)).splitlines() if line.strip()]
    if not lines:
        return [seal_key("", str(path))]
    return [seal_key(line, str(path)) for line in lines[:_KEYS_MAX]]


def create_key(path: Path) -> SealKey:
    """Creates a key file, or puts a new key in front of the existing ones. Raises `Stalled` WF320 if it cannot be written."""
    try:
        old = path.read_text("utf-8") if path.exists() else ""
        text = f"{secrets.token_hex(32)}\n{old}"
        temporary = path.with_name(f".{path.name}.new")
        status = path.stat() if old else None
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if status is not None:
            os.chmod(temporary, status.st_mode & 0o777)
            os.chown(temporary, status.st_uid, status.st_gid)
        temporary.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise Stalled("WF320", f"cannot write the audit key {path}: {error}") from error
    return seal_key(text.splitlines()[0], str(path))


def check_seals(found: SealFindings, keys: list[SealKey]) -> None:
    """Raises `Stalled` WF321 when the key proves less of a trail than it should. Without a key nothing can be proven."""
    if not keys:
        return
    if found.missing_keys:
        raise Stalled(
            "WF321",
            f"{found.unverified} records of the audit trail are sealed with keys that audit.key-file does not name"
            f" ({', '.join(found.missing_keys)}): add these keys as further lines. If they were never used here, the trail was"
            " replaced",
        )
    if found.unsealed and not found.verified:
        raise Stalled(
            "WF321",
            f"none of the {found.unsealed} records of the audit trail is sealed, although there is an audit key: either no"
            " daemon has run with this key yet, or the trail was replaced",
        )


def begin(log: LmdbLog, keys: list[SealKey], clock: Clock) -> None:
    """Compares the key with the newest record of the trail when the daemon starts, and records a new key in the trail.

    Raises `Stalled` WF320 when the trail is sealed and there is no key: records without a seal would look like a forgery.
    """
    newest, current = log.seal_key_id(AUDIT), keys[0].id.hex() if keys else ""
    if not keys:
        if newest:
            raise Stalled(
                "WF320",
                f"the audit trail is sealed with the key {newest}, which audit.key-file does not name; restore that file, or"
                " continue with a new key, if the old one is lost: waterflowd audit-key FILE",
            )
        logger.warning(
            "the audit trail is not sealed: create a key with `waterflowd audit-key FILE`, set audit.key-file"
        )
        return
    if newest == current:
        return
    if newest:
        logger.warning("the audit trail continues with the key %s; the key before was %s", current, newest)
    facts: dict[str, str | int | bool | list[str] | None] = {"previous": newest or None}
    now = clock.now()
    event = ActionTaken(at=now, by=DAEMON, what="change-audit-key", target=current, facts=facts)
    append = StreamAppend(stream=AUDIT, expected=log.head(AUDIT), at=now, events=[event])
    log.append_blocking(Batch(appends=[append], plans={}, summaries=[], keys={}, counters={}))
