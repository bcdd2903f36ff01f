"""Checkouts: cached files, written directories, spare directories, and repeated file requests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from waterflow_agent.checkout import file_list, file_requests, tree_store
from waterflow_agent.checkout.blob_cache import BlobCache, blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import PartialTree, TreeStore
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.testing import FakeClock, task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import FileChunk, FileResponse, Tree

KEY = task_id("run", "job", "s1", 1, 1)
TREE = Tree("ops", "1", [])


def entry(path: str, content: bytes, kind: FileKind = FileKind.FILE) -> FileEntry:
    return FileEntry(path.encode(), kind, b"" if kind is FileKind.SUBMODULE else blob_id(content))


# The list ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [b"", b"/etc/x", b"a/../../b", b"a//b", b"./a", b".git/config", b"a\0b", b"a/.", b"x" * 4_000]
)
def test_a_list_with_a_path_outside_is_refused(path: bytes) -> None:
    """This covers paths with `..`, absolute paths, and paths of Git's own files."""
    with pytest.raises(Rejected, match="a path that is not allowed"):
        file_list.decode(file_list.encode([FileEntry(path, FileKind.FILE, b"1" * 20)]))


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x93\x01\x02\x03", file_list.encode([FileEntry(b"a", FileKind.FILE, b"short")])]
)
def test_an_invalid_list_is_refused(content: bytes) -> None:
    """The error code is WF750."""
    with pytest.raises(Rejected) as error:
        file_list.decode(content)
    assert error.value.code == "WF750"


# Reused files -------------------------------------------------------------------------------------------------------------


def test_cached_files_are_bounded_and_the_oldest_are_dropped(tmp_path: Path) -> None:
    """Recently read files stay; a file that is larger than the cache is not cached."""
    kept = BlobCache(tmp_path, 30)
    contents = [bytes([65 + number]) * 10 for number in range(4)]
    for content in contents[:3]:
        kept.put(blob_id(content), content)
    assert kept.get(blob_id(contents[0])) == contents[0]
    kept.put(blob_id(contents[3]), contents[3])
    kept.put(blob_id(b"x" * 31), b"x" * 31)
    assert [kept.get(blob_id(content)) is not None for content in contents] == [True, False, True, True]
    assert kept.get(blob_id(b"x" * 31)) is None
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) == 30


def test_cached_files_are_found_by_the_next_process(tmp_path: Path) -> None:
    """Files that a crash left incomplete are not used."""
    kept = BlobCache(tmp_path, 100)
    for content in (b"one", b"other"):
        kept.put(blob_id(content), content)
    half = tmp_path / blob_id(b"other").hex()[:2] / blob_id(b"other").hex()[2:]
    half.write_bytes(b"oth")
    again = BlobCache(tmp_path, 100)
    assert again.get(blob_id(b"one")) == b"one"
    assert again.get(blob_id(b"other")) is None


def test_a_changed_cached_file_is_ignored(tmp_path: Path) -> None:
    """The file is fetched and cached again the next time."""
    kept = BlobCache(tmp_path, 100)
    kept.put(blob_id(b"one"), b"one")
    next(tmp_path.glob("*/*")).write_bytes(b"two")
    assert kept.get(blob_id(b"one")) is None
    kept.put(blob_id(b"one"), b"one")
    assert kept.get(blob_id(b"one")) == b"one"


# Directories ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workspaces(tmp_path: Path) -> WorkingDirectories:
    return WorkingDirectories(tmp_path / "work", FakeClock())


@pytest.fixture
def disk(tmp_path: Path, workspaces: WorkingDirectories) -> TreeStore:
    return TreeStore(tmp_path / "trees", 1 << 20, workspaces.discard)


def make(disk: TreeStore, contents: dict[str, bytes], *more: FileEntry, tree: Tree = TREE) -> PartialTree:
    """Returns a finished directory with these files."""
    entries = [entry(path, content) for path, content in contents.items()]
    making = disk.begin(tree, [*entries, *more])
    by_id = {blob_id(content): content for content in contents.values()}
    disk.add(making, [(blob, by_id[blob]) for blob in list(making.missing) if blob in by_id])
    return making


