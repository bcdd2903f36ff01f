import assert from "node:assert/strict";
import { test } from "node:test";
import { begun, type OutlineNode } from "../model/outline";
import { partsOf } from "../model/parts";
import { batchesOf, instancesOf, rollOuts, serverRows, type ServerRow } from "../model/servers";
import { instantOf, nextMark, stateAfter, ticksOf } from "../model/slider";
import { answer, change, job } from "./sample";

const roll = (fields: Partial<OutlineNode> = {}): OutlineNode => job("roll", { kind: "each", total: 30, conclusion: "failure", ...fields });
const instance = (index: number): OutlineNode =>
  index < 20
    ? job(`roll[web-${index}]`, { parent: "roll", conclusion: index === 15 ? "failure" : "success" })
    : job(`roll[web-${index}]`, { parent: "roll", conclusion: "skipped", changes: [change(99, 30, "skipped")] });
const outline = begun(answer([roll({ batches: [10, 20, 30], halted: "1 of 30 failed" }), ...Array.from({ length: 30 }, (_, index) => instance(index))], { seq: 100, marks: [[40, 15_000, "failure"], [41, 15_000, "batch-completed"], [90, 29_000, "halted"]] }), false);
const [part] = partsOf(outline);
const instances = part === undefined ? [] : instancesOf(part, outline);
const kinds = (rows: readonly ServerRow[]): readonly string[] => rows.map((row) => (row.kind === "cells" ? `${row.instances.length}` : row.kind));

test("instances are cells in the order of their turns, in batches, with the line at which the job was halted", () => {
  assert.deepEqual(rollOuts(outline).map((node) => node.place), ["roll"]);
  assert.deepEqual([instances.length, instances[0]?.name, instances[15]?.state], [30, "web-0", "failure"]);
  const rows = serverRows(batchesOf(instances, [10, 20, 30]), 8, [], true, "1 of 30 failed");
  assert.deepEqual(kinds(rows), ["batch", "8", "2", "batch", "8", "2", "halted", "batch", "8", "2"]);
  assert.deepEqual(rows[3]?.kind === "batch" && [...rows[3].counts], [["success", 9], ["failure", 1]]);
});

test("the choices leave what failed and what was not reached", () => {
  const batches = batchesOf(instances, [10, 20, 30]);
  assert.deepEqual(kinds(serverRows(batches, 8, ["failed"], true, "halted")), ["batch", "1", "halted"]);
  assert.deepEqual(kinds(serverRows(batches, 20, ["failed", "not-reached"], true, "")), ["batch", "1", "batch", "10"]);
  assert.deepEqual(kinds(serverRows(batchesOf(instances, []), 40, [], true, "")), ["30"]);
});

test("an event has its instant, marks their place, and the next one is found in both directions", () => {
  assert.deepEqual([instantOf(outline, 2), instantOf(outline, 9), instantOf(outline, 100)], [10_000, 20_000, 30_000]);
  assert.deepEqual(ticksOf(outline.marks, 100).map((tick) => [tick.kind, Math.round(tick.percent)]), [["failure", 40], ["batch", 41], ["failure", 90]].slice(0, 3));
  assert.deepEqual([nextMark(outline, 40, 1), nextMark(outline, 90, 1), nextMark(outline, 90, -1), nextMark(outline, 40, -1)], [41, 100, 41, 1]);
});

test("a run in the past was what its jobs were, and is over only after the event that says so", () => {
  const ended = begun(answer([job("a", { changes: [change(3, 1, "waiting"), change(5, 2, "running"), change(8, 3, "failure")] })], { conclusion: "failure", marks: [[9, 3_000, "completed"]] }), false);
  assert.deepEqual([1, 3, 5, 8, 9].map((seq) => stateAfter(ended, seq)), ["queued", "waiting", "running", "running", "failure"]);
});
