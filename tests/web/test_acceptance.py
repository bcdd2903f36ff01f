"""What the pages promise, from the outside: who may do what, what other origins can do, and what is seen without colour."""

from __future__ import annotations

import base64
import contextlib
import http.server
import itertools
import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.web import site as sites
from tests.web.site import PATIENCE_MS, Site, Visit
from tests.web.workflows import GATE, GOOD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAILS_ONCE = """name: clears
on: {push: {branches: [main]}}
jobs: {a: {runs-on: web, steps: [{name: Check, run: "COMMAND"}]}}
"""


_ATTACK = """<!doctype html><title>sending</title>
<form id=f method=post enctype=text/plain action='TARGET'><input name='{"x":"' value='"}'></form>
<script>
  const send = (more) => fetch('TARGET', { method: 'POST', credentials: 'include', body: '{}', ...more }).catch(() => 0);
  send({ mode: 'no-cors' }).then(() => send({ headers: { 'X-Waterflow': '1' } })).then(() => {
    document.title = 'sent';
    if (location.hash) document.getElementById('f').submit();
  });
</script>
"""
#: How the bars of the legend are drawn, without their colours.
_PATTERNS = """(all) => all.map((one) => {
  const style = getComputedStyle(one);
  const isOpen = style.backgroundColor === 'rgba(0, 0, 0, 0)';
  return [style.backgroundImage.replace(/rgba?\\([^)]*\\)/g, ''), style.height, style.boxShadow !== 'none', isOpen].join();
})"""


#: How much signs and bars differ at least, on average over their pixels.
SIGN_LIGHTNESS_MIN = 8
BAR_LIGHTNESS_MIN = 4
TABS_MAX = 60
_READ_LIGHTNESS = """async (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const canvas = new OffscreenCanvas(32, 32);
  const context = canvas.getContext('2d');
  context.drawImage(await createImageBitmap(new Blob([bytes], { type: 'image/png' })), 0, 0, 32, 32);
  const { data } = context.getImageData(0, 0, 32, 32);
  const lightness = ([red, green, blue]) => Math.round(0.2126 * red + 0.7152 * green + 0.0722 * blue);
  return Array.from({ length: 32 * 32 }, (_, at) => lightness(data.slice(4 * at, 4 * at + 3)));
}"""
#: Whether the focus is seen, and where it is. Behind the last element it is in the browser's own controls.
_FOCUS = """() => {
  const element = document.activeElement;
  // The ring may be around what contains the element, such as the frame of a log.
  let seen = element === document.body;
  for (let each = element; each && !seen; each = each.parentElement) seen = getComputedStyle(each).outlineStyle !== 'none';
  return [seen, element.outerHTML.slice(0, 200)];
}"""


