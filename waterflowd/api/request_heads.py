"""Strict reading of request heads, on top of h11: where a message ends must not depend on who reads it.

Rules of this file: a proxy in front of the API and the API itself must agree on where each request ends, otherwise a client can
hide a second request in the body of the first. So a head that servers read in different ways is refused, and the connection is
closed:

- `Content-Length` together with `Transfer-Encoding`, either of them twice, a length that is not just digits, another encoding
  than `chunked`, an encoding in HTTP/1.0;
- a line end other than CRLF, a header that continues on the next line, a space before the colon.
"""

from __future__ import annotations

import re

import h11

#: Request line and headers together; our own clients need a few hundred bytes.
HEAD_BYTES_MAX = 16 << 10

_HEAD_END = re.compile(rb"\n\r?\n")
_NOT_CRLF = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CONTINUED = re.compile(rb"\n[ \t]")
_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"
_LENGTH_VALUE = re.compile(rb"[0-9]{1,18}")


class StrictConnection(h11.Connection):
    """The server's side of a connection."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES_MAX)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11; raises `RemoteProtocolError` with a sentence for the client also for an ambiguous head."""
        if self.their_state is h11.IDLE:
            received, _ = self.trailing_data
            end = _HEAD_END.search(received)
            if end is not None:
                check_head(received[: end.end()])
        return super().next_event()


def check_head(head: bytes) -> None:
    """Raises `RemoteProtocolError` when a request head, with the empty line at its end, can be read in different ways."""
    if _NOT_CRLF.search(head):
        raise h11.RemoteProtocolError("each line of the request head must end with CR and LF")
    if _CONTINUED.search(head):
        raise h11.RemoteProtocolError("a header must not continue on the next line")
    request, *lines = head.split(b"\r\n")
    framing: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        lowered = name.strip().lower()
        if lowered not in (_LENGTH, _ENCODING):
            continue
        if lowered in framing:
            raise h11.RemoteProtocolError(f"the request has more than one {_shown(lowered)} header")
        if name != name.strip():
            raise h11.RemoteProtocolError(f"there must be no space around the name of the {_shown(lowered)} header")
        framing[lowered] = value.strip(b" \t")
    if len(framing) > 1:
        raise h11.RemoteProtocolError(
            "the request has both Content-Length and Transfer-Encoding; send only one of them"
        )
    if _LENGTH in framing and not _LENGTH_VALUE.fullmatch(framing[_LENGTH]):
        raise h11.RemoteProtocolError("Content-Length must be one number")
    if _ENCODING in framing and (framing[_ENCODING].lower() != b"chunked" or not request.endswith(b"HTTP/1.1")):
        raise h11.RemoteProtocolError("Transfer-Encoding must be `chunked`, in a request of HTTP/1.1")


def _shown(name: bytes) -> str:
    return name.decode("ascii").title()