def displayed(root: Path) -> dict[str, str]:
    """Returns everything below a directory."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        if not files and not folders:
            found[str(Path(folder).relative_to(root))] = "(empty)"
    return found


def test_a_directory_has_files_modes_links_and_submodules(disk: TreeStore) -> None:
    """One content may have several paths."""
    making = disk.begin(
        TREE,
        [
            entry("a/one", b"1"),
            entry("a/same", b"1"),
            entry("tool", b"2", FileKind.EXECUTABLE),
            entry("z", b"a/one", FileKind.LINK),
            entry("m/module", b"", FileKind.SUBMODULE),
        ],
    )
    disk.add(making, [(blob_id(content), content) for content in (b"1", b"2", b"a/one")])
    disk.finish(making)
    assert displayed(making.path) == {"a/one": "1", "a/same": "1", "tool": "2", "z": "-> a/one", "m/module": "(empty)"}
    assert os.access(making.path / "tool", os.X_OK)
    assert not os.access(making.path / "a/one", os.X_OK)


def test_a_file_with_the_wrong_content_is_refused(disk: TreeStore) -> None:
    """The content must match the id in the list."""
    making = disk.begin(TREE, [entry("a", b"1")])
    with pytest.raises(Rejected) as error:
        disk.add(making, [(blob_id(b"1"), b"2")])
    assert error.value.code == "WF752"


def test_a_spare_directory_becomes_the_next_tree(disk: TreeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, folders and links are added and removed, and change their kind; nothing else remains of the old tree."""
    monkeypatch.setattr(tree_store, "SPARE_FILES_MIN", 1)
    old = {"same": b"s", "changed": b"1", "gone/deep/x": b"x", "folder/file": b"f", "was-file": b"w"}
    first = make(disk, old, entry("link", b"s", FileKind.LINK), entry("module", b"", FileKind.SUBMODULE))
    disk.add(first, [(blob_id(b"s"), b"s")])
    disk.finish(first)
    disk.prepare_spare(TREE, first.files)
    new = {"same": b"s", "changed": b"2", "folder": b"now a file", "was-file/in": b"now a folder", "link": b"a file"}
    second = make(disk, new, entry("module/x", b"s", FileKind.LINK))
    disk.finish(second)
    assert second.path != first.path
    assert displayed(second.path) == {path: content.decode() for path, content in new.items()} | {"module/x": "-> s"}
    assert displayed(first.path)["changed"] == "1"