class _Attacker(http.server.BaseHTTPRequestHandler):
    """A page of another origin that posts to the daemon as soon as it is opened."""

    target = ""

    def do_GET(self) -> None:
        body = _ATTACK.replace("TARGET", self.target)
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output of the tests is for the tests."""


@contextlib.contextmanager
def _other_origin(target: str) -> Iterator[str]:
    handler = type("Attacker", (_Attacker,), {"target": target})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        # Another name is another site, to which a browser sends no cookie that is strict; another port is the same site.
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _refusals(site: Site) -> int:
    """Recorded refusals; one record may stand for several."""
    rows = site.api("GET", "/v1/audit", params={"what": "refused", "limit": 100}).json()["audit"]
    return sum(1 + (row["facts"].get("left_out") or 0) for row in rows)


def test_a_page_of_another_origin_changes_nothing(site: Site, browser: Browser) -> None:
    """Neither by script nor by a form, not even from another port of the same host; the audit trail has the refusal."""
    run = site.runs["gate"]
    context: BrowserContext = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(site.link_of_somebody_new())
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        before = _refusals(site)
        with _other_origin(f"{site.address}/v1/runs/{run}/cancel") as origin:
            for host in (origin, origin.replace("127.0.0.1", "localhost")):
                page.goto(f"http://{host}/")
                page.wait_for_function("document.title === 'sent'")
                page.goto(f"http://{host}/form#submit")
                page.wait_for_url(f"{site.address}/**")
                assert "WF603" in page.content() or "WF601" in page.content()
        assert _refusals(site) > before
        assert site.api("GET", f"/v1/runs/{run}").json()["status"] == "running"
        assert not [event for event in site.events(run) if event["type"] == "cancel-requested"]
    finally:
        context.close()


def test_a_session_ends_with_its_token_on_a_page_where_nothing_happens(site: Site, browser: Browser) -> None:
    """Its stream is closed by the daemon, so the page asks to sign in, and keeps what it shows."""
    made = site.api("POST", "/v1/tokens", json={"role": "viewer", "name": "brief", "groups": []}).json()
    with sites.visit(site, browser) as visit:
        page = visit.go("/settings")
        page.get_by_label("API token").fill(made["secret"])
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".connection")).to_contain_text("live")
        assert site.api("POST", f"/v1/tokens/{made['id']}/revoke").status_code == 200
        expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
        expect(page.get_by_role("heading", name="Settings", level=1)).to_be_visible()


def test_the_overview_lists_a_failure_until_the_next_success(site: Site, visit: Visit) -> None:
    """A push whose run fails is listed without a reload; the next one on the same branch clears it."""
    page = visit.page
    item = page.get_by_role("region", name="Needs you").get_by_role("listitem").filter(has_text="clears")
    site.push(site.clone, {"workflows/clears.yml": FAILS_ONCE.replace("COMMAND", "exit 4")}, "break it")
    expect(item).to_contain_text("exit code 4")
    site.push(site.clone, {"workflows/clears.yml": FAILS_ONCE.replace("COMMAND", "exit 0")}, "mend it")
    expect(item).to_have_count(0)
    expect(page.get_by_role("region", name="Recent runs")).to_contain_text("clears")


def test_a_newcomer_finds_the_output_of_a_step_in_two_clicks(site: Site, visit: Visit) -> None:
    """From the overview to the run, and to its step: the lines that it printed are there."""
    # A new one, so that it is among the recent runs of the overview whatever other tests have started.
    run = site.start(GOOD)
    site.wait_for(run)
    page = visit.go("/")
    page.locator(f"a[href='/runs/{run}']").first.click()
    page.get_by_role("row", name=re.compile("success Publish")).click()
    expect(page.get_by_role("log")).to_contain_text("published")


def test_each_state_has_a_sign_of_its_own_without_colour(site: Site, visit: Visit) -> None:
    """In grey, the signs of the states differ by their shape, and the bars of waits and work by their pattern."""
    page = visit.page
    shapes = {}
    for path in (f"/runs/{site.runs['failing']}", f"/runs/{site.runs['gate']}", "/runs"):
        visit.go(path)
        for name, shape in page.eval_on_selector_all(
            "svg.glyph", "(all) => all.map((one) => [one.getAttribute('class'), one.innerHTML])"
        ):
            shapes[name] = shape
    assert len(shapes) >= 4
    assert len(set(shapes.values())) == len(shapes)
    visit.go(f"/runs/{site.runs['failing']}")
    kinds = page.eval_on_selector_all(".kinds .bar", _PATTERNS)
    assert kinds
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("sight", ["achromatopsia", "deuteranopia"])
def test_signs_and_bars_differ_for_every_sight(site: Site, browser: Browser, sight: str) -> None:
    """On pictures of the screen as somebody with this sight sees it, by lightness alone."""
    cancelled = site.start(GATE)
    site.api("POST", f"/v1/runs/{cancelled}/cancel")
    site.wait_for(cancelled)
    with sites.visit(site, browser, reduced_motion="reduce", device_scale_factor=2) as visit:
        page = visit.sign_in()
        page.context.new_cdp_session(page).send("Emulation.setEmulatedVisionDeficiency", {"type": sight})
        signs: dict[str, list[int]] = {}
        for path in (f"/runs/{site.runs['failing']}", f"/runs/{site.runs['gate']}", f"/runs/{cancelled}", "/runs"):
            visit.go(path)
            for sign in page.locator("main svg.glyph").all():
                name = str(sign.get_attribute("class"))
                if name not in signs and sign.is_visible():
                    signs[name] = _lightness(page, sign)
        visit.go(f"/runs/{site.runs['failing']}")
        bars = {str(bar.get_attribute("class")): _lightness(page, bar) for bar in page.locator(".kinds .bar").all()}
    assert len(signs) >= 5
    assert len(bars) >= 6
    for found, least in ((signs, SIGN_LIGHTNESS_MIN), (bars, BAR_LIGHTNESS_MIN)):
        for (one, first), (other, second) in itertools.combinations(found.items(), 2):
            difference = sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
            assert difference >= least, f"{one} looks like {other}: {difference:.1f}"


def _lightness(page: Page, element: Locator) -> list[int]:
    """The lightness of the element's pixels on a picture of it, 0 to 255, at one size."""
    picture = base64.b64encode(element.screenshot()).decode()
    values: list[int] = page.evaluate(_READ_LIGHTNESS, picture)
    return values


