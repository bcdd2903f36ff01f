import assert from "node:assert/strict";
import { test } from "node:test";
import { BOX, graphOf, refreshed, structureOf, type Box, type Graph, type JobNode } from "../model/graph/boxes";
import { fit, kept, neededBy, neighbour, opening, showing, under, zoomed } from "../model/graph/camera";
import { layered } from "../model/graph/layers";
import { layout } from "../model/graph/layout";

const job = (place: string, needs: readonly string[] = [], more: Partial<JobNode> = {}): JobNode => ({
  place, name: place, detail: "", state: "success", needs, kind: "steps", counts: {}, total: 0, children: [], ...more,
});
const none = (): boolean => false;
const box = (graph: Graph, place: string): Box => graph.boxes.find((found) => found.place === place) as Box;

/** A graph of `count` nodes whose edges lead a little ahead; the same for every run of the test. */
function random(count: number): readonly JobNode[] {
  let seed = 7;
  const next = (): number => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) / 2_147_483_648;
  return Array.from({ length: count }, (_, index) => {
    const needs = new Set(Array.from({ length: index === 0 ? 0 : 1 + Math.floor(next() * 3) }, () => `j${Math.max(0, index - 1 - Math.floor(next() * 40))}`));
    return job(`j${index}`, [...needs]);
  });
}

function overlaps(boxes: readonly Box[]): readonly string[] {
  const found: string[] = [];
  boxes.forEach((one, index) => {
    for (const other of boxes.slice(index + 1)) {
      if (one.x < other.x + other.width && other.x < one.x + one.width && one.y < other.y + other.height - 0.01 && other.y < one.y + one.height - 0.01) found.push(`${one.place} ${other.place}`);
    }
  });
  return found;
}

test("every edge leads from left to right, and no boxes overlap", () => {
  const jobs = random(300);
  const graph = graphOf(jobs, none, 1_000);
  assert.equal(graph.boxes.length, 300);
  assert.deepEqual(overlaps(graph.boxes), []);
  for (const { place, needs } of jobs) for (const need of needs) assert.ok(box(graph, need).x + BOX.width < box(graph, place).x, `${need} ${place}`);
  for (const line of graph.lines) {
    const end = line.points.at(-1);
    assert.ok(line.points.every((point, index) => index === 0 || point.x >= (line.points[index - 1]?.x ?? 0)));
    assert.deepEqual([end?.x, end?.y], [box(graph, line.to[0] ?? "").x, box(graph, line.to[0] ?? "").y + BOX.height / 2]);
  }
  for (const shown of graph.boxes) assert.ok(shown.x >= 0 && shown.y >= -0.01 && shown.x + shown.width <= graph.width + 0.01 && shown.y + shown.height <= graph.height + 0.01);
});

test("the same jobs always give the same picture", () => {
  assert.deepEqual(graphOf(random(200), none, 1_000), graphOf(random(200), none, 1_000));
});

test("a thousand jobs have a layout with few crossings", () => {
  const jobs = random(1_000);
  const graph = graphOf(jobs, none, 1_000);
  assert.equal(graph.boxes.length, 1_000);
  assert.ok(graph.height < 4_000, String(graph.height));
});

test("sweeps untangle what can be drawn without a crossing", () => {
  // Two chains whose nodes are numbered crosswise.
  const { layers } = layered(6, [{ from: 0, to: 3 }, { from: 1, to: 2 }, { from: 2, to: 5 }, { from: 3, to: 4 }]);
  assert.equal(layers.length, 3);
  const [first, second, third] = layers.map((layer) => layer.map((node) => [0, 3, 4].includes(node)));
  assert.deepEqual([second, third], [first, first]);
});

test("an edge over several layers is straight where nothing is in its way", () => {
  const { routes, corners } = layout(Array.from({ length: 5 }, () => BOX), [{ from: 0, to: 1 }, { from: 1, to: 2 }, { from: 2, to: 3 }, { from: 0, to: 3 }], 2_000);
  const inner = (routes[3] ?? []).slice(1, -1).map((point) => Math.round(point.y));
  assert.equal(new Set(inner).size, 1);
  assert.equal(corners.length, 5);
});

test("a job that needs nothing stands before what needs it", () => {
  const graph = graphOf([job("a"), job("b", ["a"]), job("late"), job("c", ["b", "late"])], none, 2_000);
  assert.equal(box(graph, "late").x, box(graph, "b").x);
});

test("a chain continues below, and its lines lead there", () => {
  const chain = Array.from({ length: 30 }, (_, index) => job(`s${index}`, index === 0 ? [] : [`s${index - 1}`]));
  const graph = graphOf(chain, none, 1_000);
  assert.ok(graph.width <= 1_100, String(graph.width));
  assert.deepEqual(overlaps(graph.boxes), []);
  assert.equal(new Set(graph.boxes.map((found) => Math.round(found.y))).size, 8);
  assert.equal(graph.lines.length, 29);
  assert.equal(neighbour(graph, "s3", "right")?.place, "s4");
});

