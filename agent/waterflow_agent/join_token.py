"""The one line that a new server gets from a person: where the daemon is, which key it has, and a secret that opens the door.

The text is `wfj1.` and the URL-safe base 64 (no padding) of a msgpack map with short keys. The server's key in it is what
makes the first connection safe: the agent speaks to nobody else. The secret is good for the enrollment port alone.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from waterflow_agent.errors import Rejected

PREFIX = "wfj1."
#: Far more than two addresses, a key and a secret need; a larger "token" is a mistaken file.
TEXT_LENGTH_MAX = 4096
#: A CURVE key as Z85 text.
_KEY_LENGTH = 40


class JoinToken(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "enroll_endpoint": "e",
        "work_endpoint": "w",
        "server_key": "k",
        "token_id": "t",
        "secret": "s",
    },
):
    """What a join token says. Endpoints are `tcp://host:port`, the key is Z85 text."""

    enroll_endpoint: str
    work_endpoint: str
    server_key: str
    token_id: str
    secret: str

    @property
    def credential(self) -> str:
        """What `EnrollRequest.token` carries: the token's id and its secret."""
        return f"{self.token_id}.{self.secret}"

    def encode(self) -> str:
        """The token as one line of text."""
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode("ascii")


def decode(text: str) -> JoinToken:
    """Reads a token, white space around it ignored. Raises `Rejected` WF230; the error never shows the token."""
    line = text.strip()
    if not line.startswith(PREFIX) or len(line) > TEXT_LENGTH_MAX:
        raise Rejected("WF230", f'a join token is one line that starts with "{PREFIX}"; this is something else')
    body = line[len(PREFIX) :]
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(packed, type=JoinToken)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise Rejected("WF230", "the join token is damaged: was it copied whole?") from error
    if len(token.server_key) != _KEY_LENGTH or not token.enroll_endpoint.startswith("tcp://"):
        raise Rejected("WF230", "the join token is damaged: it holds no server key or no address")
    return token
