// The instances of one job as rows of cells: in batches, with the line at which the job was halted.

import type { Outline, OutlineNode } from "./outline";
import type { Part } from "./parts";
import { isActive, isBad, type State } from "./states";

export const CHOICES = ["failed", "not-reached"] as const;
export type Choice = (typeof CHOICES)[number];

export interface Batch {
  /** From 1; 0 where there are no batches. */
  readonly number: number;
  readonly instances: readonly Part[];
}

export type ServerRow =
  | { readonly kind: "batch"; readonly number: number; readonly of: number; readonly counts: ReadonlyMap<State, number> }
  | { readonly kind: "halted"; readonly reason: string }
  | { readonly kind: "cells"; readonly instances: readonly Part[] };

/** The jobs that became instances, in the order of the outline. */
export function rollOuts(outline: Outline): readonly OutlineNode[] {
  return [...outline.nodes.values()].filter((node) => (node.kind === "each" || node.kind === "matrix") && (node.total ?? 0) > 0);
}

/** The instances of a job in the order in which they take their turns. */
export function instancesOf(job: Part, outline: Outline): readonly Part[] {
  const found = new Map<string, Part>();
  const walk = (part: Part): void => {
    if (part.kind === "more") part.children.forEach(walk);
    else if (part.kind === "job") found.set(part.place, part);
  };
  job.children.forEach(walk);
  return [...outline.nodes.keys()].flatMap((place) => found.get(place) ?? []);
}

export function batchesOf(instances: readonly Part[], ends: readonly number[]): readonly Batch[] {
  if (ends.length === 0) return [{ number: 0, instances }];
  return ends.map((end, index) => ({ number: index + 1, instances: instances.slice(ends[index - 1] ?? 0, end) }));
}

/** Whether a choice selects the instance; `hasEnded` of the job. What was never on a server was not reached. */
export function isChosen(choice: Choice, instance: Part, hasEnded: boolean): boolean {
  if (choice === "failed") return isBad(instance.state);
  return instance.from === null && (instance.state === "skipped" || instance.state === "cancelled" || (hasEnded && isActive(instance.state)));
}

/** Rows of at most `perRow` cells; with choices only what one of them selects. */
export function serverRows(batches: readonly Batch[], perRow: number, choices: readonly Choice[], hasEnded: boolean, halted: string): readonly ServerRow[] {
  const rows: ServerRow[] = [];
  const isReached = (batch: Batch): boolean => batch.instances.some((instance) => instance.from !== null);
  const last = batches.reduce((found, batch, index) => (isReached(batch) ? index : found), -1);
  batches.forEach((batch, index) => {
    const counts = new Map<State, number>();
    for (const instance of batch.instances) counts.set(instance.state, (counts.get(instance.state) ?? 0) + 1);
    const shown = choices.length === 0 ? batch.instances : batch.instances.filter((instance) => choices.some((choice) => isChosen(choice, instance, hasEnded)));
    if (batch.number > 0 && shown.length > 0) rows.push({ kind: "batch", number: batch.number, of: batches.length, counts });
    for (let at = 0; at < shown.length; at += perRow) rows.push({ kind: "cells", instances: shown.slice(at, at + perRow) });
    if (halted !== "" && index === last) rows.push({ kind: "halted", reason: halted });
  });
  return rows;
}
