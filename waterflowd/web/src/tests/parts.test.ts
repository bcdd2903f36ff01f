import assert from "node:assert/strict";
import { test } from "node:test";
import { axisOf, placeOf, zoomed } from "../model/axis";
import { begun, type OutlineNode } from "../model/outline";
import { partsOf, stepOf, type Part } from "../model/parts";
import { find, focusOf, jobOfPlace, progress, rowsOf } from "../model/tree";
import { answer, change, job, step } from "./sample";

const failed = { conclusion: "failure" } as const;
const parts = (nodes: readonly OutlineNode[], at?: number): readonly Part[] => partsOf(begun(answer(nodes), false), at);

test("an attempt is a wait for a slot, the way to the server, and the work; the pause before a retry is apart", () => {
  const changes = [
    change(3, 10, "queued"), change(4, 12, "sent"), change(5, 13, "started"), change(6, 20, "finished"), change(7, 20, "waiting", 1),
    change(8, 25, "queued"), change(9, 26, "sent"), change(10, 30, "success"),
  ];
  const [part] = parts([job("a"), step("a/s", "a", { changes })])[0]?.children ?? [];
  assert.deepEqual(
    part?.segments.map((segment) => [segment.spent, segment.from / 1000, (segment.to ?? 0) / 1000, segment.state]),
    [["slot", 10, 12, "waiting"], ["sent", 12, 13, "waiting"], ["running", 13, 20, "failure"], ["retry", 20, 25, "waiting"], ["slot", 25, 26, "waiting"], ["running", 26, 30, "success"]],
  );
  assert.deepEqual([part?.detail, part?.from, part?.to], ["try 2", 10_000, 30_000]);
});

test("a job shows what it waited for, and what it took from its first step on", () => {
  const changes = [change(3, 5, "waiting", 2), change(4, 8, "running"), change(5, 9, "waiting"), change(6, 20, "success")];
  const [part] = parts([job("a", { needs: ["b"], changes })]);
  assert.deepEqual(part?.segments.map((segment) => [segment.spent, segment.from / 1000, (segment.to ?? 0) / 1000]), [["needs", 0, 5], ["decision", 5, 8], ["whole", 8, 20]]);
});

test("a part is shown as it was after an earlier event", () => {
  const nodes = [job("a", failed), step("a/s", "a", failed)];
  const states = (at?: number): readonly string[] => parts(nodes, at).flatMap((part) => [part.state, part.children[0]?.state ?? ""]);
  assert.deepEqual([states(1), states(3), states(5), states(8), states()], [["queued", "queued"], ["running", "queued"], ["running", "running"], ["running", "failure"], ["failure", "failure"]]);
  assert.equal(parts(nodes, 5)[0]?.children[0]?.segments.at(-1)?.to, null);
});

test("a run opens at its deepest first failure, else at what is at work, else at its end", () => {
  const later = [job("b", { ...failed, changes: [change(50, 50, "running"), change(51, 51, "failure")] }), step("b/x", "b", failed)];
  const first = [job("a", failed), step("a/ok", "a"), step("a/bad", "a", failed)];
  assert.equal(focusOf(parts([...later, ...first]))?.place, "a/bad");
  const running = [job("c", { status: "running" }), step("c/r", "c", { status: "running" })];
  assert.equal(focusOf(parts([job("a"), ...running]))?.place, "c/r");
  assert.equal(focusOf(parts([job("a"), job("z")]))?.place, "z");
});

test("instances that failed stand first; behind a dozen, one row stands for the others and opens", () => {
  const roll = job("r", { kind: "each", total: 40, agent: "" });
  const instances = Array.from({ length: 40 }, (_, index) => job(`r[web-${index}]`, { parent: "r", agent: `web-${index}`, ...(index === 30 ? failed : {}) }));
  const [part] = parts([roll, ...instances]);
  assert.deepEqual(part?.children.map((child) => [child.kind, child.name, child.detail, child.children.length]), [["job", "web-30", "", 0], ["more", "others", "", 39]]);
  const rows = (toggled: ReadonlyMap<string, boolean>): number => rowsOf(part ? [part] : [], toggled).length;
  assert.deepEqual([rows(new Map()), rows(new Map([["r\u2026", true]]))], [3, 42]);
  assert.equal(parts([{ ...roll, total: 3 }, ...instances.slice(0, 3)])[0]?.children.length, 3);
});

test("steps inside a step are below it, and each pass of a loop has its row", () => {
  const nodes = [job("a"), step("a/all", "a", { node: "loop", total: 2 }), step("a/all[0]/say", "a/all"), step("a/all[1]/say", "a/all", failed), step("a/c", "a"), step("a/c/inner", "a/c")];
  const [loop, composite] = parts(nodes)[0]?.children ?? [];
  assert.deepEqual(loop?.children.map((part) => [part.kind, part.place, part.state]), [["block", "a/all[1]", "failure"], ["block", "a/all[0]", "success"]]);
  assert.deepEqual([composite?.children[0]?.place, composite?.children[0] && stepOf(composite.children[0])], ["a/c/inner", "c/inner"]);
});

test("a large run shows what failed, a small one everything", () => {
  const jobs = Array.from({ length: 50 }, (_, index) => [job(`j${index}`), step(`j${index}/s`, `j${index}`)]).flat();
  const broken = [job("broken", failed), step("broken/s", "broken", failed)];
  assert.equal(rowsOf(parts([...jobs.slice(0, 4), ...broken]), new Map()).length, 6);
  const rows = rowsOf(parts([...jobs, ...broken]), new Map([["j0", true]]));
  assert.deepEqual(rows.filter((row) => row.isOpen).map((row) => row.part.place), ["j0", "broken"]);
  assert.deepEqual([rows[1]?.level, rows[1]?.position, rows[1]?.siblings], [2, 1, 1]);
});

test("parts are found by their address, and steps counted", () => {
  const outline = begun(answer([job("a"), step("a/s", "a"), step("a/t", "a", { status: "queued" }), job("call/a")]), false);
  assert.equal(find(partsOf(outline), "a/t")?.state, "queued");
  assert.equal(find(partsOf(outline), "a/none"), null);
  assert.deepEqual(progress(outline), { done: 1, total: 2 });
  assert.deepEqual([jobOfPlace(outline, "a/s"), jobOfPlace(outline, "call/a/x/y"), jobOfPlace(outline, "none")], ["a", "call/a", null]);
});

test("the axis of a completed run is as long as the run, that of an open one a second at least", () => {
  assert.equal(axisOf(0, 80, 5000).to, 80);
  assert.equal(axisOf(0, null, 80).to, 1000);
});

test("bars are placed on the axis, also zoomed, and the zoom never leaves it", () => {
  const whole = axisOf(0, 100_000, 0);
  const segment = { spent: "running", from: 25_000, to: 50_000, state: "success" } as const;
  assert.deepEqual(placeOf(whole, segment, 0), { left: 25, width: 25 });
  const half = zoomed(whole, whole, 2, 0);
  assert.deepEqual(half, { from: 0, to: 50_000, folds: [] });
  assert.deepEqual(zoomed(half, whole, 0.1, 0), whole);
  assert.equal(placeOf({ from: 60_000, to: 70_000, folds: [] }, segment, 0), null);
});
