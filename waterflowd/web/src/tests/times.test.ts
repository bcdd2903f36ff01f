import assert from "node:assert/strict";
import { test } from "node:test";
import { duration, elapsed, instant, relative, ticks } from "../model/times";

test("durations have at most two units and never round up to a unit that is full", () => {
  assert.deepEqual(
    [0, 850, 999, 9_700, 9_949, 9_951, 59_900, 59_960, 192_000, 3_599_700, 7_500_000, 86_400_000 * 4 + 3_600_000 * 3].map(duration),
    ["0ms", "850ms", "999ms", "9.7s", "9.9s", "10s", "60s", "1m00s", "3m12s", "1h00m", "2h05m", "4d3h"],
  );
});

test("ages are said in one unit, before and after now", () => {
  const now = 1_000_000_000;
  assert.equal(relative(now - 500, now), "now");
  assert.equal(relative(now - 12_000, now), "12 s ago");
  assert.equal(relative(now + 300_000, now), "in 5 min");
  assert.equal(relative(now - 86_400_000 * 3, now), "3 d ago");
});

test("what has not begun has taken no time, and what is not over counts to now", () => {
  assert.equal(elapsed(null, null, 5), null);
  assert.equal(elapsed("1970-01-01T00:00:01Z", null, 4_000), 3_000);
  assert.equal(elapsed("1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z", 9_000), 1_000);
  assert.equal(instant("nonsense"), null);
});

test("an axis has at most the wanted number of intervals, at round steps", () => {
  for (const span of [3, 999, 61_000, 3_600_000, 86_400_000 * 40, 86_400_000 * 4000]) {
    const marks = ticks(span, 8);
    assert.ok(marks.length >= 1 && marks.length <= 9, `${span}: ${marks.length}`);
    assert.equal(marks[0], 0);
  }
  assert.deepEqual(ticks(60_000, 6), [0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
});
