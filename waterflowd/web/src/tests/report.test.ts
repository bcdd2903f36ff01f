import assert from "node:assert/strict";
import { test } from "node:test";
import { chosenRows, compared, nextOrder, orderOf, type Report, type ReportRow } from "../model/report";

const row = (name: string, values: ReportRow["values"], note = ""): ReportRow => ({
  job: `inspect[${name}]`, name, status: "completed", conclusion: note === "" ? "success" : "failure", reason: { code: "", text: note }, values, note,
});
const report: Report = {
  job: "inspect", title: "Servers", columns: ["Free", "Load"], rows_of: "server", rows_total: 4, next: null,
  rows: [row("web-10", { Free: "9 GB", Load: 0.5 }), row("web-2", { Free: "10 GB", Load: -1 }), row("web-1", null, "not connected"), row("db-1", { Free: "1.5 GB" })],
};
const names = (text: string | null, find = "", onlyBad = false): readonly string[] => chosenRows(report, orderOf(text, 5), find, onlyBad).map((one) => one.name);

test("rows are sorted by numbers, also with a unit, and what is missing comes last either way", () => {
  assert.deepEqual(names(null), ["web-10", "web-2", "web-1", "db-1"]);
  assert.deepEqual(names("0"), ["db-1", "web-1", "web-2", "web-10"]);
  assert.deepEqual(names("2"), ["db-1", "web-10", "web-2", "web-1"]);
  assert.deepEqual(names("-2"), ["web-2", "web-10", "db-1", "web-1"]);
  assert.deepEqual(names("3"), ["web-2", "web-10", "web-1", "db-1"]);
  assert.ok(compared("1.5 GB", "1.50 GB") <= 0);
});

test("a click sorts, then reverses, then restores; other addresses sort by nothing", () => {
  assert.equal(nextOrder(null, 3), "3");
  assert.equal(nextOrder(orderOf("3", 5), 3), "-3");
  assert.equal(nextOrder(orderOf("-3", 5), 3), null);
  assert.equal(nextOrder(orderOf("-3", 5), 1), "1");
  for (const odd of ["5", "x", "--1", "1e3", ""]) assert.equal(orderOf(odd, 5), null);
});

test("rows are found by any of their texts, and by what did not succeed", () => {
  assert.deepEqual(names(null, "10"), ["web-10", "web-2"]);
  assert.deepEqual(names(null, "CONNECTED"), ["web-1"]);
  assert.deepEqual(names(null, "", true), ["web-1"]);
});
