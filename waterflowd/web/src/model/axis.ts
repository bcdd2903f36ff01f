// Where instants are on the time axis of a run, in percent of its width.

import type { Segment } from "./parts";

export interface Axis {
  readonly from: number;
  readonly to: number;
}

/** A run that has just begun has an axis of one second, so that its first bars are not huge. */
const OPEN_MS_MIN = 1000;
const COMPLETED_MS_MIN = 50;

export function axisOf(createdAt: number, completedAt: number | null, now: number): Axis {
  if (completedAt !== null) return { from: createdAt, to: Math.max(completedAt, createdAt + COMPLETED_MS_MIN) };
  return { from: createdAt, to: Math.max(now, createdAt + OPEN_MS_MIN) };
}

/** Part of an axis: `factor` > 1 shows less of it, around `at`; never more than `whole`. */
export function zoomed(axis: Axis, whole: Axis, factor: number, at: number): Axis {
  const span = Math.min(Math.max((axis.to - axis.from) / factor, 20), whole.to - whole.from);
  const share = (at - axis.from) / (axis.to - axis.from);
  const from = Math.min(Math.max(at - span * share, whole.from), whole.to - span);
  return { from, to: from + span };
}

export function percent(axis: Axis, at: number): number {
  return Math.min(100, Math.max(0, ((at - axis.from) / (axis.to - axis.from)) * 100));
}

/** Left edge and width of a bar; null when it is outside of the axis. */
export function placeOf(axis: Axis, segment: Segment, now: number): { readonly left: number; readonly width: number } | null {
  const to = segment.to ?? now;
  if (to < axis.from || segment.from > axis.to) return null;
  const left = percent(axis, segment.from);
  return { left, width: percent(axis, to) - left };
}
