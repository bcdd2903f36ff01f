import assert from "node:assert/strict";
import { test } from "node:test";
import { expressionOf, folded, HITS_MAX, hitFrom, looksLikeError, NO_TERMS, searched, unfolded } from "../model/log/hits";
import { markedLine } from "../model/log/marks";
import { byTime, folded as foldedSections, manyLines, sections, shortJob } from "../model/log/many";
import { addressOf, extended, fragmentOf, pathOf, rangeOf } from "../model/log/ranges";
import { bytesText, lineTime } from "../model/log/sizes";
import * as scroll from "../model/log/scroll";
import { CHUNK, KEPT, LogLines } from "../model/log/store";
import type { OutputBlock, OutputPage } from "../model/shapes";

const block = (line: number, ...texts: readonly string[]): OutputBlock => ({ line, offset: 0, bytes: 0, text: texts.map((text) => `${text}\n`).join(""), at: [], stderr: [] });
const page = (lines: number, ...blocks: readonly OutputBlock[]): OutputPage => ({ lines, bytes: 0, is_complete: false, left_out: [], blocks });
const many = (first: number, count: number): OutputBlock => block(first, ...Array.from({ length: count }, (_, index) => `line ${first + index}`));

test("lines have their numbers, whatever part of the log is here", () => {
  const lines = new LogLines();
  lines.add(page(1_000_000, many(700_001, 3)));
  assert.equal(lines.total, 1_000_000);
  assert.equal(lines.line(700_002)?.text, "line 700002");
  assert.equal(lines.line(700_004), null);
  assert.deepEqual([...lines.loaded()].map((line) => line.number), [700_001, 700_002, 700_003]);
});

test("blocks may overlap, and continue a line that the one before began", () => {
  const lines = new LogLines();
  const put = (line: number, offset: number, text: string): void => lines.put({ line, offset, bytes: text.length, text, at: [], stderr: [] });
  put(1, 0, "one\ntw");
  assert.deepEqual([lines.total, lines.line(2)?.text, lines.next], [2, "tw", 2]);
  put(2, 6, "o\nthree\n");
  assert.deepEqual([lines.total, lines.line(2)?.text, lines.line(3)?.text, lines.next], [3, "two", "three", 4]);
  put(2, 4, "two\n");
  assert.deepEqual([lines.total, lines.line(2)?.text], [3, "two"]);
  put(4, 14, "\nfi");
  put(5, 17, "v");
  put(5, 18, "e");
  assert.deepEqual([lines.line(4)?.text, lines.line(5)?.text, lines.next], ["", "five", 5]);
  put(5, 15, "five, read again\n");
  assert.deepEqual([lines.line(5)?.text, lines.next, lines.total], ["five, read again", 6, 5]);
});

test("the part of a long line that the server leaves out is counted", () => {
  const lines = new LogLines();
  lines.put({ ...block(1), bytes: 65_536, text: "x".repeat(65_536) });
  lines.put({ ...block(1), offset: 10_000_000, bytes: 5, text: "\nnext", at: [] });
  assert.deepEqual([lines.line(1)?.text.length, lines.line(1)?.cut, lines.line(2)?.text], [65_536, 10_000_000 - 65_536, "next"]);
});

test("times and standard error apply to stretches of lines", () => {
  const lines = new LogLines();
  lines.put({ ...many(CHUNK - 1, 5), at: [[CHUNK - 1, 100], [CHUNK + 1, 250]], stderr: [[CHUNK, 2]] });
  const found = [...lines.loaded()].map((line) => [line.number - CHUNK, line.at, line.isError]);
  assert.deepEqual(found, [[-1, 100, false], [0, 100, true], [1, 250, true], [2, 250, false], [3, 250, false]]);
  assert.equal(lines.startedAt, 100);
  lines.put(many(CHUNK + 4, 1));
  assert.equal(lines.line(CHUNK + 4)?.at, 250);
});

test("what is missing is asked for once, in one stretch, and only what exists", () => {
  const lines = new LogLines();
  lines.add(page(2_000, many(501, 100)));
  assert.deepEqual(lines.missing(490, 50, 1_000), { first: 490, count: 11 });
  assert.deepEqual(lines.missing(550, 100, 20), { first: 601, count: 20 });
  assert.equal(lines.missing(501, 100, 1_000), null);
  assert.deepEqual(lines.missing(1_990, 100, 1_000), { first: 1_990, count: 11 });
});

