"""The connection to a Temporal cluster, and why it cannot be established.

Temporal's client reports a wrong certificate, a port of another service and a cluster that is down in the same way, as a
transport error. So the connection is first tried without the client: name, port, TLS, HTTP/2. Each of these steps has its own
sentence.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache

import msgspec
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import TLSConfig

from waterflow_agent.errors import Retryable, Stalled

#: For all attempts to reach the cluster together, and for each call.
CONNECT_S_MAX = 10.0

#: Between two of the client's warnings in the daemon's log.
QUIET_S = 30.0

#: What an HTTP/2 client sends first (RFC 9113, 3.4): the preface, and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER_BYTES = 9
_SETTINGS = 4


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a cluster. Certificates and keys are PEM texts, which have been read already."""

    #: `host:port`.
    address: str
    namespace: str
    #: Empty: the certificates of the system.
    ca: str = ""
    ca_file: str = ""
    cert: str = ""
    cert_file: str = ""
    key: str = ""
    key_file: str = ""
    api_key: str = ""

    @property
    def host(self) -> str:
        """The host of the address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(self.address.rpartition(":")[2])

    @property
    def is_tls(self) -> bool:
        """TLS is left out only for a cluster on this machine that has no certificate."""
        return bool(self.ca or self.cert or self.api_key) or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OutageFilter(logging.Filter):
    """Lets one of the client's warnings pass per `QUIET_S`: while a cluster is away, each poll of each queue repeats them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the entry is written; errors always are."""
        now = self._now()
        if record.levelno < logging.ERROR and now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_S
        return True


@cache
def _runtime() -> Runtime:
    """The client's threads, whose log entries become those of the daemon."""
    forwarded = logging.getLogger("waterflow.temporal.client")
    forwarded.addFilter(OutageFilter())
    forwarding = LogForwardingConfig(logger=forwarded, append_target_to_name=False, prepend_target_on_message=False)
    level = TelemetryFilter(core_level="WARN", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=level, forwarding=forwarding)))


async def connect(settings: ClusterSettings, data_converter: DataConverter, identity: str) -> Client:
    """A client. Raises `Retryable` WF802 when the cluster cannot be reached, `Stalled` WF803 for a problem with certificates.

    `identity` is that of this process, as Temporal shows it. Raises `temporalio.service.RPCError` when the cluster refuses the
    call.
    """
    await try_connection(settings)
    tls = TLSConfig(
        server_root_ca_cert=settings.ca.encode() or None,
        client_cert=settings.cert.encode() or None,
        client_private_key=settings.key.encode() or None,
    )
    try:
        # `connect_timeout` is that of the connection alone; the client's first call could take 30 s.
        async with asyncio.timeout(CONNECT_S_MAX):
            return await Client.connect(
                settings.address,
                namespace=settings.namespace,
                api_key=settings.api_key or None,
                data_converter=data_converter,
                tls=tls if settings.is_tls else False,
                connect_timeout=timedelta(seconds=CONNECT_S_MAX),
                identity=identity,
                runtime=_runtime(),
            )
    except TimeoutError:
        raise _silent(settings) from None
    except RuntimeError as error:
        # The client wraps everything, a refused call as well, in this type.
        raise _unreachable(settings, f"does not answer as Temporal does: {error}") from error


