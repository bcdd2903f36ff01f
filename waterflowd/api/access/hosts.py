"""Which hosts and origins are this daemon: against DNS rebinding, and requests that a page of another site causes.

Rules of this file: a browser sends `Host` and `Origin` truthfully, whatever a page wants. So a `Host` that names this daemon
proves that the page's address does, and an equal `Origin` that the page is ours.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.services import Services

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "localhost.localdomain"})


def check_host(headers: Headers, services: Services) -> None:
    """`Rejected` unless `Host` names this daemon: the address of `listen`, that of `api.url`, or this machine."""
    stated = headers.get("host", "")
    host = host_name(stated)
    if host is None:
        raise Rejected("WF605", "the request has no valid `Host` header")
    listen = host_name(services.listen or "")
    if host in (listen, host_of_url(services.api_url)) or is_loopback(host):
        return
    if _address(host) is not None and _is_wildcard(listen):
        return
    raise Rejected(
        "WF603",
        f"`Host: {escape_for_display(stated)}` does not name this daemon; use its address or localhost,"
        " or set `api.url` to the address that you use",
        status=403,
    )


def check_origin(headers: Headers, method: str, api_url: str) -> None:
    """`Rejected` WF603 (403) for the page of another origin, if the browser names it."""
    origin = headers.get("origin")
    if origin is not None and not is_own_origin(origin, headers, api_url):
        raise Rejected("WF603", f"`Origin: {escape_for_display(origin)}` may not use this API", status=403)
    if method not in {"GET", "HEAD"} and is_of_other_site(headers):
        raise Rejected("WF603", "requests from pages of another site may not change anything", status=403)


def is_own_origin(origin: str, headers: Headers, api_url: str) -> bool:
    """Whether a page of this origin came from the host to which the request goes."""
    scheme, separator, netloc = origin.lower().partition("://")
    if not separator or scheme not in {"http", "https"}:
        return False
    host = headers.get("host", "").lower()
    if api_url and host == api_url.partition("://")[2].lower():
        # Its scheme is known. A plain page of the same name may come from somebody in between.
        return origin.lower() == api_url.lower()
    return netloc == host


def is_of_other_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin causes the request; another port is another origin."""
    return headers.get("sec-fetch-site") in {"cross-site", "same-site"}


def host_name(netloc: str) -> str | None:
    """The host in `host`, `host:port` or `[v6]:port`, in lower case; None for any other form."""
    text = netloc.strip().lower()
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        return inside if bracket and inside and (not rest or rest.startswith(":")) else None
    name, _, port = text.partition(":")
    if not name or (port and not port.isdecimal()) or "/" in name or "@" in name:
        return None
    return name.rstrip(".") or None


def host_of_url(url: str) -> str | None:
    """The host of a URL without a path, in lower case; None without one."""
    return host_name(url.partition("://")[2])


def is_loopback(host: str) -> bool:
    """Whether the name or address is that of this machine, on every machine."""
    address = _address(host)
    return host in _LOOPBACK_NAMES or (address is not None and address.is_loopback)


def base_url(services: Services) -> str:
    """The address of the API for people: `api.url`, or that of `listen`; empty without TCP."""
    if services.api_url:
        return services.api_url
    host = host_name(services.listen or "")
    if host is None or services.listen is None:
        return ""
    return f"http://{'localhost' if _is_wildcard(host) else _bracketed(host)}:{services.listen.rpartition(':')[2]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_wildcard(listen: str | None) -> bool:
    address = _address(listen) if listen is not None else None
    return address is not None and address.is_unspecified