def test_a_spare_directory_is_used_once_and_for_its_own_tree(disk: TreeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs that start together have two directories."""
    monkeypatch.setattr(tree_store, "SPARE_FILES_MIN", 1)
    first = make(disk, {"a": b"1"})
    disk.finish(first)
    disk.prepare_spare(TREE, first.files)
    others = [make(disk, {"a": b"1"}, tree=tree) for tree in (Tree("ops", "1", ["**"]), TREE, TREE)]
    assert len({making.path for making in (first, *others)}) == 4
    assert all(displayed(making.path) == {"a": "1"} for making in others)


def test_spare_directories_are_bounded_and_end_with_the_process(
    disk: TreeStore, tmp_path: Path, workspaces: WorkingDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their state after a power cut is unknown."""
    monkeypatch.setattr(tree_store, "SPARE_FILES_MIN", 1)
    making = make(disk, {"a": b"1"})
    for number in range(tree_store.SPARES_MAX + 2):
        disk.prepare_spare(Tree(f"r{number}", "1", []), making.files)
    assert len(list((tmp_path / "trees/made").iterdir())) == tree_store.SPARES_MAX + 1
    TreeStore(tmp_path / "trees", 1 << 20, workspaces.discard)
    assert not list((tmp_path / "trees/made").iterdir())


def test_a_list_that_would_write_through_a_link_writes_nothing_outside(disk: TreeStore, tmp_path: Path) -> None:
    """Links are created last, after the folder with the same name."""
    making = disk.begin(TREE, [entry("a", os.fsencode(tmp_path), FileKind.LINK), entry("a/pwned", b"x")])
    disk.add(making, [(blob_id(os.fsencode(tmp_path)), os.fsencode(tmp_path)), (blob_id(b"x"), b"x")])
    with pytest.raises(FileExistsError):
        disk.finish(making)
    assert not (tmp_path / "pwned").exists()


# Requests ---------------------------------------------------------------------------------------------------------------


class Daemon:
    """Answers requests from a table of contents, with at most `FILE_RESPONSE_BYTES_MAX` per response."""

    def __init__(self, *entries: tuple[str, bytes]) -> None:
        self.contents = {blob_id(content): content for _, content in entries}
        self.list = file_list.encode([entry(path, content) for path, content in entries])
        self.received: list[messages.FileRequest] = []
        self.is_away = False
        self.requests = FileRequests(self.take)

    def take(self, request: messages.FileRequest) -> None:
        self.received.append(request)
        if not self.is_away:
            asyncio.get_running_loop().call_soon(self.requests.on_response, self.answer(request))

    def answer(self, request: messages.FileRequest) -> FileResponse:
        pieces, left, offset = [], messages.FILE_RESPONSE_BYTES_MAX, request.offset
        for content in [self.contents[blob] for blob in request.blobs] or [self.list]:
            part = content[offset : offset + left]
            pieces.append(FileChunk(len(content), part))
            left -= len(part)
            if left <= 0:
                break
            offset = 0
        return FileResponse(request.key, request.number, pieces)


async def test_a_checkout_fetches_small_and_large_files(tmp_path: Path) -> None:
    """Files may be empty, numerous or larger than a response; afterwards all of them are cached."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    disk = TreeStore(tmp_path / "trees", 1 << 20, workspaces.discard)
    files = [(f"f{number}", b"%d" % number) for number in range(700)]
    large = os.urandom(3 * messages.FILE_RESPONSE_BYTES_MAX + 5)
    daemon = Daemon(*files, ("large", large), ("empty", b""), ("z", b"last"))
    checkouts = CheckoutService(disk, daemon.requests, workspaces)
    await checkouts.make(KEY, TREE)
    root = tmp_path / "work/run/job"
    assert (root / "large").read_bytes() == large
    assert (root / "empty").read_bytes() == b""
    assert [(root / path).read_bytes() for path, _ in files] == [content for _, content in files]
    requested = len(daemon.received)
    await checkouts.make(task_id("run", "other", "s1", 1, 1), TREE)
    assert [request.blobs for request in daemon.received[requested:]] == [[]]
    await checkouts.close()


async def test_steps_that_start_together_share_one_checkout(disk: TreeStore, workspaces: WorkingDirectories) -> None:
    """A later step sends no request."""
    daemon = Daemon(("a", b"1"))
    checkouts = CheckoutService(disk, daemon.requests, workspaces)
    await asyncio.gather(*(checkouts.make(task_id("run", "job", f"s{number}", 1, 1), TREE) for number in range(3)))
    await checkouts.make(KEY, TREE)
    assert len(daemon.received) == 2
    await checkouts.close()


async def test_unanswered_requests_are_repeated_in_the_next_session(tmp_path: Path) -> None:
    """The request keeps its number, so that a response to the first request is accepted too."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    daemon = Daemon(("a", b"1"))
    daemon.is_away = True
    checkouts = CheckoutService(TreeStore(tmp_path / "trees", 1 << 20, workspaces.discard), daemon.requests, workspaces)
    work = asyncio.create_task(checkouts.make(KEY, TREE))
    while not daemon.received:  # noqa: ASYNC110 - a thread has to look at the disk before
        await asyncio.sleep(0)
    daemon.is_away = False
    checkouts.on_opened()
    assert daemon.received[0] == daemon.received[-1]
    assert len(daemon.received) == 2
    await work
    await checkouts.close()


async def test_a_checkout_that_is_cancelled_leaves_nothing(
    disk: TreeStore, workspaces: WorkingDirectories, tmp_path: Path
) -> None:
    """Neither a directory nor a file request remains."""
    daemon = Daemon(("a", b"1"))
    checkouts = CheckoutService(disk, daemon.requests, workspaces)
    answer = daemon.answer
    work = asyncio.create_task(checkouts.make(KEY, TREE))
    while not list((tmp_path / "trees/made").iterdir()):
        daemon.is_away = bool(daemon.received)
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert not list((tmp_path / "trees/made").iterdir())
    assert not checkouts.has(KEY)
    checkouts.on_response(answer(daemon.received[-1]))
    await checkouts.close()


async def test_temporary_refusals_are_retried_up_to_a_limit(
    disk: TreeStore, workspaces: WorkingDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the retries the daemon's reason becomes the error; a final refusal fails at once."""
    daemon, loop = Daemon(), asyncio.get_running_loop()
    real = loop.time
    # The client gives up after three requests, however long they took.
    monkeypatch.setattr(
        loop, "time", lambda: real() + (2 * file_requests.PATIENCE_S if len(daemon.received) > 2 else 0)
    )
    checkouts = CheckoutService(disk, daemon.requests, workspaces)
    monkeypatch.setattr(
        daemon, "answer", lambda request: FileResponse(KEY, request.number, [], "WF503", "unavailable", 10)
    )
    with pytest.raises(Rejected, match="unavailable"):
        await checkouts.make(KEY, TREE)
    assert len(daemon.received) == 3
    requested = len(daemon.received)
    monkeypatch.setattr(daemon, "answer", lambda request: FileResponse(KEY, request.number, [], "WF520", "a link out"))
    with pytest.raises(Rejected, match="a link out"):
        await checkouts.make(KEY, TREE)
    assert len(daemon.received) == requested + 1
    await checkouts.close()


@pytest.mark.parametrize("piece", [FileChunk(1 << 40, b"x"), FileChunk(10, b"")])
async def test_a_response_that_announces_too_much_or_nothing_is_refused(
    disk: TreeStore, workspaces: WorkingDirectories, monkeypatch: pytest.MonkeyPatch, piece: FileChunk
) -> None:
    """A checkout can neither fill the memory nor run forever."""
    daemon = Daemon()
    monkeypatch.setattr(daemon, "answer", lambda request: FileResponse(KEY, request.number, [piece]))
    checkouts = CheckoutService(disk, daemon.requests, workspaces)
    with pytest.raises(Rejected) as error:
        await checkouts.make(KEY, TREE)
    assert error.value.code == "WF750"
