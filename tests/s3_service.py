"""An S3 service for tests: moto, behind a front that checks what Amazon's service checks and moto does not.

The front verifies every signature, in headers and in addresses, with Amazon's own library (botocore), their time, and the
SHA-256 that a request names. It can refuse, as a service that is full, broken, or that denies something.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

ACCESS_KEY, SECRET_KEY, REGION = "AKIDARTIFACTS", "not-a-real/secret+key", "eu-central-1"
BUCKET = "artifacts"
_SKEW_MAX = timedelta(minutes=15)


class Seen(NamedTuple):
    """A request that has arrived."""

    method: str
    key: str
    #: With a signature in its address, as those of agents.
    is_signed_address: bool
    status: int


class Refusal(Exception):
    """The service answers with this status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class S3Service:
    """A running service with one bucket, and what a test changes and looks at."""

    def __init__(self, backend: Any) -> None:
        self.endpoint = ""
        self.seen: list[Seen] = []
        #: How far the clock of the service is ahead.
        self.ahead = timedelta()
        self.verifies_checksums = True
        #: Decides about each request, from its method, its key and whether its address is signed; raises `Refusal`.
        self.refuse: Callable[[str, str, bool], None] = lambda method, key, is_signed_address: None
        self._backend = backend

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of all objects."""
        return sorted(key for key in self._objects() if key.startswith(prefix))

    def content(self, key: str) -> bytes:
        """The content of an object."""
        content: bytes = self._objects()[key].value
        return content

    def put(self, key: str, content: bytes) -> None:
        """Stores an object, without any check."""
        self._backend.put_object(BUCKET, key, content)

    def remove(self, key: str) -> None:
        """Removes an object."""
        self._backend.delete_object(BUCKET, key)

    def age(self, by: timedelta) -> None:
        """Makes all objects older."""
        for item in self._objects().values():
            item.last_modified -= by

    def of_agents(self, method: str) -> list[Seen]:
        """The requests for blocks with a signed address."""
        return [
            seen for seen in self.seen if seen.is_signed_address and seen.method == method and "/blocks/" in seen.key
        ]

    def _objects(self) -> dict[str, Any]:
        return dict(self._backend.buckets[BUCKET].keys.items())


@contextmanager
def serving() -> Iterator[S3Service]:
    """Runs a service with an empty bucket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.s3.models import s3_backends
        from werkzeug.serving import make_server
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    backend = s3_backends["123456789012"]["aws"]
    backend.reset()
    backend.create_bucket(BUCKET, REGION)
    service = S3Service(backend)
    server = make_server(
        "127.0.0.1", 0, _Front(service, DomainDispatcherApplication(create_backend_app)), threaded=True
    )
    service.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        backend.reset()


class _Front:
    """A WSGI application before moto's."""

    def __init__(self, service: S3Service, app: Any) -> None:
        self._service = service
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        key = unquote(environ["REQUEST_URI"].partition("?")[0]).removeprefix(f"/{BUCKET}/")
        is_signed_address = "X-Amz-Signature=" in environ["QUERY_STRING"]
        status = 0

        def note(line: str, *arguments: Any) -> Any:
            nonlocal status
            status = int(line.split()[0])
            return start_response(line, *arguments)

        try:
            self._check(environ, body, is_signed_address=is_signed_address)
            self._service.refuse(environ["REQUEST_METHOD"], key, is_signed_address)
        except Refusal as refusal:
            text = f"<?xml version='1.0'?><Error><Code>{refusal.code}</Code><Message>refused</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
            note(f"{refusal.status} Refused", headers)
            content: Iterable[bytes] = [] if environ["REQUEST_METHOD"] == "HEAD" else [text]
        else:
            content = self._app(environ, note)
        self._service.seen.append(Seen(environ["REQUEST_METHOD"], key, is_signed_address, status))
        return content

    def _check(self, environ: dict[str, Any], body: bytes, *, is_signed_address: bool) -> None:
        headers = {
            name[5:].replace("_", "-").lower(): str(value) for name, value in environ.items() if name[:5] == "HTTP_"
        }
        for name in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            if environ.get(name):
                headers[name.replace("_", "-").lower()] = environ[name]
        now = datetime.now(UTC) + self._service.ahead
        (_check_address if is_signed_address else _check_headers)(environ, headers, now)
        named = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        if named != "UNSIGNED-PAYLOAD" and named != hashlib.sha256(body).hexdigest():
            raise Refusal(400, "XAmzContentSHA256Mismatch")
        checksum = headers.get("x-amz-checksum-sha256")
        found = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self._service.verifies_checksums and checksum not in (None, found):
            raise Refusal(400, "BadDigest")


def _check_address(environ: dict[str, Any], headers: dict[str, str], now: datetime) -> None:
    from botocore.auth import S3SigV4QueryAuth

    fields = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    signature = fields.pop("X-Amz-Signature")
    at = _time(fields["X-Amz-Date"])
    expires_s = int(fields["X-Amz-Expires"])
    if now > at + timedelta(seconds=expires_s):
        raise Refusal(403, "AccessDenied")
    _compare(
        S3SigV4QueryAuth(_keys(fields["X-Amz-Credential"]), "s3", REGION, expires_s),
        (environ, urlencode(fields), fields["X-Amz-Date"]),
        {name: headers.get(name, "") for name in fields["X-Amz-SignedHeaders"].split(";")},
        signature,
    )


def _check_headers(environ: dict[str, Any], headers: dict[str, str], now: datetime) -> None:
    from botocore.auth import S3SigV4Auth

    _, _, rest = headers.get("authorization", "").partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    if "Signature" not in fields:
        raise Refusal(403, "AccessDenied")
    date = headers["x-amz-date"]
    if abs(now - _time(date)) > _SKEW_MAX:
        raise Refusal(403, "RequestTimeTooSkewed")
    _compare(
        S3SigV4Auth(_keys(fields["Credential"]), "s3", REGION),
        (environ, environ["QUERY_STRING"], date),
        {name: headers.get(name, "") for name in fields["SignedHeaders"].split(";")},
        fields["Signature"],
    )


def _compare(auth: Any, request: tuple[dict[str, Any], str, str], headers: dict[str, str], signature: str) -> None:
    from botocore.awsrequest import AWSRequest

    environ, query, date = request
    path = environ["REQUEST_URI"].partition("?")[0]
    made = AWSRequest(environ["REQUEST_METHOD"], f"http://{headers['host']}{path}?{query}", headers)
    made.context["timestamp"] = date
    expected = auth.signature(auth.string_to_sign(made, auth.canonical_request(made)), made)
    if not hmac.compare_digest(expected, signature):
        raise Refusal(403, "SignatureDoesNotMatch")


def _keys(credential: str) -> Any:
    from botocore.credentials import Credentials

    access_key, _, region, *_ = credential.split("/")
    if access_key != ACCESS_KEY:
        raise Refusal(403, "InvalidAccessKeyId")
    if region != REGION:
        raise Refusal(400, "AuthorizationHeaderMalformed")
    return Credentials(ACCESS_KEY, SECRET_KEY)


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
