// A tree of parts as rows: which of them are open, and what the keys of a treegrid do.

import type { Part } from "./parts";
import { isActive, isBad } from "./states";

export interface Row {
  readonly part: Part;
  readonly level: number;
  readonly isOpen: boolean;
  /** Its place among its siblings, from 1, and how many they are. */
  readonly position: number;
  readonly siblings: number;
}

/** Open and closed parts that differ from what is open at first. */
export type Toggled = ReadonlyMap<string, boolean>;

/** A run of so many rows is shown with all its steps. */
const SMALL = 60;

/** The rows in view, from the top. */
export function rowsOf(parts: readonly Part[], toggled: Toggled): readonly Row[] {
  const isSmall = count(parts) <= SMALL;
  const found: Row[] = [];
  const walk = (siblings: readonly Part[], level: number): void => {
    siblings.forEach((part, index) => {
      const isOpen = part.children.length > 0 && (toggled.get(part.place) ?? isOpenAtFirst(part, isSmall));
      found.push({ part, level, isOpen, position: index + 1, siblings: siblings.length });
      if (isOpen) walk(part.children, level + 1);
    });
  };
  walk(parts, 1);
  return found;
}

function isOpenAtFirst(part: Part, isSmall: boolean): boolean {
  if (part.kind === "job" && part.job !== null && part.job.jobs_total > 0) {
    return part.children.length <= 12 || isBad(part.state) || isActive(part.state);
  }
  return isSmall || isBad(part.state) || part.state === "running";
}

function count(parts: readonly Part[]): number {
  return parts.reduce((sum, part) => sum + 1 + count(part.children), 0);
}

/** The part with this address. */
export function find(parts: readonly Part[], place: string): Part | null {
  for (const part of parts) {
    if (part.place === place) return part;
    const inside = find(part.children, place);
    if (inside) return inside;
  }
  return null;
}

/** What to select on opening: the deepest first failure, else what is at work, else the last. */
export function focusOf(parts: readonly Part[]): Part | null {
  const deepest = (matches: (part: Part) => boolean): Part | null => {
    let level: readonly Part[] = parts;
    let found: Part | null = null;
    for (;;) {
      const next = level.filter(matches).sort((a, b) => (a.from ?? Infinity) - (b.from ?? Infinity))[0];
      if (!next) return found;
      found = next;
      level = next.children;
    }
  };
  return (
    deepest((part) => isBad(part.state)) ??
    deepest((part) => part.state === "running" || part.state === "waiting") ??
    parts[parts.length - 1] ??
    null
  );
}

/** How many steps there are, and how many of them have ended. */
export function progress(parts: readonly Part[]): { readonly done: number; readonly total: number } {
  let done = 0;
  let total = 0;
  const walk = (level: readonly Part[]): void => {
    for (const part of level) {
      if (part.kind === "step") {
        total += 1;
        if (!isActive(part.state)) done += 1;
      }
      walk(part.children);
    }
  };
  walk(parts);
  return { done, total };
}
