"""Signed addresses: Amazon's own example, and the same signatures as Amazon's own library."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from waterflowd.artifacts.bucket.settings import BucketSettings
from waterflowd.artifacts.bucket.signing import content_headers, sign

#: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html, where the bucket is in the server's name.
EXAMPLE = BucketSettings(
    bucket="",
    prefix="",
    endpoint="https://examplebucket.s3.amazonaws.com",
    region="us-east-1",
    access_key_id="AKIAIOSFODNN7EXAMPLE",
    secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
)
AT = datetime(2013, 5, 24, tzinfo=UTC).timestamp()


def test_the_example_of_amazons_documentation() -> None:
    """Its signature is published."""
    url = sign(EXAMPLE, "GET", "test.txt", {}, now_s=AT, valid_s=86_400)

    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"
        "&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.parametrize("token", ["", "a/session+token=="])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_signatures_are_those_of_amazons_library(method: str, token: str) -> None:
    """With signed headers, a port in the address, and a session token."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    settings = BucketSettings(
        bucket="a.bucket",
        prefix="pre_fix/~x",
        endpoint="http://127.0.0.1:9000",
        region="eu-central-1",
        access_key_id="AKID",
        secret_access_key="sec/ret+",
        session_token=token,
    )
    headers = content_headers(hashlib.sha256(b"content").digest(), 7) if method == "PUT" else {}

    url = sign(settings, method, "blocks/00/ff", headers, now_s=AT, valid_s=300)

    unsigned, _, signature = url.partition("&X-Amz-Signature=")
    auth = S3SigV4QueryAuth(Credentials("AKID", "sec/ret+", token or None), "s3", "eu-central-1", 300)
    request = AWSRequest(method, unsigned, {"host": "127.0.0.1:9000", **headers})
    request.context["timestamp"] = "20130524T000000Z"
    assert signature == auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert parse_qs(urlsplit(url).query).get("X-Amz-Security-Token", [""]) == [token]
    assert urlsplit(url).path == "/a.bucket/pre_fix/~x/blocks/00/ff"
    assert "sec" not in url.replace("Sec", "")
