// The outline of a run in the browser: what was read and what arrived since, as one value. What a state is, the daemon says; here
// its changes are only collected.

import type { Conclusion, Status } from "./shapes";
import { isConclusion } from "./states";
import { instant } from "./times";

/** `[seq, at_ms, code, reason]`: position of the event, ms since the creation of the run, new state, index of the reason. */
export type Change = readonly [seq: number, atMs: number, code: string, reason: number];
export type Mark = readonly [seq: number, atMs: number, kind: string];

export interface OutlineNode {
  readonly place: string;
  readonly parent?: string;
  readonly name: string;
  readonly kind: "steps" | "matrix" | "each" | "call" | "step";
  readonly node?: string;
  readonly status?: Status;
  readonly conclusion?: Conclusion;
  readonly needs?: readonly string[];
  readonly group?: string;
  readonly agent?: string;
  readonly counts?: Readonly<Record<string, number>>;
  readonly total?: number;
  /** Of instances in batches: how many there are up to the end of each batch. */
  readonly batches?: readonly number[];
  /** Why no further instance starts. */
  readonly halted?: string;
  readonly changes?: readonly Change[];
}

/** A page of an outline, or with `after` what has changed since. */
export interface OutlineAnswer {
  readonly seq: number;
  readonly created_at: string | null;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reasons_from: number;
  readonly reasons: readonly (readonly [code: string, text: string])[];
  readonly nodes: readonly OutlineNode[];
  readonly nodes_total: number;
  readonly marks: readonly Mark[];
  readonly marks_left_out: number;
  readonly next: string | null;
}

export interface Outline {
  readonly seq: number;
  readonly createdAt: number;
  readonly endedAt: number | null;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reasons: readonly (readonly [code: string, text: string])[];
  /** In the order in which they came to be: parents before what is in them. */
  readonly nodes: ReadonlyMap<string, OutlineNode>;
  readonly total: number;
  readonly marks: readonly Mark[];
  /** Of a large run only the jobs are here at first; these are the jobs whose steps are here too. Null: all are. */
  readonly opened: ReadonlySet<string> | null;
  /** The event up to which what belongs to a place was seen to change. */
  readonly touched: ReadonlyMap<string, number>;
}

const NOTHING: Outline = {
  seq: 0, createdAt: 0, endedAt: null, status: "queued", conclusion: null, reasons: [], nodes: new Map(), total: 0, marks: [], opened: null,
  touched: new Map(),
};

/** The outline of one page, which holds everything, or with `isPartial` only the jobs. */
export function begun(answer: OutlineAnswer, isPartial: boolean): Outline {
  return merged({ ...NOTHING, opened: isPartial ? new Set() : null }, answer);
}

/** The outline with what has changed since, which was asked for with `after`. */
export function merged(outline: Outline, answer: OutlineAnswer): Outline {
  return { ...added(outline, answer), seq: Math.max(outline.seq, answer.seq) };
}

/** The outline with another page. Pages are of different instants: changes after the first one will come again. */
export function withPage(outline: Outline, answer: OutlineAnswer): Outline {
  return { ...added(outline, answer), seq: outline.seq };
}

/** The outline with the steps of one job. */
export function withSteps(outline: Outline, job: string, answer: OutlineAnswer): Outline {
  const opened = outline.opened === null ? null : new Set([...outline.opened, job]);
  return { ...added({ ...outline, opened }, answer), seq: outline.seq };
}

/** Whether everything that is in a job is here. */
export function isOpened(outline: Outline, job: string): boolean {
  return outline.opened === null || outline.opened.has(job);
}

/** The job that a node belongs to; null when what is between them is not here. */
export function jobOf(nodes: ReadonlyMap<string, OutlineNode>, node: OutlineNode): string | null {
  let found: OutlineNode | undefined = node;
  while (found?.kind === "step") found = found.parent === undefined ? undefined : nodes.get(found.parent);
  return found?.place ?? null;
}

function added(outline: Outline, answer: OutlineAnswer): Outline {
  const nodes = new Map(outline.nodes);
  const touched = new Map(outline.touched);
  for (const node of answer.nodes) {
    const known = nodes.get(node.place);
    if (known === undefined && node.kind === "step" && outline.opened !== null) {
      const job = jobOf(nodes, node);
      // Its earlier changes are not here either: they come when its job is opened.
      if (job === null || !outline.opened.has(job)) continue;
    }
    nodes.set(node.place, known === undefined ? node : { ...node, changes: joined(known.changes ?? [], node.changes ?? []) });
    touched.set(node.place, answer.seq);
  }
  const isNewer = answer.seq >= outline.seq;
  const last = outline.marks.at(-1)?.[0] ?? 0;
  return {
    seq: outline.seq,
    createdAt: instant(answer.created_at) ?? outline.createdAt,
    endedAt: isNewer ? instant(answer.ended_at) : outline.endedAt,
    status: isNewer ? answer.status : outline.status,
    conclusion: isNewer ? answer.conclusion : outline.conclusion,
    reasons: isNewer || answer.reasons.length + answer.reasons_from > outline.reasons.length ? [...outline.reasons.slice(0, answer.reasons_from), ...answer.reasons] : outline.reasons,
    nodes,
    total: Math.max(answer.nodes_total, outline.total),
    marks: [...outline.marks, ...answer.marks.filter((mark) => mark[0] > last)],
    opened: outline.opened,
    touched,
  };
}

/** Changes in their order, each once. The conclusion of a step replaces the end of its last attempt, the event before it. */
function joined(known: readonly Change[], fresh: readonly Change[]): readonly Change[] {
  const last = known.at(-1);
  const later = last === undefined ? fresh : fresh.filter((change) => change[0] > last[0]);
  const first = later[0];
  if (first === undefined) return known;
  const isReplaced = last !== undefined && last[2] === "finished" && first[0] === last[0] + 1 && isConclusion(first[2]);
  return [...(isReplaced ? known.slice(0, -1) : known), ...later];
}
