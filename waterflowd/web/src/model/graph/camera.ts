// How a view shows a graph: moved and scaled; what is under the pointer; and where the arrow keys lead.

import { CELL, type Box, type Graph } from "./boxes";
import type { Point, Size } from "./layout";

/** A place of the graph is at `x + place.x * scale` of the view. */
export interface Camera extends Point {
  readonly scale: number;
}

export const SCALE_MAX = 2;
const SCALE_MIN = 0.02;
const MARGIN = 24;
/** From so many boxes on, a graph is first shown whole. */
export const MANY_BOXES = 60;
/** Below this nothing can be read: boxes are signs only. */
export const SIGNS_BELOW = 0.3;

/** The whole graph in the middle of the view, never larger than life. */
export function fit(graph: Size, view: Size): Camera {
  const scale = Math.max(SCALE_MIN, Math.min(1, (view.width - 2 * MARGIN) / Math.max(1, graph.width), (view.height - 2 * MARGIN) / Math.max(1, graph.height)));
  return { scale, x: (view.width - graph.width * scale) / 2, y: (view.height - graph.height * scale) / 2 };
}

/** What is shown at first: everything if it can be read, or if there is much; else the selection at full size. */
export function opening(graph: Graph, view: Size, selected: Box | null): Camera {
  const whole = fit(graph, view);
  if (whole.scale >= 0.7 || graph.boxes.length > MANY_BOXES) return whole;
  const scale = Math.max(0.85, whole.scale);
  const centre = selected ? { x: selected.x + selected.width / 2, y: selected.y + selected.height / 2 } : { x: 0, y: graph.height / 2 };
  return kept({ scale, x: view.width / 2 - centre.x * scale, y: view.height / 2 - centre.y * scale }, graph, view);
}

/** Scaled by `factor`, with the place under `at` where it is. */
export function zoomed(camera: Camera, factor: number, at: Point): Camera {
  const scale = Math.min(SCALE_MAX, Math.max(SCALE_MIN, camera.scale * factor));
  const real = scale / camera.scale;
  return { scale, x: at.x - (at.x - camera.x) * real, y: at.y - (at.y - camera.y) * real };
}

/** The nearest camera that leaves no needless room beside the graph; one that fits is in the middle. */
export function kept(camera: Camera, graph: Size, view: Size): Camera {
  const along = (at: number, size: number, room: number): number =>
    size + 2 * MARGIN <= room ? (room - size) / 2 : Math.min(MARGIN, Math.max(room - size - MARGIN, at));
  return { ...camera, x: along(camera.x, graph.width * camera.scale, view.width), y: along(camera.y, graph.height * camera.scale, view.height) };
}

/** Moved as little as is needed to have a box in view. */
export function showing(camera: Camera, box: Size & Point, view: Size): Camera {
  const along = (at: number, from: number, size: number, room: number): number => {
    const low = from * camera.scale + at;
    const high = (from + size) * camera.scale + at;
    if (high - low > room - 2 * MARGIN || low < MARGIN) return MARGIN - from * camera.scale;
    return high > room - MARGIN ? room - MARGIN - (from + size) * camera.scale : at;
  };
  return { ...camera, x: along(camera.x, box.x, box.width, view.width), y: along(camera.y, box.y, box.height, view.height) };
}

/** The innermost box or cell at a place of the view. */
export function under(graph: Graph, camera: Camera, at: Point): { readonly box: Box; readonly place: string } | null {
  const point = { x: (at.x - camera.x) / camera.scale, y: (at.y - camera.y) / camera.scale };
  for (let index = graph.boxes.length - 1; index >= 0; index--) {
    const box = graph.boxes[index];
    if (!box || !contains(box, point)) continue;
    const cell = box.cells.find((found) => contains({ ...found, width: CELL, height: CELL }, point));
    return { box, place: cell?.place ?? box.place };
  }
  return null;
}

function contains(box: Point & Size, point: Point): boolean {
  return point.x >= box.x && point.x <= box.x + box.width && point.y >= box.y && point.y <= box.y + box.height;
}

export type Direction = "left" | "right" | "up" | "down";

/** The box that an arrow key leads to: along a line first, else the nearest one on that side; null without any. */
export function neighbour(graph: Graph, place: string, direction: Direction): Box | null {
  const boxes = new Map(graph.boxes.map((box) => [box.place, box]));
  const from = boxes.get(place);
  if (!from) return graph.boxes[0] ?? null;
  const joined = new Set(graph.lines.flatMap((line) =>
    direction === "left" && line.to.includes(place) ? line.from : direction === "right" && line.from.includes(place) ? line.to : []));
  const isSideways = direction === "left" || direction === "right";
  const sign = direction === "left" || direction === "up" ? -1 : 1;
  const distance = (box: Box): number => {
    const dx = box.x + box.width / 2 - from.x - from.width / 2;
    const dy = box.y + box.height / 2 - from.y - from.height / 2;
    const [ahead, aside] = isSideways ? [dx * sign, dy] : [dy * sign, dx];
    return ahead <= 1 ? Infinity : ahead + Math.abs(aside) * 2;
  };
  const nearest = (candidates: Iterable<Box>): Box | null => {
    let best: Box | null = null;
    for (const box of candidates) if (box !== from && distance(box) < (best ? distance(best) : Infinity)) best = box;
    return best;
  };
  const along = [...joined].flatMap((other) => boxes.get(other) ?? []);
  // A line may lead to the next stripe, which is below and to the left.
  return (isSideways ? (nearest(along) ?? along[0] ?? null) : null) ?? nearest(graph.boxes);
}

/** Everything that a job needs, directly or not. */
export function neededBy(graph: Graph, place: string): ReadonlySet<string> {
  const needs = new Map<string, string[]>();
  for (const line of graph.lines) for (const to of line.to) needs.set(to, [...(needs.get(to) ?? []), ...line.from]);
  const found = new Set<string>();
  const open = [place];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    for (const need of needs.get(next) ?? []) {
      if (found.has(need)) continue;
      found.add(need);
      open.push(need);
    }
  }
  return found;
}
