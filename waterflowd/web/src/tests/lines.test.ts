import assert from "node:assert/strict";
import { test } from "node:test";
import { EventReader, Lines, visible, type ServerEvent } from "../model/lines";

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
