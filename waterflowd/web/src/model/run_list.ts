// The rows of the list of runs: pages that were read, newer rows from the stream, and rows that wait above what somebody reads.

import type { RunSummary } from "./shapes";

export interface Rows {
  /** In view, newest first. */
  readonly shown: readonly RunSummary[];
  /** Newer than what was the first row when the reader left the top. */
  readonly waiting: number;
}

/** Each run once, in its newest state. Ids of runs are in the order of their creation. `top` is the first row that stays the first. */
export function rowsOf(newest: readonly RunSummary[], older: readonly RunSummary[], changed: ReadonlyMap<string, RunSummary>, takesNew: boolean, top: string | null): Rows {
  const known = new Map<string, RunSummary>();
  for (const run of [...newest, ...older]) if (!known.has(run.id)) known.set(run.id, run);
  const first = newest[0]?.id ?? "";
  for (const run of changed.values()) {
    const before = known.get(run.id);
    if (before !== undefined ? run.seq > before.seq : takesNew && run.id > first) known.set(run.id, run);
  }
  const all = [...known.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  const waiting = top === null ? 0 : all.findIndex((run) => run.id <= top);
  return waiting <= 0 ? { shown: all, waiting: 0 } : { shown: all.slice(waiting), waiting };
}
