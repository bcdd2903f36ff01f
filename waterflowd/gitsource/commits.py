"""What is read of a commit or a tag, from its raw content.

Rules of this file: the content is of whoever may push. Nothing in it is trusted, and nothing in it can make the parser fail
in another way than `ValueError`.
"""

from __future__ import annotations

import re

from waterflowd.reconcile.source import AUTHOR_LENGTH_MAX, MESSAGE_LENGTH_MAX, Commit

_OBJECT_ID = re.compile(rb"[0-9a-f]{40}")
#: Codecs that turn bytes into text and nothing else; commits that name another one are read as UTF-8.
_CODECS = frozenset(
    {"utf-8", "utf8", "ascii", "us-ascii", "latin-1", "iso-8859-1", "iso-8859-2", "iso-8859-15", "windows-1250",
     "windows-1251", "windows-1252", "cp1251", "cp1252", "koi8-r", "euc-jp", "shift_jis", "gbk", "big5", "euc-kr"}
)  # fmt: skip


def parse_commit(object_id: str, content: bytes) -> Commit:
    """The facts of a commit; raises `ValueError` when it names no tree."""
    headers, message = _split(content)
    encoding = headers.get(b"encoding", b"utf-8").decode("ascii", "replace").lower()
    codec = encoding if encoding in _CODECS else "utf-8"
    # `Name <address> time zone`: the name is enough, an address is nobody's business on a screen.
    name = headers.get(b"author", b"").partition(b"<")[0].strip()
    return Commit(
        id=object_id,
        tree=_object_id(headers, b"tree"),
        # Cut before decoding too: a message may be as large as the object.
        author=name[: 4 * AUTHOR_LENGTH_MAX].decode(codec, "replace")[:AUTHOR_LENGTH_MAX],
        message=message[: 4 * MESSAGE_LENGTH_MAX].decode(codec, "replace")[:MESSAGE_LENGTH_MAX].rstrip("\n"),
    )


def tagged(content: bytes) -> str:
    """The object that a tag object names; raises `ValueError` when it names none."""
    return _object_id(_split(content)[0], b"object")


def _object_id(headers: dict[bytes, bytes], key: bytes) -> str:
    value = headers.get(key, b"")
    if not _OBJECT_ID.fullmatch(value):
        raise ValueError(f"no {key.decode()} line")
    return value.decode("ascii")


def _split(content: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The first header of each kind, and the text after the empty line."""
    head, _, message = content.partition(b"\n\n")
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        # Lines that begin with a space go on with a signature, which nobody reads here.
        if key:
            headers.setdefault(key, value)
    return headers, message
