// The jobs of a run's tree, as its graph shows them.

import type { Part } from "../parts";
import { STATES } from "../states";
import { duration } from "../times";
import type { JobNode } from "./boxes";

/** Instances keep their places in the grid, whatever becomes of them. */
const byName = new Intl.Collator("en", { numeric: true });

export function jobsOf(parts: readonly Part[]): readonly JobNode[] {
  return parts.flatMap((part) => (part.kind === "more" ? jobsOf(part.children) : part.kind === "job" ? [jobOf(part)] : []));
}

function jobOf(part: Part): JobNode {
  const kind = part.node?.kind ?? "steps";
  const inside = jobsOf(part.children);
  const children = kind === "call" ? inside : [...inside].sort((a, b) => byName.compare(a.place, b.place));
  const total = Math.max(part.node?.total ?? 0, children.length);
  const took = part.from !== null && part.to !== null ? duration(part.to - part.from) : "";
  return {
    place: part.place,
    name: part.name,
    detail: [part.detail, took].filter(Boolean).join(" · "),
    state: part.state,
    needs: part.node?.needs ?? [],
    kind: kind === "step" ? "steps" : kind,
    counts: total > children.length ? (part.node?.counts ?? {}) : countsOf(children),
    total: kind === "call" ? 0 : total,
    children,
  };
}

function countsOf(jobs: readonly JobNode[]): Readonly<Record<string, number>> {
  return Object.fromEntries(STATES.flatMap((state) => {
    const count = jobs.filter((job) => job.state === state).length;
    return count > 0 ? [[state, count]] : [];
  }));
}
