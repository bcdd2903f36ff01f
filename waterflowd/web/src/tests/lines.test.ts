import assert from "node:assert/strict";
import { test } from "node:test";
import { EventReader, Lines, outputText, visible, type ServerEvent } from "../model/lines";
import { appended, KEPT, NONE } from "../model/output";

test("lines are whole, wherever the pieces were cut", () => {
  const text = "one\r\ntwo\n\nthree\nrest";
  for (let size = 1; size <= text.length; size++) {
    const lines = new Lines();
    const found: string[] = [];
    for (let at = 0; at < text.length; at += size) found.push(...lines.push(text.slice(at, at + size)));
    assert.deepEqual(found, ["one", "two", "", "three"]);
  }
});

test("server-sent events keep their id, join their data and skip comments", () => {
  const reader = new EventReader();
  const found = ["retry: 1000", "", ": still here", "", "id: 7", "event: row", "data: a", "data:b", "", "data: c", ""]
    .map((line) => reader.push(line))
    .filter((event): event is ServerEvent => event !== null);
  assert.deepEqual(found, [
    { id: "7", event: "row", data: "a\nb" },
    { id: "7", event: "message", data: "c" },
  ]);
});

test("marks that reorder or hide text are shown as escapes", () => {
  assert.equal(visible("a\u202eb\u0000c\u200bd\te"), "a\\u202eb\\x00c\\u200bd\te");
  assert.equal(visible("<script>é漢😀"), "<script>é漢😀");
});

test("output loses its colours, keeps the last state of a progress line, and shows every other escape", () => {
  assert.equal(outputText("\u001b[1;31mred\u001b[0m"), "red");
  assert.equal(outputText(" 1 %\r 50 %\r100 %\r"), "100 %");
  assert.equal(outputText("\u001b]8;;https://example.org\u0007x"), "\\x1b]8;;https://example.org\\x07x");
});

test("the newest lines are kept, with their numbers", () => {
  const line = { job: "a", step: "b", attempt: 1, stream: "stdout", text: "x", cursor: "" };
  const output = appended(appended(NONE, Array(KEPT).fill(line)), [line, { ...line, stream: "stderr" }]);
  assert.equal(output.lines.length, KEPT);
  assert.equal(output.total, KEPT + 2);
  assert.equal(output.lines[0]?.number, 3);
  assert.deepEqual([output.lines.at(-1)?.number, output.lines.at(-1)?.isError], [KEPT + 2, true]);
});
