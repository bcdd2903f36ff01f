import assert from "node:assert/strict";
import { test } from "node:test";
import { begun, isOpened, merged, withPage, withSteps } from "../model/outline";
import { answer, change, job, step } from "./sample";

test("what has changed is added to what is known, each change once", () => {
  const outline = begun(answer([job("a", { status: "running" }), step("a/s", "a", { status: "running" })], { seq: 5, ended_at: null, status: "running", conclusion: null }), false);
  const later = merged(outline, answer([{ ...step("a/s", "a"), changes: [change(5, 13, "started"), change(8, 20, "success", 3)] }], { seq: 8, reasons_from: 3, reasons: [["y", "new"]] }));
  assert.deepEqual(later.nodes.get("a/s")?.changes?.map((one) => one[2]), ["queued", "sent", "started", "success"]);
  assert.deepEqual([later.seq, later.reasons[3], later.conclusion, later.touched.get("a/s"), later.touched.get("a")], [8, ["y", "new"], "success", 8, 5]);
});

test("the conclusion of a step replaces the end of its last attempt, which is the event before it", () => {
  const ended = step("a/s", "a", { status: "running", changes: [change(3, 1, "queued"), change(6, 2, "finished")] });
  const known = begun(answer([job("a"), ended], { seq: 6 }), false);
  const codes = (seq: number, code: string): readonly string[] =>
    merged(known, answer([{ ...ended, changes: [change(seq, 2, code)] }], { seq })).nodes.get("a/s")?.changes?.map((one) => one[2]) ?? [];
  assert.deepEqual([codes(7, "failure"), codes(7, "waiting"), codes(8, "failure")], [["queued", "failure"], ["queued", "finished", "waiting"], ["queued", "finished", "failure"]]);
});

test("of a large run only jobs are here, until one is opened with all its changes", () => {
  const outline = withPage(begun(answer([job("a"), job("b")], { seq: 5 }), true), answer([job("c")], { seq: 7 }));
  assert.equal(outline.seq, 5);
  const changed = merged(outline, answer([step("a/s", "a", { changes: [change(9, 9, "started")] }), job("r[x]", { parent: "r" })], { seq: 9 }));
  assert.deepEqual([...changed.nodes.keys()], ["a", "b", "c", "r[x]"]);
  const opened = withSteps(changed, "a", answer([job("a"), step("a/s", "a"), step("a/s/inner", "a/s")], { seq: 9 }));
  assert.deepEqual([isOpened(opened, "a"), isOpened(opened, "b"), opened.nodes.size], [true, false, 6]);
  const later = merged(opened, answer([step("a/s/other", "a/s"), step("b/s", "b")], { seq: 10 }));
  assert.deepEqual([later.nodes.has("a/s/other"), later.nodes.has("b/s"), later.seq], [true, false, 10]);
});
