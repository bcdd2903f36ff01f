import assert from "node:assert/strict";
import { test } from "node:test";
import { axisOf, placeOf, zoomed } from "../model/axis";
import { partsOf } from "../model/parts";
import { find, focusOf, progress, rowsOf } from "../model/tree";
import { at, attempt, job, run, step } from "./sample";

const failed = { conclusion: "failure" } as const;

test("an attempt is a wait for a slot, the way to the server, and the work; the pause before a retry is apart", () => {
  const attempts = [attempt({ outcome: "failure" }), attempt({ attempt: 2, queued_at: at(25), dispatched_at: at(26), started_at: at(26), finished_at: at(30) })];
  const [part] = partsOf(run([job("a", { steps: [step("s", { attempts })] })]))[0]?.children ?? [];
  assert.deepEqual(
    part?.segments.map((segment) => [segment.spent, segment.from / 1000, (segment.to ?? 0) / 1000, segment.state]),
    [["slot", 10, 12, "waiting"], ["sent", 12, 13, "waiting"], ["running", 13, 20, "failure"], ["retry", 20, 25, "waiting"], ["slot", 25, 26, "waiting"], ["sent", 26, 26, "waiting"], ["running", 26, 30, "success"]],
  );
});

test("a run opens at its deepest first failure, else at what is at work, else at its end", () => {
  const later = job("b", { ...failed, started_at: at(50), steps: [step("x", failed)] });
  const first = job("a", { ...failed, steps: [step("ok"), step("bad", failed)] });
  assert.equal(focusOf(partsOf(run([later, first])))?.place, "a/bad");
  const running = job("c", { status: "running", conclusion: null, steps: [step("r", { status: "running", conclusion: null, completed_at: null })] });
  assert.equal(focusOf(partsOf(run([job("a"), running])))?.place, "c/r");
  assert.equal(focusOf(partsOf(run([job("a"), job("z")])))?.place, "z");
});

test("instances that failed stand first, and what the answer leaves out is one row", () => {
  const instances = [job("r[1]", { key: "1" }), job("r[2]", { key: "2", ...failed })];
  const [part] = partsOf(run([job("r", { kind: "each", jobs: instances, jobs_total: 38, ...failed })]));
  assert.deepEqual(part?.children.map((child) => child.name), ["2", "1", "36 other jobs"]);
});

test("a small run is open, a large one only where something failed or runs", () => {
  const jobs = Array.from({ length: 70 }, (_, index) => job(`j${index}`, { steps: [step("s")] }));
  assert.equal(rowsOf(partsOf(run(jobs.slice(0, 3))), new Map()).length, 6);
  const broken = job("broken", { ...failed, steps: [step("bad", failed)] });
  const rows = rowsOf(partsOf(run([...jobs, broken])), new Map([["j0", true]]));
  assert.equal(rows.length, 70 + 1 + 1 + 1);
  assert.deepEqual(rows.filter((row) => row.isOpen).map((row) => row.part.place), ["j0", "broken"]);
  assert.deepEqual([rows[1]?.level, rows[1]?.position, rows[1]?.siblings], [2, 1, 1]);
});

test("parts are found by their address, and steps counted", () => {
  const parts = partsOf(run([job("a", { steps: [step("s"), step("t", { status: "queued", conclusion: null })] })]));
  assert.equal(find(parts, "a/t")?.state, "queued");
  assert.equal(find(parts, "a/none"), null);
  assert.deepEqual(progress(parts), { done: 1, total: 2 });
});

test("the axis of a completed run is as long as the run, that of an open one a second at least", () => {
  assert.equal(axisOf(0, 80, 5000).to, 80);
  assert.equal(axisOf(0, null, 80).to, 1000);
});

test("bars are placed on the axis, also zoomed, and the zoom never leaves it", () => {
  const whole = axisOf(0, 100_000, 0);
  const segment = { spent: "running", from: 25_000, to: 50_000, state: "success", attempt: 1 } as const;
  assert.deepEqual(placeOf(whole, segment, 0), { left: 25, width: 25 });
  const half = zoomed(whole, whole, 2, 0);
  assert.deepEqual(half, { from: 0, to: 50_000 });
  assert.deepEqual(zoomed(half, whole, 0.1, 0), whole);
  assert.equal(placeOf({ from: 60_000, to: 70_000 }, segment, 0), null);
});
