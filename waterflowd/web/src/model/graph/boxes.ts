// The jobs of a run as boxes with lines between them: what is drawn, and where.
//
// - A job is one box, whatever it became. A job with instances opens into a grid of cells, one that calls a workflow into a frame
//   with the called jobs.
// - Many jobs with the same needs, which the same jobs need, stand together as a block, with one line to it instead of one each.

import { STATES, type State } from "../states";
import { layout, type Point, type Size } from "./layout";

export interface JobNode {
  readonly place: string;
  readonly name: string;
  readonly detail: string;
  readonly state: State;
  /** Places of jobs, or their names inside of the same called workflow. */
  readonly needs: readonly string[];
  readonly kind: "steps" | "matrix" | "each" | "call";
  /** Of a job with instances: how many, by state, and in all. */
  readonly counts: Readonly<Record<string, number>>;
  readonly total: number;
  /** The jobs that it became, as far as they are known. */
  readonly children: readonly JobNode[];
}

export interface Cell extends Point {
  /** Null for an instance of which only the state is known. */
  readonly place: string | null;
  readonly name: string;
  readonly state: State;
}

export interface Box extends Point, Size {
  readonly place: string;
  readonly name: string;
  readonly detail: string;
  readonly state: State;
  readonly shape: "job" | "cells" | "frame";
  readonly canOpen: boolean;
  readonly counts: readonly (readonly [State, number])[];
  readonly cells: readonly Cell[];
}

export interface Line {
  /** Places of the boxes at both ends: several for a block of boxes. */
  readonly from: readonly string[];
  readonly to: readonly string[];
  readonly points: readonly Point[];
}

export interface Graph extends Size {
  /** Frames come before what is in them. */
  readonly boxes: readonly Box[];
  readonly lines: readonly Line[];
}

export const BOX: Size = { width: 184, height: 44 };
export const HEAD = 32;
export const CELL = 20;
const PADDING = 16;
const BLOCK_GAP = 8;
/** So many jobs with equal needs form a block. */
const BLOCK_MIN = 7;
/** Blocks and grids are about so much wider than high. */
const WIDER = 1.4;

/** `isOpen` says which jobs show what they became; `viewPx` is the width that the graph is read in. */
export function graphOf(jobs: readonly JobNode[], isOpen: (place: string) => boolean, viewPx: number): Graph {
  return arranged(jobs, isOpen, viewPx);
}

/** What the layout depends on: as long as it is equal, only the looks of boxes change. */
export function structureOf(jobs: readonly JobNode[]): string {
  return JSON.stringify(jobs.map((job) => [job.place, job.needs, job.kind, job.total, job.kind === "call" ? structureOf(job.children) : job.children.length]));
}

/** The same graph with the present states, details and counts; for jobs of the same structure. */
export function refreshed(graph: Graph, jobs: readonly JobNode[]): Graph {
  const known = new Map<string, JobNode>();
  const walk = (level: readonly JobNode[]): void => level.forEach((job) => {
    known.set(job.place, job);
    if (job.kind === "call") walk(job.children);
  });
  walk(jobs);
  const boxes = graph.boxes.map((box) => {
    const job = known.get(box.place);
    if (!job) return box;
    const states = box.cells.length > 0 ? cellsOf(job) : [];
    const cells = box.cells.map((cell, index) => ({ ...cell, ...states[index] }));
    return { ...box, name: job.name, detail: job.detail, state: job.state, counts: countsOf(job), cells };
  });
  return { ...graph, boxes };
}

interface Item {
  readonly jobs: readonly JobNode[];
  readonly size: Size;
  /** What is in it, from its corner. */
  readonly boxes: readonly Box[];
  readonly lines: readonly Line[];
}

function arranged(jobs: readonly JobNode[], isOpen: (place: string) => boolean, viewPx: number): Graph {
  const needs = needsOf(jobs);
  const items = itemsOf(jobs, needs, isOpen, viewPx);
  const itemOf = new Map(items.flatMap((item, index) => item.jobs.map((job) => [job.place, index] as const)));
  const edges = new Map<string, { from: number; to: number }>();
  items.forEach((item, to) => {
    for (const job of item.jobs) {
      for (const need of needs.get(job.place) ?? []) {
        const from = itemOf.get(need);
        if (from !== undefined && from !== to) edges.set(`${from} ${to}`, { from, to });
      }
    }
  });
  const list = [...edges.values()];
  const found = layout(items.map((item) => item.size), list, viewPx);
  const boxes = items.flatMap((item, index) => item.boxes.map((box) => moved(box, found.corners[index])));
  const inner = items.flatMap((item, index) => item.lines.map((line) => ({ ...line, points: line.points.map((point) => shifted(point, found.corners[index])) })));
  const lines = list.map(({ from, to }, index) => ({ from: placesOf(items[from]), to: placesOf(items[to]), points: found.routes[index] ?? [] }));
  return { width: found.width, height: found.height, boxes, lines: [...lines, ...inner] };
}

const placesOf = (item: Item | undefined): readonly string[] => (item?.jobs ?? []).map((job) => job.place);

