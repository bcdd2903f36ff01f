"""The one route that pages of another origin may use: Temporal's web pages send sealed payloads to it.

Rules of this file: the origin must be exactly the configured one. A page of it still needs a token, unless `api.open` is set:
browsers send nothing on their own that this API accepts, so credentials (cookies) are not allowed either.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

#: What Temporal's web pages and command line append `/decode` to.
CODEC_PATH = "/v1/temporal"
DECODE_PATH = f"{CODEC_PATH}/decode"
#: What the pages send besides the body.
_HEADERS = "authorization, authorization-extras, content-type, x-namespace"
#: How long a browser remembers the answer, in s.
_MAX_AGE_S = 600


def allowed_origin(scope: Scope, configured: str) -> str | None:
    """The origin that may read the answer to this request; None if there is none."""
    if not configured or scope["path"] != DECODE_PATH:
        return None
    return configured if Headers(scope=scope).get("origin", "").lower() == configured.lower() else None


def is_preflight(scope: Scope, origin: str | None) -> bool:
    """Whether a browser asks, without the token, what the page may send."""
    return (
        origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope)
    )


def headers(scope: Scope, origin: str) -> dict[str, str]:
    """The headers of every answer to this origin."""
    allowed = {"access-control-allow-origin": Headers(scope=scope)["origin"], "vary": "Origin"}
    if is_preflight(scope, origin):
        allowed |= {
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": _HEADERS,
            "access-control-max-age": str(_MAX_AGE_S),
        }
    return allowed
