// Where instants are on the time axis of a run, in percent of its width. Spans in which nothing ran can be folded: they keep their
// place, but only a little of the width.

import type { Part, Segment } from "./parts";
import { isActive } from "./states";

export interface Axis {
  readonly from: number;
  readonly to: number;
  /** In their order; they do not overlap. */
  readonly folds: readonly Fold[];
}

export interface Fold {
  readonly from: number;
  readonly to: number;
  /** As many milliseconds of the axis as the span takes. */
  readonly shownMs: number;
}

/** A run that has just begun has an axis of one second, so that its first bars are not huge. */
const OPEN_MS_MIN = 1000;
const COMPLETED_MS_MIN = 50;
const ZOOM_MS_MIN = 20;
/** Of the whole: an idle span is folded from this share on, and then takes the other one of what is left. */
const IDLE_SHARE = 0.1;
const FOLDED_SHARE = 0.04;

export function axisOf(createdAt: number, completedAt: number | null, now: number): Axis {
  if (completedAt !== null) return { from: createdAt, to: Math.max(completedAt, createdAt + COMPLETED_MS_MIN), folds: [] };
  return { from: createdAt, to: Math.max(now, createdAt + OPEN_MS_MIN), folds: [] };
}

/** The axis with its idle spans folded: those in which no step was sent, or ran. */
export function folded(axis: Axis, parts: readonly Part[], now: number): Axis {
  const whole = axis.to - axis.from;
  const gaps: { readonly from: number; readonly to: number }[] = [];
  let at = axis.from;
  for (const [from, to] of [...busy(parts, now), [axis.to, axis.to] as const]) {
    if (from - at > whole * IDLE_SHARE) gaps.push({ from: at, to: from });
    at = Math.max(at, to);
  }
  const left = whole - gaps.reduce((sum, gap) => sum + gap.to - gap.from, 0);
  return { ...axis, folds: gaps.map((gap) => ({ ...gap, shownMs: Math.max(left * FOLDED_SHARE, 1) })) };
}

/** When something was on its way to a server, or ran there: sorted by their beginning. */
export function busy(parts: readonly Part[], now: number): readonly (readonly [from: number, to: number])[] {
  const found: (readonly [number, number])[] = [];
  const walk = (part: Part): void => {
    const isLeaf = part.isClosed || part.children.length === 0;
    for (const segment of part.segments) {
      if (segment.spent === "running" || segment.spent === "sent" || (segment.spent === "whole" && isLeaf)) found.push([segment.from, segment.to ?? now]);
    }
    part.children.forEach(walk);
  };
  parts.forEach(walk);
  return found.sort((a, b) => a[0] - b[0]);
}

/** Part of an axis: `factor` > 1 shows less of it, around `at`; never more than `whole`. */
export function zoomed(axis: Axis, whole: Axis, factor: number, at: number): Axis {
  const span = Math.min(Math.max((axis.to - axis.from) / factor, ZOOM_MS_MIN), whole.to - whole.from);
  const share = Math.min(1, Math.max(0, (at - axis.from) / (axis.to - axis.from)));
  const from = Math.min(Math.max(at - span * share, whole.from), whole.to - span);
  return { ...whole, from, to: from + span };
}

/** The part of an axis between two instants, within `whole`. */
export function between(whole: Axis, one: number, other: number): Axis {
  const from = Math.max(whole.from, Math.min(one, other));
  return { ...whole, from, to: Math.min(whole.to, Math.max(one, other, from + ZOOM_MS_MIN)) };
}

/** Milliseconds of the axis up to an instant. */
function shown(folds: readonly Fold[], at: number): number {
  return folds.reduce((sum, fold) => {
    const inside = Math.min(Math.max(at - fold.from, 0), fold.to - fold.from);
    return sum - inside * (1 - fold.shownMs / (fold.to - fold.from));
  }, at);
}

export function percent(axis: Axis, at: number): number {
  const from = shown(axis.folds, axis.from);
  const span = shown(axis.folds, axis.to) - from;
  return Math.min(100, Math.max(0, ((shown(axis.folds, at) - from) / span) * 100));
}

/** The instant at a place of the axis, in percent. */
export function instantAt(axis: Axis, place: number): number {
  const from = shown(axis.folds, axis.from);
  const wanted = from + ((shown(axis.folds, axis.to) - from) * Math.min(100, Math.max(0, place))) / 100;
  let at = wanted;
  for (const fold of axis.folds) {
    const begin = shown(axis.folds, fold.from);
    if (wanted <= begin) break;
    const inside = Math.min(wanted - begin, fold.shownMs) / fold.shownMs;
    at = wanted > begin + fold.shownMs ? fold.to + (wanted - begin - fold.shownMs) : fold.from + inside * (fold.to - fold.from);
  }
  return at;
}

/** Left edge and width of a bar; null when it is outside of the axis. */
export function placeOf(axis: Axis, segment: Pick<Segment, "from" | "to">, now: number): { readonly left: number; readonly width: number } | null {
  const to = segment.to ?? now;
  if (to < axis.from || segment.from > axis.to) return null;
  const left = percent(axis, segment.from);
  return { left, width: percent(axis, to) - left };
}

/** Whether a part has an end that is still to come. */
export const endOf = (part: Part, now: number): number => part.to ?? (isActive(part.state) ? now : (part.from ?? 0));
