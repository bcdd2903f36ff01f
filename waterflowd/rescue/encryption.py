"""Files that are encrypted with age, as streams: neither end holds more than a few blocks in memory.

Rules of this file:

- The age library reads from one file and writes to another. It does so on a thread, with a pipe to the caller.
- An encrypted file appears under its name when it is complete and flushed, never before. It is made under another name
  (`.partial`), which also keeps two processes from writing it.
- age authenticates each block before it releases it, and notices a file that was cut. What it finds is the cause of whatever
  the reader then complains about, so its error is the one that is raised.
- Anyone can encrypt to a recipient: a file that decrypts is undamaged, not necessarily genuine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pyrage

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.durability import sync_directory

RECIPIENTS_MAX = 20

#: The first line of a file that age encrypted.
_MAGIC = b"age-encryption.org/v1\n"
_SECRET_PREFIX = "AGE-SECRET-KEY-"
_PARTIAL_SUFFIX = ".partial"
#: The library's text when no identity fits; its other errors concern the file.
_OTHER_KEY = "No matching keys found"


def parse_recipients(texts: Sequence[str]) -> list[pyrage.x25519.Recipient]:
    """The recipients that `--encrypt-to` names. Raises `Rejected` WF622."""
    if len(texts) > RECIPIENTS_MAX:
        raise Rejected("WF622", f"--encrypt-to: {len(texts)} recipients, expected at most {RECIPIENTS_MAX}")
    found = []
    for text in texts:
        if text.upper().startswith(_SECRET_PREFIX):
            raise Rejected(
                "WF622",
                "--encrypt-to: this is an identity, which is secret; name its recipient (age1...), and replace the "
                "identity if others can see this command line",
            )
        try:
            found.append(pyrage.x25519.Recipient.from_str(text))
        except pyrage.RecipientError:
            raise Rejected(
                "WF622", f"--encrypt-to: {text!r} is not an age recipient (age1...); age-keygen prints one"
            ) from None
    return found


def is_encrypted(file: Path) -> bool:
    """Whether this is a file that age encrypted. Raises `Stalled` WF311 when it cannot be read."""
    try:
        with file.open("rb") as content:
            return content.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise Stalled("WF311", f"{file} cannot be read: {error.strerror}") from error


class EncryptedFile:
    """A file that is being encrypted. Its digest is known when the block that writes it has ended."""

    def __init__(self, stream: BinaryIO) -> None:
        #: Takes the content.
        self.stream = stream
        self.size_bytes = 0
        #: SHA-256 of the encrypted file, in hexadecimal.
        self.sha256 = ""


@contextlib.contextmanager
def encrypt_file(target: Path, recipients: Sequence[pyrage.x25519.Recipient]) -> Iterator[EncryptedFile]:
    """Encrypts what the block writes into the new file `target`.

    The file exists, flushed and read again, once the block has succeeded; otherwise nothing is left. Raises `Stalled` WF315
    when it exists already or cannot be written.
    """
    partial = target.with_name(target.name + _PARTIAL_SUFFIX)
    written = _create(target, partial)
    try:
        with written:
            sink = _HashingWriter(written)
            with _on_a_thread(lambda pipe: pyrage.encrypt_io(pipe, sink, recipients), is_writer=True) as pipe:
                made = EncryptedFile(pipe)
                yield made
            written.flush()
            os.fsync(written.fileno())
        made.size_bytes = partial.stat().st_size
        made.sha256 = sink.digest.hexdigest()
        if _sha256(partial) != made.sha256:
            raise OSError(errno.EIO, "what was read back differs from what was written")
        if os.path.lexists(target):
            raise _exists(target)
        partial.rename(target)
        sync_directory(target.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError | _StreamFailed | pyrage.EncryptError):
            raise Stalled("WF315", f"the encrypted file {target} cannot be written: {error}") from error
        raise


@contextlib.contextmanager
def decrypt_file(source: Path, identities: Sequence[pyrage.x25519.Identity], *, named: str) -> Iterator[BinaryIO]:
    """The content of an encrypted file. The block must read it to its end, so that a cut is noticed.

    `named` says in messages where the identities are from. Raises `Stalled` WF318 when none of them decrypts the file, and
    WF304 when it is damaged.
    """
    try:
        content = source.open("rb")
    except OSError as error:
        raise Stalled("WF311", f"{source} cannot be read: {error.strerror}") from error
    with content:
        try:
            with _on_a_thread(lambda pipe: pyrage.decrypt_io(content, pipe, identities), is_writer=False) as pipe:
                yield pipe
        except pyrage.DecryptError as error:
            if str(error) == _OTHER_KEY:
                raise Stalled(
                    "WF318", f"{source} is not encrypted to {named}; use the identity of one of its recipients"
                ) from None
            raise _damaged(source, error) from None
        except _StreamFailed as failed:
            raise _damaged(source, failed.cause) from None


def _damaged(source: Path, error: Exception) -> Stalled:
    # The library's texts are about keys and the format, never about the content.
    return Stalled("WF304", f"the encrypted backup {source} is damaged: {error}; use another backup")


def _exists(target: Path) -> Stalled:
    return Stalled("WF315", f"{target} exists and will not be overwritten; name a new file")


def _create(target: Path, partial: Path) -> BinaryIO:
    if os.path.lexists(target):
        raise _exists(target)
    try:
        return os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError:
        raise Stalled(
            "WF315", f"{partial} is an unfinished backup, or one that is being created; remove it, or name another file"
        ) from None
    except OSError as error:
        raise Stalled("WF315", f"{target} cannot be written: {error.strerror}; name another file") from error


class _HashingWriter:
    """Writes to a file and computes its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        return self._file.write(block)

    def flush(self) -> None:
        self._file.flush()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        # Otherwise the page cache would answer for the disk.
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(content, "sha256").hexdigest()


class _StreamFailed(Exception):
    """The age library failed in the middle of a file, or could not read or write it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def _on_a_thread(work: Callable[[BinaryIO], None], *, is_writer: bool) -> Iterator[BinaryIO]:
    """Runs `work` with one end of a pipe on a thread, and yields the other end, which the caller writes to if `is_writer`.

    The thread's error is raised in place of the block's, unless the thread failed only because the block ended.
    """
    read_end, write_end = os.pipe()
    ours, theirs = (write_end, read_end) if is_writer else (read_end, write_end)

    def run() -> None:
        with os.fdopen(theirs, "rb" if is_writer else "wb") as pipe:
            work(pipe)

    with ThreadPoolExecutor(1, "age") as thread:
        result = thread.submit(run)
        try:
            # Closing our end ends the thread as well.
            with os.fdopen(ours, "wb" if is_writer else "rb") as pipe:
                yield pipe
        except BaseException:
            _raise_cause(result, is_cut_short=True)
            raise
        _raise_cause(result, is_cut_short=False)


def _raise_cause(result: Future[None], *, is_cut_short: bool) -> None:
    try:
        result.result()
    except OSError as error:
        # A block that fails closes the pipe: then its own error is the cause.
        if not (is_cut_short and isinstance(error, BrokenPipeError)):
            raise _StreamFailed(error) from error
