// Instants of a run: which event it was at, and when that was.

import type { Mark, Outline } from "./outline";
import { stateOf, type State } from "./states";

/** When the event was, as far as a change of a part tells: milliseconds since 1970. */
export function instantOf(outline: Outline, seq: number): number {
  let found = 0;
  for (const node of outline.nodes.values()) {
    for (const [at, ms] of node.changes ?? []) if (at <= seq && ms > found) found = ms;
  }
  for (const [at, ms] of outline.marks) if (at <= seq && ms > found) found = ms;
  return outline.createdAt + found;
}

/** What the run was after the event: a run that had not ended was what its jobs were. */
export function stateAfter(outline: Outline, seq: number): State {
  const isOver = outline.marks.some(([at, , kind]) => kind === "completed" && at <= seq);
  if (isOver) return stateOf(outline);
  const codes = new Set<string>();
  for (const node of outline.nodes.values()) {
    const code = node.parent === undefined ? (node.changes ?? []).filter(([at]) => at <= seq).at(-1)?.[2] : undefined;
    if (code !== undefined) codes.add(code);
  }
  if (codes.size === 0) return "queued";
  return codes.size === 1 && codes.has("waiting") ? "waiting" : "running";
}

export type Tick = { readonly percent: number; readonly kind: "failure" | "decision" | "batch" | "end" };

const KINDS: Readonly<Record<string, Tick["kind"]>> = {
  failure: "failure", lost: "failure", held: "failure", halted: "failure", "timed-out": "failure", "approval-requested": "decision", "approval-decided": "decision",
  "batch-started": "batch", "batch-completed": "batch", completed: "end", cancel: "end",
};
/** Where several would be at the same place, the first of these is shown. */
const RANK: readonly Tick["kind"][] = ["failure", "decision", "end", "batch"];
const PLACES = 200;

/** Marks beside the slider: at most one at a place. */
export function ticksOf(marks: readonly Mark[], seq: number): readonly Tick[] {
  const found = new Map<number, Tick>();
  for (const [at, , name] of marks) {
    const kind = KINDS[name];
    if (kind === undefined) continue;
    const place = Math.round((Math.max(0, at - 1) / Math.max(1, seq - 1)) * PLACES);
    const before = found.get(place);
    if (before === undefined || RANK.indexOf(kind) < RANK.indexOf(before.kind)) found.set(place, { percent: (place / PLACES) * 100, kind });
  }
  return [...found.values()];
}

/** The next event at which something that a person may look for happened; `way` is 1 or -1. */
export function nextMark(outline: Outline, at: number, way: 1 | -1): number {
  const seqs = outline.marks.map((mark) => mark[0]);
  if (way === 1) return seqs.find((seq) => seq > at) ?? outline.seq;
  return [...seqs].reverse().find((seq) => seq < at) ?? 1;
}