test("never more lines are kept than the ring holds, and those near the reader stay", () => {
  const lines = new LogLines();
  for (let first = 1; first <= KEPT * 2; first += CHUNK) {
    lines.put(many(first, CHUNK));
    lines.trim(first);
  }
  assert.equal(lines.kept, KEPT);
  assert.equal(lines.line(1), null);
  assert.equal(lines.line(KEPT * 2)?.text, `line ${KEPT * 2}`);
  assert.equal(lines.total, KEPT * 2);
});

test("bytes that are missing stand at their line", () => {
  const lines = new LogLines();
  lines.add({ ...page(2, many(1, 2)), left_out: [{ line: 2, bytes: 4096 }] });
  assert.deepEqual([lines.line(1)?.leftOut, lines.line(2)?.leftOut], [0, 4096]);
});

test("plain text is searched as it is written, with case and whole words", () => {
  const lines = new LogLines();
  lines.put(block(1, "Error: a.b", "aXb", "an error", "terror", "\u001b[31mer\u001b[0mror"));
  const found = (terms: Partial<typeof NO_TERMS>): readonly number[] => searched(lines.loaded(), { ...NO_TERMS, ...terms });
  assert.deepEqual(found({ text: "error" }), [1, 3, 4, 5]);
  assert.deepEqual(found({ text: "error", hasCase: true }), [3, 4, 5]);
  assert.deepEqual(found({ text: "error", isWord: true }), [1, 3, 5]);
  assert.deepEqual(found({ text: "a.b" }), [1]);
  assert.deepEqual(found({ text: "a.b", isExpression: true }), [1, 2]);
  assert.equal(expressionOf({ ...NO_TERMS, text: "(", isExpression: true }), null);
  assert.deepEqual(found({ text: "" }), []);
});

test("hits are bounded, and the next one is found by line", () => {
  const lines = new LogLines();
  lines.put(many(1, HITS_MAX + 5));
  assert.equal(searched(lines.loaded(), { ...NO_TERMS, text: "line" }).length, HITS_MAX);
  assert.deepEqual([hitFrom([5, 9], 1), hitFrom([5, 9], 6), hitFrom([5, 9], 10), hitFrom([], 1)], [0, 1, 0, 0]);
});

test("errors are words, not parts of words", () => {
  assert.deepEqual(["fatal: no", "Traceback (most", "kernel panic", "0 errors", "terror"].map(looksLikeError), [true, true, true, false, false]);
});

test("only hits: every row is a line or a gap, and each line has its row", () => {
  for (const [hits, total] of [[[5], 9], [[1, 2, 20], 20], [[4, 12, 13, 30], 33], [[1], 1], [[], 7], [[7, 14], 20]] as const) {
    const view = folded(hits, total, 3);
    let next = 1;
    for (let row = 0; row < view.rows; row++) {
      const found = view.at(row);
      if (found > 0) {
        assert.equal(found, next);
        assert.equal(view.rowOf(found), row);
      }
      next += found > 0 ? 1 : -found;
      assert.ok(found !== 0);
    }
    assert.equal(next, total + 1, JSON.stringify([hits, total]));
  }
  const view = unfolded(10);
  assert.deepEqual([view.rows, view.at(3), view.rowOf(4)], [10, 4, 3]);
});

test("ranges and addresses survive being written and read", () => {
  assert.deepEqual(rangeOf("#L12"), { first: 12, last: 12 });
  assert.deepEqual(rangeOf("#L30-12"), { first: 12, last: 30 });
  for (const bad of ["", "#L0", "#12", "#L1-x", "#L12-0"]) assert.equal(rangeOf(bad), null);
  for (const range of [{ first: 3, last: 3 }, { first: 3, last: 9 }]) assert.deepEqual(rangeOf(fragmentOf(range)), range);
  assert.deepEqual([extended(null, 4), extended({ first: 4, last: 4 }, 2), extended({ first: 4, last: 9 }, 6)].map(fragmentOf), ["#L4", "#L2-4", "#L4-6"]);
  const address = { run: "01M8", job: "deploy/check[web-3]", step: "all[3]/%2F", attempt: 2 };
  assert.deepEqual(addressOf(pathOf(address)), address);
  assert.deepEqual(addressOf(pathOf({ run: "a", job: "b" })), { run: "a", job: "b", step: null, attempt: null });
  assert.equal(addressOf("/runs/a"), null);
  assert.equal(addressOf("/runs/a/log/%zz"), null);
});