async def try_connection(settings: ClusterSettings) -> None:
    """Connects and begins HTTP/2, with the same certificates. Raises `Retryable` WF802 or `Stalled` WF803."""
    context = _tls_context(settings) if settings.is_tls else None
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            reader, writer = await asyncio.open_connection(
                settings.host, settings.port, ssl=context, server_hostname=settings.host if context else None
            )
            try:
                answer = await _answer(reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise _silent(settings) from None
    except ssl.SSLCertVerificationError as error:
        raise Stalled("WF803", _verification(settings, error)) from error
    except ssl.SSLError as error:
        raise Stalled("WF803", _handshake(settings, error)) from error
    except (socket.gaierror, UnicodeError) as error:
        # Python refuses a name with an empty or a very long label before it asks the resolver.
        reason = error.strerror if isinstance(error, socket.gaierror) else str(error)
        text = f"has a name that cannot be resolved ({reason}); next: correct it, or check the DNS of this host"
        raise _unreachable(settings, text) from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        text = f"cannot be reached ({reason}); next: check the address, the firewall and the cluster"
        raise _unreachable(settings, text) from error
    if not answer and context is not None:
        # With TLS 1.3, the client has finished its handshake before the server checks the client's certificate.
        raise Stalled("WF803", _closed(settings))
    if len(answer) < _FRAME_HEADER_BYTES or answer[3] != _SETTINGS:
        hint = (
            "check that the address is the cluster's gRPC port, which is 7233 by default"
            if context
            else "set temporal.ca if the cluster requires TLS, and check that the port is its gRPC port"
        )
        raise _unreachable(settings, f"accepts connections, but does not speak gRPC; next: {hint}")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first bytes of the answer to the preface; nothing when the connection was closed instead."""
    try:
        writer.write(_PREFACE)
        return await reader.read(_FRAME_HEADER_BYTES)
    except OSError:
        return b""


def _tls_context(settings: ClusterSettings) -> ssl.SSLContext:
    """Raises `Stalled` WF803 for a file that contains no certificate or key, or when these do not belong together."""
    try:
        context = ssl.create_default_context(cadata=settings.ca or None)
    except (ssl.SSLError, ValueError) as error:
        text = f"temporal.ca: {settings.ca_file} contains no certificate in PEM ({error})"
        raise Stalled("WF803", f"{text}; next: name the file with the CA of the cluster") from error
    context.set_alpn_protocols(["h2"])
    if settings.cert:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except (ssl.SSLError, OSError) as error:
            text = f"temporal.cert {settings.cert_file} and temporal.key {settings.key_file} cannot be used ({error})"
            raise Stalled(
                "WF803", f"{text}; next: name a certificate and its key, without a passphrase, in PEM"
            ) from error
    return context


def _verification(settings: ClusterSettings, error: ssl.SSLCertVerificationError) -> str:
    trusted = settings.ca_file or "the certificates of this system"
    where = f"the certificate of {settings.address}"
    match error.verify_code:
        case 10:
            return f"{where} has expired; next: renew it on the cluster"
        case 9:
            return f"{where} is not valid yet; next: check the clocks of both machines"
        case 62 | 64:
            return f"{where} is for another name; next: use the name in the certificate as temporal.address"
        case 18 | 19 | 20 | 21:
            return (
                f"{where} is not signed by a CA in {trusted} ({error.verify_message});"
                " next: set temporal.ca to the CA of the cluster"
            )
    return f"{where} is not valid ({error.verify_message}); next: check temporal.ca and the cluster's certificate"


def _handshake(settings: ClusterSettings, error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).upper().replace(" ", "_")
    where = f"the cluster at {settings.address}"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason or "UNEXPECTED_EOF" in reason:
        return f"{where} does not speak TLS; next: check the port, and that the cluster has a certificate"
    if "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and not settings.cert):
        return f"{where} requires a client certificate; next: set temporal.cert and temporal.key"
    if "ALERT" in reason and settings.cert:
        return (
            f"{where} does not accept the certificate in {settings.cert_file} ({error.reason});"
            " next: use one that is signed by a CA that the cluster trusts"
        )
    return f"the TLS handshake with {settings.address} failed ({error.reason or error}); next: check temporal.ca"


def _closed(settings: ClusterSettings) -> str:
    where = f"{settings.address} closed the connection after the TLS handshake"
    if settings.cert:
        return f"{where}; next: check that the cluster trusts the CA of the certificate in {settings.cert_file}"
    return f"{where}; next: if the cluster requires a client certificate, set temporal.cert and temporal.key"


def _silent(settings: ClusterSettings) -> Retryable:
    text = f"did not answer within {CONNECT_S_MAX:g} s; next: check the address, the firewall and the cluster"
    return _unreachable(settings, text)


def _unreachable(settings: ClusterSettings, text: str) -> Retryable:
    return Retryable("WF802", f"temporal.address: {settings.address} {text}", after_s=5.0)