test("many jobs with equal needs are a block with one line", () => {
  const fan = Array.from({ length: 40 }, (_, index) => job(`f${index}`, ["build"]));
  const graph = graphOf([job("build"), ...fan, job("end", fan.map((one) => one.place))], none, 1_000);
  assert.equal(graph.lines.length, 2);
  assert.deepEqual(overlaps(graph.boxes), []);
  assert.ok(graph.height < 40 * BOX.height / 2, String(graph.height));
  assert.deepEqual([...neededBy(graph, "end")].sort(), ["build", ...fan.map((one) => one.place)].sort());
});

test("a job with instances opens into cells, also those of which only the state is known", () => {
  const children = ["a", "b"].map((name) => job(`m[${name}]`, [], { state: "failure", name }));
  const matrix = job("m", [], { kind: "matrix", total: 4_096, counts: { failure: 2, success: 4_000, running: 94 }, children });
  const graph = graphOf([matrix, job("next", ["m"])], (place) => place === "m", 1_000);
  const shown = box(graph, "m");
  assert.deepEqual([shown.shape, shown.cells.length, shown.cells.filter((cell) => cell.place !== null).length], ["cells", 4_096, 2]);
  assert.equal(shown.cells.filter((cell) => cell.state === "running").length, 94);
  const camera = { scale: 1, x: 0, y: 0 };
  const cell = shown.cells[1];
  assert.equal(under(graph, camera, { x: (cell?.x ?? 0) + 5, y: (cell?.y ?? 0) + 5 })?.place, "m[b]");
  assert.deepEqual(box(graphOf([matrix], none, 1_000), "m").counts, [["failure", 2], ["running", 94], ["success", 4_000]]);
});

test("a called workflow opens in place, with its own needs", () => {
  const call = job("deploy", ["build"], { kind: "call", total: 2, children: [job("deploy/check"), job("deploy/copy", ["check"])] });
  const graph = graphOf([job("build"), call, job("notify", ["deploy"])], (place) => place === "deploy", 2_000);
  const [outer, inner] = [box(graph, "deploy"), box(graph, "deploy/copy")];
  assert.equal(outer.shape, "frame");
  assert.ok(inner.x > outer.x && inner.x + inner.width < outer.x + outer.width && inner.y > outer.y);
  assert.ok(box(graph, "deploy/check").x < inner.x);
  assert.equal(graph.lines.length, 3);
  assert.equal(under(graph, { scale: 1, x: 0, y: 0 }, { x: inner.x + 1, y: inner.y + 1 })?.place, "deploy/copy");
});

test("a camera fits, zooms around a point, and stays at the graph", () => {
  const view = { width: 800, height: 400 };
  assert.deepEqual(fit({ width: 100, height: 50 }, view), { scale: 1, x: 350, y: 175 });
  const far = fit({ width: 10_000, height: 100 }, view);
  assert.ok(far.scale < 0.08 && far.x === 24);
  const near = zoomed({ scale: 1, x: 10, y: 20 }, 2, { x: 110, y: 120 });
  assert.deepEqual(near, { scale: 2, x: -90, y: -80 });
  assert.deepEqual(kept({ scale: 1, x: 9_000, y: 5 }, { width: 2_000, height: 100 }, view), { scale: 1, x: 24, y: 150 });
  assert.equal(showing({ scale: 1, x: 0, y: 0 }, { x: 900, y: 0, width: 100, height: 40 }, view).x, 800 - 24 - 1_000);
});

test("a small graph opens at a size that can be read, a large one whole", () => {
  const view = { width: 800, height: 400 };
  const wide = graphOf(random(40), none, 800);
  const selected = box(wide, "j39");
  const camera = opening(wide, view, selected);
  assert.ok(camera.scale >= 0.85);
  assert.ok(selected.x * camera.scale + camera.x < view.width && selected.x * camera.scale + camera.x > 0);
  const many = graphOf(random(200), none, 800);
  assert.deepEqual(opening(many, view, null), fit(many, view));
});

test("arrow keys follow lines, then what is beside", () => {
  const graph = graphOf([job("a"), job("b", ["a"]), job("c", ["a"]), job("d", ["b", "c"])], none, 2_000);
  assert.equal(neighbour(graph, "a", "right")?.place, "b");
  assert.equal(neighbour(graph, "b", "down")?.place, "c");
  assert.equal(neighbour(graph, "d", "left")?.place, "b");
  assert.equal(neighbour(graph, "a", "left"), null);
});

test("what changes in a run changes the looks of its graph, and not the layout", () => {
  const children = ["a", "b"].map((name) => job(`m[${name}]`, [], { name, state: "running" }));
  const before = [job("m", [], { kind: "matrix", total: 2, children, counts: { running: 2 } }), job("n", ["m"], { state: "queued" })];
  const after = [job("m", [], { kind: "matrix", total: 2, children: children.map((child) => ({ ...child, state: "failure" as const })), counts: { failure: 2 }, state: "failure" }), job("n", ["m"], { state: "skipped" })];
  assert.equal(structureOf(before), structureOf(after));
  assert.notEqual(structureOf(before), structureOf([...after, job("late")]));
  const isOpen = (place: string): boolean => place === "m";
  assert.deepEqual(refreshed(graphOf(before, isOpen, 1_000), after), graphOf(after, isOpen, 1_000));
});
