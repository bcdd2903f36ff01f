import assert from "node:assert/strict";
import { test } from "node:test";
import { fromQuery, fromText, period, toQuery, toRequest, toText } from "../model/filters";

test("filters survive the way through an address and through typed text", () => {
  const filters = { status: "failure", name: "deploy", text: "two words", by: "Ada", group: "web", server: "web-3", since: "7d" };
  assert.deepEqual(fromQuery(new URLSearchParams(toQuery(filters))), filters);
  assert.deepEqual(fromText(toText(filters)), filters);
});

test("unknown and empty parts of an address are left alone", () => {
  assert.deepEqual(fromQuery(new URLSearchParams("status=&colour=red&name=%20a%20")), { name: "a" });
});

test("words without a key are a part of a name, and a value may contain colons", () => {
  assert.deepEqual(fromText("  deploy  revision:ab:cd nonsense:1"), { text: "deploy nonsense:1", revision: "ab:cd" });
});

test("a period becomes an instant for the API, anything else is left to it", () => {
  assert.equal(period("24h"), 86_400_000);
  assert.equal(period("soon"), null);
  assert.equal(toRequest({ since: "1h" }, 10_000_000).get("since"), String(10_000_000 - 3_600_000));
  assert.equal(toRequest({ since: "2026-01-01T00:00:00Z" }, 0).get("since"), "2026-01-01T00:00:00Z");
});
