"""Signs requests to S3 in the address (Signature Version 4), so that a step with the address needs no keys. Pure.

The service computes the same signature: it refuses the request after its time, with another method, for another object, or
without exactly the signed headers. So an address that was signed with the SHA-256 of a content stores that content only.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from waterflowd.artifacts.bucket.settings import BucketSettings

_ALGORITHM = "AWS4-HMAC-SHA256"


def sign(
    settings: BucketSettings, method: str, key: str, headers: Mapping[str, str], *, now_s: float, valid_s: int
) -> str:
    """The address of a request for an object below the prefix, valid for some seconds. `headers` have lower case names."""
    at = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{at[:8]}/{settings.region}/s3/aws4_request"
    path = quote("/" + "/".join(filter(None, (settings.bucket, settings.prefix, key))), safe="/-_.~")
    signed = {"host": urlsplit(settings.endpoint).netloc, **headers}
    names = ";".join(sorted(signed))
    fields = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{settings.access_key_id}/{scope}",
        "X-Amz-Date": at,
        "X-Amz-Expires": str(valid_s),
        "X-Amz-SignedHeaders": names,
    }
    if settings.session_token:
        fields["X-Amz-Security-Token"] = settings.session_token
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(fields[name], safe='-_.~')}" for name in sorted(fields))
    lines = [method, path, query, *(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, "UNSIGNED-PAYLOAD"]
    request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signature = _signature(settings, scope, "\n".join((_ALGORITHM, at, scope, request)))
    return f"{settings.endpoint}{path}?{query}&X-Amz-Signature={signature}"


def content_headers(digest: bytes, size: int) -> dict[str, str]:
    """The headers with which only the content of this SHA-256 and size can be stored."""
    return {"content-length": str(size), "x-amz-checksum-sha256": b64encode(digest).decode()}


def _signature(settings: BucketSettings, scope: str, text: str) -> str:
    key = f"AWS4{settings.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
