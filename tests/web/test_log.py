"""The log viewer in a browser: any line of a long log, following, search, links, colours and hostile output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.chance import IS_FULL
from tests.patience import wait_until
from tests.web import site as sites
from tests.web.site import Site, Visit
from tests.web.workflows import FAST, LONG_LOG, MIXED_LOG, ROLL, TICKING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LINES = 100_000
#: The most elements of the page, however long the log is.
ELEMENTS_MAX = 300
#: A log with more lines than this has some above what is in view.
FOLLOWED = 60
#: How many lines there are before a page opens a fast log, and how many it is followed for.
LATE_LINES = 20_000


@pytest.fixture(scope="module")
def long_log(site: Site) -> str:
    """The path of the page of a log with 100,000 lines."""
    run = site.start(LONG_LOG.replace("LINES", str(LINES)))
    site.wait_for(run)
    return f"/runs/{run}/log/print/many/1"


@pytest.fixture
def reader(site: Site, browser: Browser) -> Iterator[Visit]:
    """Somebody who may use the clipboard, and has signed in."""
    with sites.visit(site, browser, permissions=["clipboard-read", "clipboard-write"]) as visit:
        visit.sign_in()
        yield visit


#: Notes each line that the page has shown under a number that is not its own.
_WATCH_NUMBERS = """
window.wrongNumbers = [];
new MutationObserver(() => {
  for (const line of document.querySelectorAll('.log-line')) {
    const text = /^line (\\d+)$/.exec(line.querySelector(':scope > span')?.textContent ?? '');
    if (text && text[1] !== line.dataset.line) window.wrongNumbers.push([line.dataset.line, text[1]]);
  }
}).observe(document, { childList: true, subtree: true, characterData: true });
"""


def _line(page: Page, number: int) -> str:
    return f'.log-line[data-line="{number}"]'


def _wait_for_line(page: Page, number: int) -> None:
    """Waits until the line or a later one is shown: a line that is followed may leave the page before it is looked for."""
    page.wait_for_function(
        "(number) => [...document.querySelectorAll('.log-line')].some((line) => Number(line.dataset.line) >= number)",
        arg=number,
    )


def _top(page: Page) -> str:
    """The number of the first line, once the page is still: a turn of the wheel moves it for several frames."""
    top: str = page.evaluate(
        """() => new Promise((done) => {
            let top, frames = 0;
            const look = () => {
                const now = document.querySelector('.log-line')?.dataset.line;
                frames = now === top ? frames + 1 : 0;
                top = now;
                if (frames < 30) requestAnimationFrame(look); else done(top);
            };
            look();
        })"""
    )
    return top


def test_a_link_opens_a_long_log_at_its_line(reader: Visit, long_log: str) -> None:
    """The line is in view and marked, lines before and after it are there, and only a few hundred elements."""
    page = reader.go(f"{long_log}#L73120-73122")
    expect(page.locator(_line(page, 73_120))).to_have_class(re.compile("linked"))
    expect(page.locator(_line(page, 73_121))).to_have_text(re.compile("^73121line 73121 "))
    expect(page.locator(_line(page, 73_121))).to_be_in_viewport()
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS_MAX
    # The scroll bar is that of the whole log.
    place = page.evaluate(
        "(() => { const b = document.querySelector('.log-box'); return b.scrollTop / b.scrollHeight; })()"
    )
    assert 0.72 < place < 0.74


def test_every_part_of_a_long_log_is_reached_by_scrolling(reader: Visit, long_log: str) -> None:
    """It opens at its end; the keys, and a jump of the scroll bar, show any other part."""
    page = reader.go(long_log)
    expect(page.locator(_line(page, LINES))).to_be_in_viewport()
    page.keyboard.press("Home")
    expect(page.locator(_line(page, 1))).to_have_text(re.compile("^1line 1 "))
    page.evaluate("(() => { const b = document.querySelector('.log-box'); b.scrollTop = b.scrollHeight / 2; })()")
    expect(page.locator(_line(page, LINES // 2 + 5))).to_contain_text(f"line {LINES // 2 + 5} ")
    page.keyboard.press("End")
    expect(page.locator(_line(page, LINES))).to_contain_text(f"line {LINES} ")


def test_lines_are_linked_and_copied(reader: Visit, long_log: str) -> None:
    """A click on a number makes a link, with Shift a range; `y` copies it, and `Y` the text without numbers."""
    page = reader.go(f"{long_log}#L500")
    page.locator(_line(page, 502)).get_by_role("link").click()
    expect(page).to_have_url(re.compile(r"#L502$"))
    page.locator(_line(page, 504)).get_by_role("link").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile(r"#L502-504$"))
    page.keyboard.press("y")
    reader.said("Copied the link to L502-504")
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"{long_log}#L502-504")
    page.keyboard.press("Shift+Y")
    reader.said("Copied 3 lines")
    copied = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert [line.split(" of")[0] for line in copied] == ["line 502", "line 503", "line 504"]
    # Another browser opens there.
    page.reload()
    expect(page.locator(_line(page, 503))).to_have_class(re.compile("linked"))


def test_a_step_is_followed_until_the_reader_scrolls_up(site: Site, reader: Visit, tmp_path: Path) -> None:
    """New lines appear at the end; scrolling up stops that and counts them; `End` resumes it; every line comes once."""
    stop = tmp_path / "stop"
    run = site.start(TICKING.replace("FILE", str(stop)))
    try:
        page = reader.go(f"/runs/{run}")
        # In the pane of the run page, and in the same sequence on its own page.
        expect(page.get_by_role("log")).to_contain_text(re.compile(r"tick \d"))
        page.get_by_role("link", name="Open as a page").click()
        expect(page.get_by_role("button", name="Following")).to_be_visible()
        _wait_for_line(page, FOLLOWED)
        page.mouse.move(640, 400)
        page.mouse.wheel(0, -400)
        behind = page.get_by_role("button", name=re.compile(r"\d+ new ↓"))
        expect(behind).to_be_visible()
        expect(page.get_by_role("button", name="Follow", exact=True)).to_have_attribute("aria-pressed", "false")
        first = page.locator(".log-line").first.get_attribute("data-line")
        expect(behind).to_have_text(re.compile(r"[2-9]\d new|\d{3} new"))
        assert page.locator(".log-line").first.get_attribute("data-line") == first
        page.keyboard.press("End")
        expect(behind).to_have_count(0)
        expect(page.get_by_role("button", name="Following")).to_be_visible()
    finally:
        stop.touch()
    expect(page.get_by_text("end of ticking")).to_be_visible()
    expect(page.get_by_role("button", name="Following")).to_have_count(0)
    shown = page.locator(".log-line > span").all_inner_texts()
    numbers = [int(text.split()[1]) for text in shown if text.startswith("tick ")]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.skipif(not IS_FULL, reason="part of `make nightly`: the rate needs a quiet machine")
def test_ten_thousand_lines_a_second_are_followed_without_a_gap(site: Site, reader: Visit, tmp_path: Path) -> None:
    """Opened late, every line that the page shows has its number, while it follows, is scrolled, and at the end."""
    stop = tmp_path / "stop"
    run = site.start(FAST.replace("FILE", str(stop)))
    path = f"/v1/runs/{run}/output"
    asked = {"job": "work", "step": "fast", "attempt": 1, "tail": 1}
    try:
        wait_until(lambda: site.api("GET", path, params=asked).json().get("lines", 0) >= LATE_LINES, "many lines")
        reader.page.add_init_script(_WATCH_NUMBERS)
        page = reader.go(f"/runs/{run}/log/work/fast/1")
        _wait_for_line(page, LATE_LINES)
        shown = page.evaluate(
            "Math.max(...[...document.querySelectorAll('.log-line')].map((l) => Number(l.dataset.line)))"
        )
        _wait_for_line(page, shown + LATE_LINES)
        page.mouse.move(640, 400)
        page.mouse.wheel(0, -400)
        behind = page.get_by_role("button", name=re.compile(r"[\d,]+ new ↓"))
        expect(behind).to_be_visible()
        top = _top(page)
        expect(behind).to_have_text(re.compile(r"\d,\d{3} new"))
        assert _top(page) == top
        page.keyboard.press("Home")
        expect(page.locator(_line(page, 1))).to_have_text("1line 1")
        page.keyboard.press("End")
        expect(page.get_by_role("button", name="Following")).to_be_visible()
    finally:
        stop.touch()
    # The end of the output may arrive after the end of the run.
    wait_until(lambda: site.api("GET", path, params=asked).json()["is_complete"], "all lines")
    count = site.api("GET", path, params=asked).json()["lines"] - 1
    expect(page.locator(_line(page, count + 1))).to_have_text(f"{count + 1}lines: {count}")
    expect(page.locator(_line(page, count))).to_have_text(f"{count}line {count}")
    assert page.evaluate("window.wrongNumbers") == []
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS_MAX


def test_the_download_is_what_the_step_printed(site: Site, reader: Visit, long_log: str) -> None:
    """Byte by byte, escapes included; a line of the download is the line of that number on the page."""
    page = reader.go(f"{long_log}#L73121")
    shown = page.locator(_line(page, 73_121)).inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    content = Path(download.value.path()).read_bytes()
    printed = b"".join(
        b"line %d of \x1b[3%dma log\x1b[0m%s\n" % (number, number % 8, b"" if number % 5000 else b" error: it broke")
        for number in range(1, LINES + 1)
    )
    assert content == printed
    line = content.split(b"\n")[73_120].decode()
    assert re.sub(r"\x1b\[\d+m", "", line) == shown.removeprefix("73121").strip()


def test_search_finds_hits_and_folds_the_rest(reader: Visit, long_log: str) -> None:
    """`/` searches the log with a count; `n` and `N` step; only hits folds the others; `e` leads to the next error."""
    page = reader.go(f"{long_log}#L{LINES // 2 + 60}")
    expect(page.locator(_line(page, LINES // 2 + 60))).to_be_in_viewport()
    page.keyboard.press("/")
    page.keyboard.type("error")
    count = page.locator(".log-hits [role=status]")
    expect(count).to_have_text(f"11 of {LINES // 5000}")
    expect(page.locator(".log-line.current")).to_have_attribute("data-line", "55000")
    expect(page.locator(".log-line.current mark")).to_have_text("error")
    page.keyboard.press("Enter")
    expect(page.locator(".log-line.current")).to_have_attribute("data-line", "60000")
    page.get_by_role("log").focus()
    page.keyboard.press("N")
    page.keyboard.press("N")
    expect(count).to_have_text(f"10 of {LINES // 5000}")
    expect(page.locator(_line(page, 50_000))).to_be_in_viewport()
    page.get_by_role("button", name="Match case").click()
    page.get_by_role("textbox", name="Find in the output").fill("ERROR")
    expect(count).to_have_text("not found")
    page.get_by_role("button", name="Match case").click()
    expect(count).to_have_text(re.compile(f"of {LINES // 5000}$"))
    page.get_by_role("button", name="Only hits").click()
    expect(page.locator(".log-gap").first).to_contain_text("lines")
    expect(page).to_have_url(re.compile(r"q=ERROR.*only=1"))
    page.get_by_role("button", name="Only hits").click()
    page.get_by_role("textbox", name="Find in the output").press("Escape")
    expect(page.locator(".log-hits")).to_have_count(0)
    expect(page.get_by_role("log")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("e")
    expect(page.locator(".log-line.current")).to_have_attribute("data-line", "5000")


def test_output_is_text_whatever_it_contains(site: Site, reader: Visit) -> None:
    """Colours and the last state of progress are shown; markup, marks, escapes and a 10 MB line are text, and move nothing."""
    run = site.start(MIXED_LOG)
    site.wait_for(run)
    page = reader.go(f"/runs/{run}/log/print/mixed/1")
    expect(page.locator(_line(page, 1))).to_contain_text("<script>alert(3)</script> \\u202ereversed \\x00nul")
    expect(page.locator(_line(page, 2))).to_contain_text("\\x1b]8;;http://elsewhere.example\\x07link")
    expect(page.locator(_line(page, 3)).get_by_text("red", exact=True)).to_have_css("color", "rgb(179, 18, 47)")
    expect(page.locator(_line(page, 3)).get_by_text("bold")).to_have_css("font-weight", "700")
    expect(page.locator(_line(page, 4))).to_contain_text("100 %")
    expect(page.locator(_line(page, 4))).to_contain_text("×100")
    link = page.get_by_role("link", name="https://example.org/a")
    expect(link).to_have_attribute("rel", "noreferrer noopener")
    expect(page.locator(_line(page, 6))).to_contain_text("9.5 MiB more in this line")
    expect(page.locator(_line(page, 7))).to_have_class(re.compile("m-error"))
    expect(page.locator(_line(page, 7))).to_contain_text("Error: a.c:3: <b>broken</b>")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("w")
    expect(page.get_by_role("button", name="Wrap long lines")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_time_of_lines_is_shown_as_wanted(reader: Visit, long_log: str) -> None:
    """Off, since the start, or on the clock; the choice is in the address."""
    page = reader.go(f"{long_log}#L10")
    page.get_by_label("Time").select_option("clock")
    expect(page.locator(_line(page, 10))).to_have_attribute("data-time", re.compile(r"^\d\d:\d\d:\d\d$"))
    page.get_by_label("Time").select_option("start")
    expect(page.locator(_line(page, 10))).to_have_attribute("data-time", re.compile(r"^\d+\.\ds$"))
    expect(page).to_have_url(re.compile("time=start#L10$"))


def test_equal_output_of_servers_is_shown_once(site: Site, reader: Visit) -> None:
    """The page of a job has one section for servers that printed the same, and all lines by time with their servers."""
    run = site.start(ROLL)
    site.wait_for(run)
    page = reader.go(f"/runs/{run}/log/roll")
    expect(page.get_by_text("same on 2 servers: web-1, web-2")).to_be_visible()
    expect(page.locator(".log-line")).to_have_count(2)
    box = page.locator(".log-body").bounding_box()
    assert box is not None
    assert box["width"] > page.viewport_size["width"] / 2  # type: ignore[index]
    page.get_by_role("button", name="By time").click()
    expect(page.locator(".log-line")).to_have_count(4)
    expect(page.locator('.log-line[data-server="web-2"]')).to_have_count(2)


def test_what_is_missing_is_said(site: Site, reader: Visit) -> None:
    """A step that printed nothing, and an attempt that does not exist, are sentences."""
    page = reader.go(f"/runs/{site.runs['gate']}/log/ship/nothing/1")
    expect(page.get_by_role("heading", name="There is no such step or attempt.")).to_be_visible()
    silent = site.start("name: silent\njobs:\n  a: {runs-on: web, steps: [{id: s, run: 'true'}]}\n")
    site.wait_for(silent)
    page = reader.go(f"/runs/{silent}/log/a/s/1")
    expect(page.get_by_text("The step printed nothing.")).to_be_visible()


def test_a_killed_daemon_loses_and_repeats_no_line(site: Site, reader: Visit, tmp_path: Path) -> None:
    """While the page follows, the daemon is killed: the page says so, and continues by itself without a gap."""
    stop = tmp_path / "stop"
    run = site.start(TICKING.replace("FILE", str(stop)))
    try:
        page = reader.go(f"/runs/{run}/log/work/tick/1")
        _wait_for_line(page, FOLLOWED)
        site.kill_daemon()
        expect(page.get_by_role("button", name="Connection lost")).to_be_visible()
        site.start_daemon()
        expect(page.get_by_role("button", name="Following")).to_be_visible()
    finally:
        stop.touch()
    expect(page.get_by_text("end of ticking")).to_be_visible()
    site.wait_for(run)
    page.keyboard.press("Home")
    expect(page.locator(_line(page, 1))).to_have_text("1tick 1")
    for number in (20, 40):
        expect(page.get_by_text(f"tick {number}", exact=True)).to_have_count(1)
        expect(page.locator(_line(page, number))).to_have_text(f"{number}tick {number}")
        page.mouse.move(640, 400)
        page.mouse.wheel(0, 400)
    reader.faults[:] = [fault for fault in reader.faults if "ERR_" not in fault]
