"""Which bucket: the configuration, completed by the usual variables; secrets are never shown."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.artifacts.bucket.settings import BucketSettings, bucket_settings

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "token-of-hunter2"}


def settings(address: str = "s3://bucket/some/prefix", **more: str) -> BucketSettings:
    keys = (more.pop("key", ""), more.pop("secret", ""))
    environment = {**ENVIRONMENT, **{name: value for name, value in more.items() if name.isupper()}}
    known = {name: more.get(name, "") for name in ("endpoint", "region")}
    return bucket_settings(address, **known, keys=keys, environment=environment)


def test_the_configuration_goes_before_the_environment() -> None:
    """Endpoint, region and keys; a session token belongs to the keys of the environment."""
    of_environment = settings(AWS_REGION="eu-west-1", AWS_ENDPOINT_URL="https://minio.example.org/")
    configured = settings(region="eu-central-1", endpoint="http://10.0.0.1:9000", key="AKOTHER", secret="other")

    assert (of_environment.bucket, of_environment.prefix) == ("bucket", "some/prefix")
    assert (of_environment.region, of_environment.endpoint) == ("eu-west-1", "https://minio.example.org")
    assert (of_environment.access_key_id, of_environment.session_token) == ("AKID", "token-of-hunter2")
    assert (configured.region, configured.endpoint) == ("eu-central-1", "http://10.0.0.1:9000")
    assert (configured.access_key_id, configured.secret_access_key) == ("AKOTHER", "other")
    assert configured.session_token == ""
    assert settings("s3://bucket").endpoint == "https://s3.us-east-1.amazonaws.com"


def test_secrets_are_not_in_the_representation() -> None:
    """It may get into a traceback, and so into a log."""
    assert "hunter2" not in repr(settings())


@pytest.mark.parametrize(
    "address", ["bucket/x", "s3://", "s3://b", "s3://bucket//x", "s3://bucket/../x", "s3://Bucket/x", "s3://bucket/ä"]
)
def test_an_invalid_address_is_an_error(address: str) -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match="expected s3://bucket/prefix"):
        settings(address)


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "ftp://minio", "https://user:hunter2@minio", "https://minio/path", "https://minio?x=1"]
)
def test_an_invalid_endpoint_is_an_error_without_a_login(endpoint: str) -> None:
    """The sentence does not repeat it."""
    with pytest.raises(ValueError, match="expected a URL") as caught:
        settings(endpoint=endpoint)
    assert "hunter2" not in str(caught.value)


def test_missing_keys_are_an_error_that_says_where_to_set_them() -> None:
    """Both places."""
    with pytest.raises(Rejected, match=r"artifacts\.secret-access-key-file, or AWS_ACCESS_KEY_ID.*WF620"):
        settings(AWS_SECRET_ACCESS_KEY="")