test("a short list scrolls as it is, and a huge one reaches every line", () => {
  const small = scroll.geometry(1_000, 20, 600);
  assert.deepEqual(scroll.scrolled(small, { list: 0, box: 0 }, 777), { list: 777, box: 777 });
  for (const rows of [1_000, 500_000, 20_000_000]) {
    const tall = scroll.geometry(rows, 20, 600);
    assert.ok(tall.boxPx <= 8_000_000);
    for (const row of [0, 1, Math.floor(rows / 3), rows - 31, rows - 1]) {
      const found = scroll.at(tall, row * 20);
      assert.equal(found.list, Math.min(row * 20, rows * 20 - 600));
      assert.ok(found.box >= 0 && found.box <= tall.boxPx - 600, `${rows} ${row} ${found.box}`);
    }
  }
});

test("in a huge list short scrolls are exact, and jumps land at their share", () => {
  const tall = scroll.geometry(20_000_000, 20, 600);
  let now = scroll.at(tall, 123_456_789);
  for (let step = 0; step < 3_000; step++) {
    const before = now;
    now = scroll.scrolled(tall, before, before.box + 120);
    assert.equal(now.list, before.list + 120);
  }
  const jumped = scroll.scrolled(tall, now, tall.boxPx / 2);
  assert.ok(Math.abs(jumped.list / tall.listPx - 0.5) < 0.02);
  assert.equal(scroll.scrolled(tall, jumped, 0).list, 0);
  assert.equal(scroll.scrolled(tall, jumped, tall.boxPx - 600).list, scroll.endOf(tall));
});

test("equal output of many servers is one section, and what differs stands first", () => {
  const line = (job: string, text: string, at = "2026-01-01T00:00:00.000Z", cut = false) => ({ job, step: "go", attempt: 1, stream: "stdout", text, cursor: "", at, cut });
  const lines = manyLines([
    line("r[a]", "one"), line("r[b]", "one"), line("r[c]", "o", undefined, true), line("r[c]", "dd"), line("r[a]", "two"), line("r[b]", "two"),
  ]);
  const found = sections(lines);
  assert.deepEqual(found.map((section) => [section.jobs, section.lines.map((shown) => [shown.number, shown.text])]), [
    [["r[c]"], [[1, "odd"]]],
    [["r[a]", "r[b]"], [[1, "one"], [2, "two"]]],
  ]);
  assert.deepEqual(foldedSections(found, (section) => section.jobs.length > 1).map((row) => row.line?.text ?? "head"), ["head", "head", "one", "two"]);
  assert.deepEqual(["release[web-3]", "a[x]/b[y]", "plain"].map(shortJob), ["web-3", "y", "plain"]);
});

test("lines of many servers are ordered by time, and stay in order where it is equal", () => {
  const line = (text: string, at: number) => ({ number: 1, job: "a", step: "b", attempt: 1, text, at, isError: false });
  assert.deepEqual(byTime([line("c", 3), line("a", 1), line("b", 1)]).map((shown) => shown.text), ["a", "b", "c"]);
});

test("sizes and times of lines are short", () => {
  assert.deepEqual([0, 1, 812, 1536, 19_083_264, 3 * 1024 ** 3].map(bytesText), ["0 bytes", "1 byte", "812 bytes", "1.5 KiB", "18.2 MiB", "3.0 GiB"]);
  assert.deepEqual([400, 12_345, 185_230, 7_385_000].map((ms) => lineTime(1000 + ms, 1000, "start")), ["0.4s", "12.3s", "3:05.2", "2:03:05"]);
  assert.deepEqual([lineTime(5, 0, "off"), lineTime(null, 0, "start")], ["", ""]);
});

test("lines that a script has marked are told from plain ones", () => {
  assert.deepEqual(markedLine("##[error]a.py:3: broken"), { mark: "error", text: "a.py:3: broken" });
  assert.deepEqual(markedLine("##[group]Build"), { mark: "group", text: "Build" });
  assert.deepEqual(markedLine("##[endgroup]"), { mark: "endgroup", text: "" });
  assert.deepEqual(markedLine("::add-mask::***"), { mark: "masked", text: "::add-mask::***" });
  for (const plain of ["", "x ##[error]y", "##[section]x", "::error::x", "##[error"]) assert.deepEqual(markedLine(plain), { mark: null, text: plain });
});