def test_everything_is_done_with_keys_alone(site: Site, browser: Browser) -> None:
    """Sign in, find a run, read its log, search in it, approve another, start a third, sign out; the focus is always seen."""
    run = site.start(GOOD)
    site.wait_for(run)
    waiting = site.start(GATE.replace("name: release", "name: with keys"))
    with sites.visit(site, browser) as visit:
        page = visit.page
        page.goto(site.address)
        _tab_to(page, page.get_by_label("API token"))
        page.keyboard.type(site.api_token("admin"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type(run)
        expect(page.get_by_role("option", selected=True)).to_contain_text("report #")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=re.compile("report #"))).to_be_visible()
        page.keyboard.press("End")
        expect(page.get_by_role("row", selected=True)).to_contain_text("Publish")
        _tab_to(page, page.get_by_role("link", name="Open as a page"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("log")).to_contain_text("published")
        page.keyboard.press("/")
        page.keyboard.type("publish")
        expect(page.locator(".log-hits [role=status]")).to_have_text("1 of 1")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("o")
        item = page.get_by_role("listitem").filter(has_text="with keys").filter(has_text="ship/gate")
        _tab_to(page, item.get_by_role("button", name="Approve"))
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        _tab_to(page, dialog.get_by_label("Comment"))
        page.keyboard.type("read it")
        _tab_to(page, dialog.get_by_role("button", name="Approve"))
        page.keyboard.press("Enter")
        assert site.wait_for(waiting)["conclusion"] == "success"
        expect(dialog).to_have_count(0)
        page.keyboard.press("/")
        page.keyboard.type(run)
        expect(page.get_by_role("option", selected=True)).to_contain_text("report #")
        page.keyboard.press("Enter")
        _tab_to(page, page.get_by_role("button", name="Re-run", exact=True))
        page.keyboard.press("Enter")
        _tab_to(page, dialog.get_by_role("button", name="Re-run"))
        page.keyboard.press("Enter")
        expect(page).not_to_have_url(re.compile(run))
        expect(page.get_by_role("link", name="re-run", exact=True)).to_have_attribute("href", f"/runs/{run}")
        _tab_to(page, page.get_by_role("button", name="Sign out"))
        page.keyboard.press("Enter")
        expect(page.get_by_label("API token")).to_be_visible()


def _tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until the element has the focus, which is seen wherever it goes."""
    expect(wanted).to_be_enabled()
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        seen, text = page.evaluate(_FOCUS)
        assert seen, f"the focus is not seen on {text}"
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{TABS_MAX} times Tab do not lead to {wanted}")


def test_every_page_works_without_any_other_host(site: Site, browser: Browser) -> None:
    """With every other name unresolvable nothing is missing: the pages ask no host but the daemon, and no policy is broken."""
    with sites.visit(site, browser) as visit:
        visit.page.context.route(
            lambda url: not url.startswith(site.address), lambda route: route.abort("internetdisconnected")
        )
        visit.sign_in()
        for path in (
            "/",
            "/runs",
            f"/runs/{site.runs['hostile']}",
            f"/runs/{site.runs['hostile']}?view=events",
            "/settings",
        ):
            visit.go(path)
            expect(visit.page.get_by_role("heading", level=1)).to_be_visible()
        # What went elsewhere, or was refused by the policy, is a fault of the visit: it fails when it ends.
