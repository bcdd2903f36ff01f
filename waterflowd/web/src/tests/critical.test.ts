import assert from "node:assert/strict";
import { test } from "node:test";
import { axisOf, between, folded, instantAt, percent } from "../model/axis";
import { criticalPath } from "../model/critical";
import { begun, type OutlineNode } from "../model/outline";
import { partsOf, type Part } from "../model/parts";
import { answer, change, job, step } from "./sample";

const parts = (nodes: readonly OutlineNode[]): readonly Part[] => partsOf(begun(answer(nodes), false));
const ran = (place: string, from: number, to: number, fields: Partial<OutlineNode> = {}): OutlineNode => job(place, { changes: [change(2, from, "running"), change(9, to, "success")], ...fields });
const worked = (job_: string, from: number, to: number): OutlineNode => step(`${job_}/s`, job_, { changes: [change(3, from, "started"), change(8, to, "success")] });

test("idle spans of a tenth are folded to a few percent, and every instant keeps its order", () => {
  const axis = folded(axisOf(0, 100_000, 0), parts([ran("a", 0, 10), worked("a", 0, 10), ran("b", 80, 100), worked("b", 82, 100)]), 0);
  assert.deepEqual(axis.folds.map((fold) => [fold.from, fold.to]), [[10_000, 82_000]]);
  assert.ok(percent(axis, 82_000) - percent(axis, 10_000) < 4.1);
  assert.ok(percent(axis, 10_000) > 30 && percent(axis, 100_000) === 100);
  for (const at of [0, 5_000, 10_000, 40_000, 82_000, 99_000]) assert.ok(Math.abs(instantAt(axis, percent(axis, at)) - at) < 1, `${at}`);
});

test("without idle spans nothing is folded", () => {
  const whole = axisOf(0, 100_000, 0);
  assert.deepEqual(folded(whole, parts([ran("a", 0, 95), worked("a", 0, 95)]), 0), whole);
  assert.deepEqual(between(whole, 60_000, 20_000), { from: 20_000, to: 60_000, folds: [] });
  assert.equal(instantAt(whole, 25), 25_000);
});

test("the critical path leads over the need that ended last, and says how much was waiting", () => {
  const path = criticalPath(
    parts([ran("lint", 0, 5), ran("build", 0, 30), worked("build", 0, 30), ran("deploy", 60, 100, { needs: ["lint", "build"] }), worked("deploy", 60, 100), ran("docs", 0, 99)]),
    0, 0,
  );
  assert.deepEqual(path?.links.map((part) => part.place), ["build", "deploy"]);
  assert.deepEqual([path?.totalMs, path?.waitedMs, path?.places.has("deploy/s")], [100_000, 30_000, true]);
});

test("of instances that took turns, all that waited for each other are on the path", () => {
  const instance = (name: string, from: number, to: number): OutlineNode => ran(`roll[${name}]`, from, to, { parent: "roll" });
  const path = criticalPath(parts([ran("roll", 0, 60, { kind: "each", total: 3 }), instance("a", 0, 20), instance("b", 0, 10), instance("c", 20, 60)]), 0, 0);
  assert.deepEqual(path?.links.map((part) => part.place), ["roll[a]", "roll[c]"]);
  assert.equal(path?.waitedMs, 0);
});

test("there is no path before a job has begun, and one that is at work ends now", () => {
  assert.equal(criticalPath(parts([job("a", { status: "queued", changes: [] })]), 0, 0), null);
  assert.equal(criticalPath(parts([job("a", { status: "running" })]), 0, 50_000)?.totalMs, 50_000);
});
