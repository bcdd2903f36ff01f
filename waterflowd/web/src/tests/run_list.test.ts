import assert from "node:assert/strict";
import { test } from "node:test";
import { rowsOf } from "../model/run_list";
import type { RunSummary } from "../model/shapes";
import { run } from "./sample";

const named = (id: string, seq = 1): RunSummary => run({ id, seq });
const changed = (...runs: readonly RunSummary[]): ReadonlyMap<string, RunSummary> => new Map(runs.map((one) => [one.id, one]));

test("each run has one row, its newest; new runs are added only where no filter could refuse them", () => {
  const newest = [named("C"), named("B")];
  const rows = rowsOf(newest, [named("B"), named("A")], changed(named("B", 5), named("D"), named("A", 0)), true, null);
  assert.deepEqual(rows.shown.map((one) => [one.id, one.seq]), [["D", 1], ["C", 1], ["B", 5], ["A", 1]]);
  assert.deepEqual(rowsOf(newest, [], changed(named("D")), false, null).shown.map((one) => one.id), ["C", "B"]);
  // A changed run that is older than what was read comes with its page.
  assert.equal(rowsOf(newest, [], changed(named("A", 9)), true, null).shown.length, 2);
});

test("rows above the first one that somebody has seen wait", () => {
  const rows = rowsOf([named("B")], [], changed(named("C"), named("D")), true, "B");
  assert.deepEqual([rows.shown.map((one) => one.id), rows.waiting], [["B"], 2]);
});
