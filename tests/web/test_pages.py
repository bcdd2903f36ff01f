"""The pages in a browser: sign-in, the list, a run, what may be done, and what happens when the daemon is away."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.web import site as sites
from tests.web.site import Site, Visit
from tests.web.workflows import GATE, HOSTILE, UNTIL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: The most elements that a page may have, however long its lists are.
ELEMENTS_MAX = 2_500
#: Follows a link inside of the pages.
_FOLLOW = """(address) => {
  const link = document.createElement("a");
  link.href = address;
  document.body.append(link);
  link.click();
  link.remove();
}"""


def test_nobody_sees_data_without_signing_in(site: Site, browser: Browser) -> None:
    """Any address shows the sign-in; a wrong token is refused in a sentence; the right one opens that address."""
    with sites.visit(site, browser) as visit:
        page = visit.go(f"/runs/{site.runs['good']}")
        expect(page.get_by_role("heading", name="Waterflow")).to_be_visible()
        assert "report" not in page.content()
        page.get_by_label("API token").fill("wf_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
        page.get_by_label("API token").fill(site.api_token("viewer"))
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name=re.compile("report #"))).to_be_visible()


def test_a_link_signs_in_once(site: Site, browser: Browser) -> None:
    """The address of `waterflowctl web` leaves no code in the address bar, and opens nothing a second time."""
    link = site.link()
    with sites.visit(site, browser) as first:
        first.page.goto(link)
        expect(first.page.get_by_role("heading", name="Overview")).to_be_visible()
        assert first.page.url == site.address + "/"
    with sites.visit(site, browser) as second:
        second.page.goto(link)
        expect(second.page.get_by_role("alert")).to_contain_text("already used")


def test_a_session_ends_with_its_token(site: Site, browser: Browser) -> None:
    """After the token is revoked the page asks to sign in again, over what it shows."""
    made = site.api("POST", "/v1/tokens", json={"role": "viewer", "name": "short", "groups": []}).json()
    with sites.visit(site, browser) as visit:
        page = visit.go("/runs")
        page.get_by_label("API token").fill(made["secret"])
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        assert site.api("POST", f"/v1/tokens/{made['id']}/revoke").status_code == 200
        expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
        expect(page.locator("h1", has_text="Runs")).to_have_count(1)


def test_a_push_appears_and_ends_without_reload(site: Site, visit: Visit, tmp_path: Path) -> None:
    """A pushed run stands in the list as soon as it exists, and its row changes when it ends."""
    until = tmp_path / "go"
    page = visit.go("/runs")
    site.push(site.clone, {"workflows/live.yml": UNTIL.replace("NAME", "live").replace("FILE", str(until))}, "add live")
    row = page.get_by_role("row").filter(has_text="live")
    expect(row).to_contain_text("running")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name=re.compile(r"live #\d+ running"))).to_be_visible()
    expect(page.get_by_text("main@")).to_be_visible()
    expect(page.get_by_text("“add live”")).to_be_visible()
    until.touch()
    expect(page.get_by_role("heading", name=re.compile(r"live #\d+ success"))).to_be_visible()
    expect(page.get_by_role("log")).to_contain_text("done waiting")


def test_a_failed_run_opens_at_its_first_failure(site: Site, visit: Visit) -> None:
    """The failed step is selected; its reason, exit code and output are there without a click."""
    page = visit.go(f"/runs/{site.runs['failing']}")
    expect(page).to_have_title(re.compile(r"^✗ deploy #\d+ · Waterflow$"))
    details = page.get_by_role("complementary", name="Details")
    expect(details.get_by_role("heading", name="Migrate failed")).to_be_visible()
    expect(details).to_contain_text("exit code 2")
    expect(details.get_by_role("log")).to_contain_text("no such column: pool")
    selected = page.get_by_role("row", selected=True)
    expect(selected).to_contain_text("Migrate")


def test_the_selection_is_the_address(site: Site, visit: Visit) -> None:
    """Keys move the selection, the address follows, and a reload or another browser shows the same part."""
    page = visit.go(f"/runs/{site.runs['failing']}?place=build")
    place = page.get_by_role("complementary", name="Details").locator(".place")
    expect(place).to_have_text("build")
    page.keyboard.press("j")
    expect(place).to_have_text(re.compile("^build/"))
    expect(page).to_have_url(re.compile(r"place=build/"))
    page.reload()
    expect(place).to_have_text(re.compile("^build/"))
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text("build")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("row", selected=True)).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("row", selected=True)).to_have_attribute("aria-expanded", "true")


def test_the_tree_says_what_the_bars_show(site: Site, visit: Visit) -> None:
    """A screen reader gets the same tree: levels, states, names and durations."""
    page = visit.go(f"/runs/{site.runs['failing']}")
    expect(page.get_by_role("treegrid")).to_match_aria_snapshot(
        """
        - treegrid "Parts of the run and when they ran":
          - row:
            - columnheader "Part"
            - columnheader "Took"
            - columnheader
          - row /success build/ [expanded] [level=1]
          - row /success Build/ [level=2]
          - row /failed release ×2/ [expanded] [level=1]
          - row /failed web-/ [expanded] [level=2]
          - row /success Copy files/ [level=3]
          - row /failed Migrate/ [level=3]
          - row /failed web-/ [expanded] [level=2]
          - row /success Copy files/ [level=3]
          - row /failed Migrate/ [level=3]
          - row /skipped notify/ [expanded] [level=1]
          - row /skipped Notify/ [level=2]
        """
    )


def test_filters_are_the_address(site: Site, visit: Visit) -> None:
    """A chosen filter is in the address, survives a reload, and an empty result names what to drop."""
    page = visit.go("/runs")
    page.get_by_label("Status").select_option("failure")
    expect(page).to_have_url(re.compile(r"\?status=failure$"))
    expect(page.get_by_role("row").filter(has_text="deploy").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="report")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Status")).to_have_value("failure")
    page.get_by_role("textbox", name="Filter").fill("status:failure name:nothing")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Without name:nothing").click()
    expect(page.get_by_role("row").filter(has_text="deploy").first).to_be_visible()


def test_a_viewer_reads_why_actions_are_not_allowed(site: Site, browser: Browser) -> None:
    """The buttons say which role they need and do nothing; the same request by hand is refused by the daemon."""
    token = site.api_token("viewer")
    with sites.visit(site, browser) as visit:
        page = visit.go(f"/runs/{site.runs['gate']}")
        page.get_by_label("API token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        cancel = page.get_by_role("button", name="Cancel: needs the role runner")
        expect(cancel).to_have_attribute("aria-disabled", "true")
        # Playwright itself would wait until it is enabled.
        cancel.click(force=True)
        expect(page.get_by_role("dialog")).to_have_count(0)
        visit.said("Cancel: needs the role runner.")
    answer = httpx.post(
        f"{site.address}/v1/runs/{site.runs['gate']}/cancel", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 403


def test_an_approval_is_given_on_the_page(site: Site, visit: Visit) -> None:
    """From the overview to the decision with a comment; the run continues, and its history has both."""
    run = site.start(GATE.replace("name: release", "name: please"))
    page = visit.go("/")
    item = page.get_by_role("listitem").filter(has_text="please").filter(has_text="ship/gate")
    item.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Comment").fill("checked the plan")
    dialog.get_by_role("button", name="Approve").click()
    expect(item).to_have_count(0)
    assert site.wait_for(run)["conclusion"] == "success"
    assert "checked the plan" in str(site.events(run))


def _ids(site: Site, name: str) -> list[str]:
    return [row["id"] for row in site.api("GET", "/v1/runs", params={"name": name}).json()["runs"]]


def test_a_re_run_shows_what_it_will_do_first(site: Site, visit: Visit) -> None:
    """The dialogue lists what runs and what is reused; after the click the page is that of the new run."""
    before = _ids(site, "deploy")
    page = visit.go(f"/runs/{site.runs['failing']}")
    page.get_by_role("button", name="Re-run failed").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("will run")
    expect(dialog).to_contain_text("build")
    assert _ids(site, "deploy") == before
    dialog.get_by_role("button", name="Re-run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("deploy")
    expect(page).not_to_have_url(re.compile(site.runs["failing"]))
    expect(page.get_by_role("link", name="re-run", exact=True)).to_have_attribute(
        "href", f"/runs/{site.runs['failing']}"
    )


def test_hostile_text_stays_text(site: Site, visit: Visit) -> None:
    """Markup, reversing marks and escapes in names, reasons, summaries and output are shown, and nothing of them works."""
    # A new one, so that it is among the recent runs of the overview whatever other tests have started.
    run = site.start(HOSTILE)
    site.wait_for(run)
    page = visit.go(f"/runs/{run}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=alert(1)>\\u202egnp.exe")
    expect(page.get_by_role("log")).to_contain_text(
        "<script>alert(3)</script> \\u202ereversed \\x1b]8;;http://elsewhere.example"
    )
    expect(page.get_by_label("Summary")).to_have_text("# <img src=x onerror=alert(4)>\n\\u202ereversed\n")
    for path in ("/", "/runs"):
        visit.go(path)
        expect(page.get_by_text("<img src=x onerror=alert(1)>\\u202egnp.exe").first).to_be_visible()
    assert page.locator("main img, main script, main b:text-is('bold')").count() == 0
    assert "\u202e" not in page.inner_text("body")


def test_a_killed_daemon_is_said_and_comes_back(site: Site, visit: Visit) -> None:
    """The sign says since when the connection is lost; what was shown stays; the page continues by itself."""
    page = visit.go(f"/runs/{site.runs['gate']}")
    sign = page.get_by_text(re.compile("lost since"))
    site.kill_daemon()
    expect(sign).to_be_visible()
    expect(page.get_by_role("heading", name=re.compile("release #"))).to_be_visible()
    site.start_daemon()
    expect(sign).to_have_count(0)
    expect(page.locator(".connection")).to_contain_text("live")
    run = site.start(GATE.replace("name: release", "name: after the crash"))
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="after the crash")).to_be_visible()
    site.api("POST", f"/v1/runs/{run}/cancel")
    visit.faults[:] = [fault for fault in visit.faults if "ERR_" not in fault]


def test_keys_alone_lead_everywhere(site: Site, visit: Visit) -> None:
    """Find a run, open it, read its output, list the keys: without a mouse, and the focus is always seen."""
    page = visit.page
    page.keyboard.press("/")
    page.keyboard.type("report#")
    expect(page.get_by_role("option", selected=True)).to_contain_text("report #")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile("report #"))).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_the_first_page_is_small(site: Site, browser: Browser) -> None:
    """At most five files and 60 KB of them, and one stream."""
    with sites.visit(site, browser) as visit:
        sizes: dict[str, int] = {}
        session = visit.page.context.new_cdp_session(visit.page)
        names: dict[str, str] = {}
        session.send("Network.enable")
        session.on(
            "Network.responseReceived", lambda event: names.update({event["requestId"]: event["response"]["url"]})
        )
        session.on(
            "Network.loadingFinished",
            lambda event: sizes.update({names.get(event["requestId"], ""): int(event["encodedDataLength"])}),
        )
        visit.sign_in()
        # The icon is fetched once the page is shown.
        files = {url: size for url, size in sizes.items() if "/v1/" not in url and not url.endswith("icon.svg")}
        assert len(files) <= 5, files
        assert sum(files.values()) <= 60_000, files


def test_long_lists_have_few_elements(site: Site, visit: Visit) -> None:
    """A run of many jobs, and the list, keep only the rows in view in the document."""
    many = "name: many\njobs:\n" + "".join(
        f"  j{number}: {{runs-on: web, if: false, steps: [{{name: Step {number}, run: 'true'}}]}}\n"
        for number in range(120)
    )
    run = site.start(many)
    site.wait_for(run)
    page = visit.go(f"/runs/{run}")
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", re.compile(r"\d{3}"))
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS_MAX
    page.keyboard.press("End")
    expect(page.get_by_role("row", selected=True)).to_contain_text("j119")


def test_pages_that_were_left_are_not_kept(site: Site, visit: Visit) -> None:
    """However often somebody goes from page to page, the elements in memory are those of one round."""
    run = f"/runs/{site.runs['failing']}"
    views = [f"{run}?view={view}" for view in ("graph", "servers", "values", "events", "compare")]
    addresses = ["/", "/runs", run, *views, f"{run}/log/release", "/settings"]
    page = visit.go("/")
    tools = page.context.new_cdp_session(page)

    def elements_after(rounds: int) -> int:
        for address in addresses * rounds:
            page.evaluate(_FOLLOW, address)
            expect(page).to_have_url(re.compile(re.escape(site.address + address.partition("?")[0])))
            expect(page.locator("main h1")).to_be_visible()
        tools.send("HeapProfiler.collectGarbage")
        return int(tools.send("Memory.getDOMCounters")["nodes"])

    first = elements_after(3)
    assert elements_after(6) < first + 300