/** What each job needs, by place. */
export function needsOf(jobs: readonly JobNode[]): ReadonlyMap<string, readonly string[]> {
  const places = new Set(jobs.map((job) => job.place));
  return new Map(jobs.map((job) => {
    const parent = job.place.slice(0, job.place.lastIndexOf("/") + 1);
    return [job.place, job.needs.map((need) => (places.has(need) ? need : parent + need)).filter((need) => places.has(need))];
  }));
}

function itemsOf(jobs: readonly JobNode[], needs: ReadonlyMap<string, readonly string[]>, isOpen: (place: string) => boolean, viewPx: number): readonly Item[] {
  const dependents = new Map<string, string[]>();
  for (const [place, needed] of needs) {
    for (const need of needed) {
      const known = dependents.get(need);
      if (known) known.push(place);
      else dependents.set(need, [place]);
    }
  }
  const alike = new Map<string, JobNode[]>();
  for (const job of jobs) {
    const opens = isOpen(job.place) && canOpen(job);
    const key = opens ? job.place : JSON.stringify([[...(needs.get(job.place) ?? [])].sort(), [...(dependents.get(job.place) ?? [])].sort()]);
    const known = alike.get(key);
    if (known) known.push(job);
    else alike.set(key, [job]);
  }
  return [...alike.values()].flatMap((group) => (group.length >= BLOCK_MIN ? [block(group)] : group.map((job) => single(job, isOpen, viewPx))));
}

const canOpen = (job: JobNode): boolean => job.total > 0 || job.children.length > 0;

function single(job: JobNode, isOpen: (place: string) => boolean, viewPx: number): Item {
  if (isOpen(job.place) && job.kind === "call" && job.children.length > 0) return frame(job, isOpen, viewPx);
  if (isOpen(job.place) && canOpen(job) && job.kind !== "call") return cells(job);
  return { jobs: [job], size: BOX, boxes: [boxOf(job, "job", BOX)], lines: [] };
}

function frame(job: JobNode, isOpen: (place: string) => boolean, viewPx: number): Item {
  const inside = arranged(job.children, isOpen, viewPx);
  const size = { width: Math.max(BOX.width, inside.width + 2 * PADDING), height: inside.height + HEAD + PADDING };
  const corner = { x: PADDING, y: HEAD };
  return {
    jobs: [job], size,
    boxes: [boxOf(job, "frame", size), ...inside.boxes.map((box) => moved(box, corner))],
    lines: inside.lines.map((line) => ({ ...line, points: line.points.map((point) => shifted(point, corner)) })),
  };
}

interface CellState {
  readonly place: string | null;
  readonly name: string;
  readonly state: State;
}

const cellsOf = (job: JobNode): readonly CellState[] => [...job.children.map(({ place, name, state }) => ({ place, name, state })), ...unknown(job)];

function cells(job: JobNode): Item {
  const all = cellsOf(job);
  const columns = Math.max(8, Math.ceil(Math.sqrt(all.length * WIDER)));
  const found = all.map((cell, index) => ({ ...cell, x: PADDING / 2 + (index % columns) * CELL, y: HEAD + Math.floor(index / columns) * CELL }));
  const size = { width: Math.max(BOX.width, columns * CELL + PADDING), height: HEAD + Math.ceil(all.length / columns) * CELL + PADDING / 2 };
  return { jobs: [job], size, boxes: [{ ...boxOf(job, "cells", size), cells: found }], lines: [] };
}

/** Instances that an answer leaves out: only how many there are of each state. */
function unknown(job: JobNode): readonly CellState[] {
  const shown = new Map<State, number>();
  for (const child of job.children) shown.set(child.state, (shown.get(child.state) ?? 0) + 1);
  return countsOf(job).flatMap(([state, count]) => Array.from({ length: Math.max(0, count - (shown.get(state) ?? 0)) }, () => ({ place: null, name: "", state })));
}

function block(jobs: readonly JobNode[]): Item {
  const rows = Math.ceil(Math.sqrt((jobs.length * (BOX.width + BLOCK_GAP)) / (BOX.height + BLOCK_GAP) / WIDER));
  const columns = Math.ceil(jobs.length / rows);
  const boxes = jobs.map((job, index) => moved(boxOf(job, "job", BOX), {
    x: Math.floor(index / rows) * (BOX.width + BLOCK_GAP), y: (index % rows) * (BOX.height + BLOCK_GAP),
  }));
  return { jobs, boxes, lines: [], size: { width: columns * (BOX.width + BLOCK_GAP) - BLOCK_GAP, height: rows * (BOX.height + BLOCK_GAP) - BLOCK_GAP } };
}

function boxOf(job: JobNode, shape: Box["shape"], size: Size): Box {
  return { place: job.place, name: job.name, detail: job.detail, state: job.state, shape, canOpen: canOpen(job), counts: countsOf(job), cells: [], x: 0, y: 0, ...size };
}

/** Counts by state, what needs a look first. */
function countsOf(job: JobNode): readonly (readonly [State, number])[] {
  return STATES.flatMap((state) => (job.counts[state] ? [[state, job.counts[state]] as const] : []));
}

function shifted(point: Point, by: Point | undefined): Point {
  return { x: point.x + (by?.x ?? 0), y: point.y + (by?.y ?? 0) };
}

function moved(box: Box, by: Point | undefined): Box {
  return { ...box, ...shifted(box, by), cells: box.cells.map((cell) => ({ ...cell, ...shifted(cell, by) })) };
}
