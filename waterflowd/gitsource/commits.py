"""Parses commits and tags.

Rules of this file: anybody who may push controls the content. Nothing in it is trusted, and the parser fails only with
`ValueError`.
"""

from __future__ import annotations

import re

from waterflowd.reconcile.source import AUTHOR_LENGTH_MAX, MESSAGE_LENGTH_MAX, Commit

_OBJECT_ID = re.compile(rb"[0-9a-f]{40}")
#: Codecs from bytes to text; a commit with any other encoding is read as UTF-8.
_CODEC_NAMES = """
utf-8 utf8 ascii us-ascii latin-1 iso-8859-1 iso-8859-2 iso-8859-15 windows-1250 windows-1251 windows-1252
cp1251 cp1252 koi8-r euc-jp shift_jis gbk big5 euc-kr
"""
_CODECS = frozenset(_CODEC_NAMES.split())


def parse_commit(object_id: str, content: bytes) -> Commit:
    """A commit; raises `ValueError` if it names no tree."""
    headers, message = _split(content)
    encoding = headers.get(b"encoding", b"utf-8").decode("ascii", "replace").lower()
    codec = encoding if encoding in _CODECS else "utf-8"
    # `Name <address> time zone`: only the name is displayed.
    name = headers.get(b"author", b"").partition(b"<")[0].strip()
    return Commit(
        id=object_id,
        tree=_object_id(headers, b"tree"),
        parent=_object_id(headers, b"parent") if b"parent" in headers else None,
        # Cut before decoding as well: a message may be as large as the object.
        author=name[: 4 * AUTHOR_LENGTH_MAX].decode(codec, "replace")[:AUTHOR_LENGTH_MAX],
        message=message[: 4 * MESSAGE_LENGTH_MAX].decode(codec, "replace")[:MESSAGE_LENGTH_MAX].rstrip("\n"),
    )


def tagged(content: bytes) -> str:
    """The object that a tag object names; raises `ValueError` if it names none."""
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
        # Lines that begin with a space continue a signature, which is not read.
        if key:
            headers.setdefault(key, value)
    return headers, message
