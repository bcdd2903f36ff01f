"""Data directories of every release can be opened by this one (G10)."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import msgspec
import pytest

import waterflowd
from tests.compat import record_log
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.store.opening import Store, open_store

RECORDINGS = sorted(path.name.removesuffix(".tar.gz") for path in record_log.LOGS.glob("*.tar.gz"))


def unpacked(release: str, directory: Path) -> Path:
    with tarfile.open(record_log.LOGS / f"{release}.tar.gz") as archive:
        # Python 3.11.2, as in Debian 12, has no extraction filters yet; the archive is trusted.
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(directory)
    return directory


@pytest.mark.parametrize("release", RECORDINGS)
def test_a_recorded_data_directory_is_read_unchanged(release: str, tmp_path: Path) -> None:
    """This includes every event, row, key, counter and plan, and every byte of output."""
    expected = msgspec.json.decode(gzip.decompress((record_log.LOGS / f"{release}.json.gz").read_bytes()))
    with open_store(unpacked(release, tmp_path), record_log.UNIONS) as store:
        found = record_log.view(store)
        assert store.verify().records == len(expected["feed"])
    assert found.keys() >= expected.keys()
    for part, requested in expected.items():
        assert found[part] == requested, part


@pytest.mark.parametrize("release", RECORDINGS)
def test_a_recorded_data_directory_can_be_extended(release: str, tmp_path: Path) -> None:
    """This release appends to it, and old and new records form one chain."""
    directory = unpacked(release, tmp_path)
    with open_store(directory, record_log.UNIONS) as store:
        before = store.log.last_seq
        _append(store)
    with open_store(directory, record_log.UNIONS) as store:
        assert store.log.last_seq == before + 1
        assert store.verify().records == before + 1


def _append(store: Store) -> None:
    stream = record_log.STREAMS["fleet"]
    facts = record_log.samples(record_log.UNIONS["fleet"])[:1]
    append = StreamAppend(stream=stream, expected=store.log.head(stream), at=5_000, events=facts)
    store.log.append_blocking(Batch(appends=[append]))


def test_this_release_has_a_recording() -> None:
    """Without one, the next release could not be tested for compatibility."""
    assert waterflowd.__version__ in RECORDINGS
