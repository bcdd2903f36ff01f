"""How pieces of output continue an output log; the same rule for every store of them."""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.model.records import OutputPiece

#: The ranges of a stored piece's fields.
AT_MAX, STREAM_MAX = (1 << 63) - 1, 255


def new_pieces(pieces: Sequence[OutputPiece], size: int) -> list[OutputPiece]:
    """The part of `pieces` that continues a log of `size` bytes; a piece that begins before the end is shortened.

    Time and stream come from an agent and are clamped to the range of their fields, so that no agent can make a write fail.
    """
    fresh: list[OutputPiece] = []
    for piece in pieces:
        end = piece.offset + len(piece.data)
        if piece.offset > size:
            break
        if end <= size:
            continue
        at = min(max(piece.at, 0), AT_MAX)
        stream = min(max(piece.stream, 0), STREAM_MAX)
        if (piece.offset, piece.at, piece.stream) != (size, at, stream):
            piece = OutputPiece(offset=size, at=at, stream=stream, data=piece.data[size - piece.offset :])
        fresh.append(piece)
        size = end
    return fresh
