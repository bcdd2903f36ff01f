"""A real daemon with pages and real agents, and a browser before it.

Rules of this file:

- The daemon needs tokens on TCP, as usual; the tests steer it over its unix socket.
- Nothing sleeps: everything waits for a condition of the page or of the API.
- Every page counts what its policy refused, errors of its scripts, and requests to other hosts: the tests fail on any.
- A sentence that a page takes away again may be gone before a slow machine looks for it: `Visit.said` knows all of them.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S

#: In ms, as the browser's interface wants it.
PATIENCE_MS = PATIENCE_S * 1000
_WATCH_POLICY = (
    "addEventListener('securitypolicyviolation', (event) => console.error('refused: ' + event.violatedDirective));"
)
#: Keeps what live regions have said.
_WATCH_STATUS = """
window.statusesSeen = new Set();
new MutationObserver(() => {
  for (const one of document.querySelectorAll('[role=status]')) window.statusesSeen.add(one.innerText);
}).observe(document, { childList: true, subtree: true, characterData: true });
"""


def browser_program() -> str | None:
    """Debian's Chromium; None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def launch(playwright: Playwright) -> Browser:
    """Starts Chromium without its own browser builds, as root as well."""
    return playwright.chromium.launch(
        executable_path=browser_program(), args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE_MS
    )


class Site(Cluster):
    """A cluster of installed programs, whose daemon needs tokens on TCP."""

    #: The runs of the tests, by the name of their workflow.
    runs: dict[str, str]

    def __init__(self, folder: Path, installed: Path) -> None:
        super().__init__(folder)
        self._installed = installed

    def environment(self) -> dict[str, str]:
        """As usual, with the installed programs instead of those of the checkout."""
        return {**super().environment(), "PYTHONPATH": str(self._installed)}

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """As usual, but nobody may use the address without a token."""
        super().write_config(repositories, agents)
        self.config.write_text(self.config.read_text().replace("open = true", "open = false"))

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request over the unix socket, as an admin."""
        if self._client is None:
            transport = httpx.HTTPTransport(uds=str(self.socket))
            self._client = httpx.Client(base_url="http://localhost", timeout=PATIENCE_S, transport=transport)
        return self._client.request(method, path, **options)

    def _is_ready(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.log.read_text()[-2000:]}")
        # Over TCP, where probes need no token.
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.address}/ready", timeout=PATIENCE_S).status_code == 200
        return False

    @property
    def address(self) -> str:
        """Where browsers find the pages."""
        return f"http://127.0.0.1:{self.api_port}"

    def link(self) -> str:
        """An address that signs in once, as `waterflowctl web` prints it."""
        done = self.ctl("web", "--json")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["url"])

    def link_of_somebody_new(self) -> str:
        """Such an address for a new token: a principal may begin only a few sessions in a short time."""
        headers = {"Authorization": f"Bearer {self.api_token('admin')}"}
        answer = httpx.post(f"{self.address}/v1/session-links", headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])

    def api_token(self, role: str) -> str:
        """The secret of a new token."""
        answer = self.api(
            "POST", "/v1/tokens", json={"role": role, "name": f"{role}-{secrets.token_hex(4)}", "groups": []}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])


class Visit:
    """One page of one person, with what went wrong in it."""

    def __init__(self, site: Site, page: Page) -> None:
        self.site = site
        self.page = page
        #: What the policy refused, errors of scripts, and requests to other hosts.
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(_WATCH_POLICY)
        page.add_init_script(_WATCH_STATUS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._on_message(message.type, message.text))
        page.on("request", lambda request: self._on_request(request.url))

    def _on_message(self, kind: str, text: str) -> None:
        # The browser reports failed requests, which some tests cause, as errors too.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def _on_request(self, url: str) -> None:
        if not url.startswith(self.site.address):
            self.faults.append(f"a request to {url}")

    def go(self, path: str) -> Page:
        """Opens a page and waits until it shows its first answer."""
        self.page.goto(self.site.address + path)
        expect(self.page.locator("main")).to_be_visible()
        expect(self.page.locator(".waiting")).to_have_count(0)
        return self.page

    def said(self, sentence: str) -> None:
        """Waits until a live region of the page says `sentence`, or has done so since the page was loaded."""
        self.page.wait_for_function(
            "(sentence) => [...window.statusesSeen].some((said) => said.includes(sentence))", arg=sentence
        )

    def sign_in(self) -> Page:
        """Signs in with a link, and waits for the overview."""
        self.page.goto(self.site.link_of_somebody_new())
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()
        return self.page


@contextlib.contextmanager
def visit(site: Site, browser: Browser, **settings: Any) -> Iterator[Visit]:
    """A new person's browser; fails at the end when anything was refused, failed or went elsewhere."""
    settings.setdefault("viewport", {"width": 1280, "height": 800})
    context: BrowserContext = browser.new_context(**settings)
    try:
        made = Visit(site, context.new_page())
        yield made
        assert made.faults == []
    finally:
        context.close()


def chromium_is_missing() -> str | None:
    """Why no browser test can run here."""
    return None if browser_program() else "chromium is not installed; it shows the web pages"
