"""The cookie of a browser's session, and what a request that carries it must prove.

Rules of this file:

- A browser sends a cookie on its own, also when a page of another origin makes it send a request. So a request with it counts
  only if no other origin has caused it, and one that changes something needs what only a page of this daemon can send: its
  `Origin`, and a header that HTML forms cannot set.
- A cookie does not count beside an `Authorization` header, which says who sends the request.
- Ports of one host share their cookies, so the name contains the server's key: two daemons do not sign each other's users out.
- With https, and on this machine, the name begins with `__Host-`: no other host and no plain connection can set such a cookie.
  Which name counts depends on the address alone, so the weaker one is never accepted in its place.
"""

from __future__ import annotations

from starlette.datastructures import Headers

from waterflow_agent.errors import Rejected
from waterflowd.access.browser_sessions import LIFE_MS
from waterflowd.api.access import hosts
from waterflowd.api.services import Services

#: The header that every changing request of a page has.
PAGE_HEADER = "x-waterflow"
_READS = frozenset({"GET", "HEAD"})
_FINGERPRINT_CHARACTERS = 8


def secret(headers: Headers, services: Services) -> str | None:
    """The secret in the request's cookie; None without a cookie that counts."""
    if "authorization" in headers:
        return None
    name = _name(headers, services)
    for line in headers.getlist("cookie"):
        for cookie in line.split(";"):
            key, _, value = cookie.strip().partition("=")
            if key == name and value:
                return value
    return None


def check_page(headers: Headers, method: str) -> None:
    """`Rejected` WF603 (403) unless a page of this daemon sends the request. A foreign `Origin` was refused before."""
    if hosts.is_of_other_site(headers):
        raise Rejected("WF603", "a page of another origin may not use the session of this browser", status=403)
    if method not in _READS and ("origin" not in headers or headers.get(PAGE_HEADER) != "1"):
        text = "a request with a session's cookie needs `Origin` and `X-Waterflow: 1`; scripts use a token instead"
        raise Rejected("WF603", text, status=403)


def made(value: str, headers: Headers, services: Services) -> str:
    """The value of `Set-Cookie` for a session's secret; it deletes the cookie when the secret is empty."""
    age_s = LIFE_MS // 1000 if value else 0
    secure = "; Secure" if _is_secure(headers, services) else ""
    return f"{_name(headers, services)}={value}; Max-Age={age_s}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _name(headers: Headers, services: Services) -> str:
    key = services.fingerprint.removeprefix("SHA256:")[:_FINGERPRINT_CHARACTERS].replace("/", "_").replace("+", "-")
    name = f"waterflow-{key}" if key else "waterflow"
    return f"__Host-{name}" if _is_secure(headers, services) else name


def _is_secure(headers: Headers, services: Services) -> bool:
    """Whether the browser takes a cookie for secure connections only: it does for https, and for its own machine."""
    host = hosts.host_name(headers.get("host", ""))
    return services.api_url.startswith("https://") or (host is not None and hosts.is_loopback(host))
