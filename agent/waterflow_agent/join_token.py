"""Join tokens: the one line that a new server needs, with the daemon's addresses, its key, and a secret for enrollment.

The text is `wfj1.` and the URL-safe Base64 (without padding) of a msgpack map with short keys. The server's key in it makes the
first connection safe: the agent talks to no other server. The secret is accepted on the enrollment port only.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from waterflow_agent import addresses
from waterflow_agent.errors import Rejected

PREFIX = "wfj1."
#: Far more than all addresses, a key and a secret need; a longer text is not a token.
TEXT_LENGTH_MAX = 4096
#: A CURVE key as Z85 text.
_KEY_LENGTH = 40
_HOST = re.compile(r"\[[0-9A-Fa-f:.%]{2,60}\]|[A-Za-z0-9._-]{1,253}")


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
    """The content of a join token. Endpoints are one `tcp://host:port` or several (addresses.py), the key is Z85 text."""

    enroll_endpoint: str
    work_endpoint: str
    server_key: str
    token_id: str
    secret: str

    @property
    def credential(self) -> str:
        """The value of `EnrollRequest.token`: the token's id and its secret."""
        return f"{self.token_id}.{self.secret}"

    def at(self, hosts: list[str]) -> JoinToken:
        """Returns the token with the addresses of these hosts; the ports stay the same."""
        return msgspec.structs.replace(
            self,
            enroll_endpoint=addresses.join([f"tcp://{host}:{_port(self.enroll_endpoint)}" for host in hosts]),
            work_endpoint=addresses.join([f"tcp://{host}:{_port(self.work_endpoint)}" for host in hosts]),
        )

    def encode(self) -> str:
        """Returns the token as one line of text."""
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode("ascii")


def hosts_of(text: str) -> list[str]:
    """Returns the host names or addresses in a text, separated by commas. Raises `Rejected` WF226 if one is invalid."""
    hosts = [f"[{host}]" if host.count(":") > 1 and host[0] != "[" else host for host in addresses.split(text)]
    if not 1 <= len(hosts) <= addresses.ADDRESSES_MAX or not all(map(_HOST.fullmatch, hosts)):
        expected = f"1 to {addresses.ADDRESSES_MAX} host names or addresses without ports, separated by commas"
        raise Rejected(
            "WF226", f"address: expected {expected}, such as waterflow.example.org", where="address", status=422
        )
    return hosts


def _port(endpoints: str) -> int:
    return addresses.port_of(addresses.split(endpoints)[0])


def decode(text: str) -> JoinToken:
    """Reads a token and ignores surrounding white space. Raises `Rejected` WF230; the error never shows the token."""
    line = text.strip()
    if not line.startswith(PREFIX) or len(line) > TEXT_LENGTH_MAX:
        raise Rejected("WF230", f'not a join token: it must be one line that starts with "{PREFIX}"')
    body = line[len(PREFIX) :]
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(packed, type=JoinToken)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise Rejected("WF230", "the join token is damaged; was it copied completely?") from error
    if len(token.server_key) != _KEY_LENGTH or not token.enroll_endpoint.startswith("tcp://"):
        raise Rejected("WF230", "the join token is damaged: it contains no server key or no address")
    return token
