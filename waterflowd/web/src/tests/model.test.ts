import assert from "node:assert/strict";
import { test } from "node:test";
import { goals } from "../model/find";
import { fits, may, NEEDS } from "../model/permissions";
import { scrollFor, windowOf } from "../model/rows";
import { stateOf, STATES } from "../model/states";
import { run } from "./sample";

test("only the rows in view and a few around them are shown, at every place of the list", () => {
  for (const scroll of [0, 1_000, 100_000 * 28 - 600]) {
    const { first, count } = windowOf(100_000, 28, scroll, 600);
    assert.ok(count <= 40, `${count}`);
    assert.ok(first * 28 <= scroll && (first + count) * 28 >= scroll + 600);
  }
  assert.deepEqual(windowOf(0, 28, 0, 600), { first: 0, count: 0 });
  assert.equal(windowOf(3, 28, 5_000, 600).count, 1);
});

test("a row in view does not scroll the list, one outside does just enough", () => {
  assert.equal(scrollFor(3, 28, 0, 280), 0);
  assert.equal(scrollFor(10, 28, 0, 280), 28);
  assert.equal(scrollFor(1, 28, 100, 280), 28);
});

test("roles may do what the server lets them", () => {
  assert.ok(may("admin", NEEDS.approve) && may("approver", NEEDS.cancel) && may("runner", NEEDS.rerun));
  assert.ok(!may("viewer", NEEDS.cancel) && !may("runner", NEEDS.approve) && !may("operator", NEEDS.rerun));
});

test("an action fits the state of the run", () => {
  const ended = run();
  const open = run({ status: "running", conclusion: null });
  assert.deepEqual([fits("cancel", ended), fits("cancel", open)], [false, true]);
  assert.deepEqual([fits("rerun", ended), fits("rerun", open)], [true, false]);
  assert.deepEqual([fits("rerun-failed", ended), fits("rerun-failed", run({ conclusion: "lost" }))], [false, true]);
});

test("every status and conclusion is one of the states", () => {
  for (const conclusion of ["success", "failure", "cancelled", "timed-out", "skipped", "lost"] as const) {
    assert.ok(STATES.includes(stateOf({ status: "completed", conclusion })));
  }
  for (const status of ["queued", "waiting", "running"] as const) assert.equal(stateOf({ status, conclusion: null }), status);
});

test("the find box knows runs by number, id and revision, and else filters the list", () => {
  const runs = [run({ id: "01JABC", number: 42 }), run({ id: "01JXYZ", number: 7, name: "backup" })];
  assert.equal(goals("deploy#4", runs)[0]?.href, "/runs/01JABC");
  assert.equal(goals("01jx", runs)[0]?.href, "/runs/01JXYZ");
  assert.equal(goals("8440f", runs).length, 3);
  assert.equal(goals("status:failure", runs).at(-1)?.href, "/runs?status=failure");
  assert.equal(goals("", runs)[0]?.href, "/");
});
