// A tree of parts as rows: which of them are open, and what is selected at first.

import type { Outline } from "./outline";
import type { Part } from "./parts";
import { isActive, isBad, stateOf } from "./states";

export interface Row {
  readonly part: Part;
  readonly level: number;
  readonly canOpen: boolean;
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
  const isSmall = count(parts, SMALL + 1) <= SMALL;
  const found: Row[] = [];
  const walk = (siblings: readonly Part[], level: number): void => {
    siblings.forEach((part, index) => {
      const isOpen = part.children.length > 0 && (toggled.get(part.place) ?? isOpenAtFirst(part, isSmall));
      found.push({ part, level, canOpen: part.children.length > 0 || part.isClosed, isOpen, position: index + 1, siblings: siblings.length });
      if (isOpen) walk(part.children, level + 1);
    });
  };
  walk(parts, 1);
  return found;
}

function isOpenAtFirst(part: Part, isSmall: boolean): boolean {
  if (part.kind === "more") return false;
  if (part.kind === "job" && (part.node?.total ?? 0) > 0) return true;
  return isSmall || isBad(part.state) || part.state === "running";
}

/** How many parts there are, but no more than `most`. */
function count(parts: readonly Part[], most: number): number {
  let sum = 0;
  for (const part of parts) {
    if (sum >= most) return most;
    sum += 1 + count(part.children, most - sum);
  }
  return sum;
}

/** The part with this address. */
export function find(parts: readonly Part[], place: string): Part | null {
  return pathTo(parts, place)?.at(-1) ?? null;
}

/** The part with this address, after those that it is in. */
export function pathTo(parts: readonly Part[], place: string): readonly Part[] | null {
  for (const part of parts) {
    if (part.place === place) return [part];
    const inside = pathTo(part.children, place);
    if (inside) return [part, ...inside];
  }
  return null;
}

/** The job that a place belongs to. Ids of jobs and steps may contain slashes: the longest job wins. */
export function jobOfPlace(outline: Outline, place: string): string | null {
  for (let end = place.length; end > 0; end = place.lastIndexOf("/", end - 1)) {
    const node = outline.nodes.get(place.slice(0, end));
    if (node !== undefined && node.kind !== "step") return node.place;
  }
  return null;
}

/** What to select on opening: the deepest first failure, else what is at work, else the last. */
export function focusOf(parts: readonly Part[]): Part | null {
  const deepest = (matches: (part: Part) => boolean): Part | null => {
    let level: readonly Part[] = parts;
    let found: Part | null = null;
    for (;;) {
      const next = level.filter((part) => part.kind !== "more" && matches(part)).sort((a, b) => (a.from ?? Infinity) - (b.from ?? Infinity))[0];
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

/** How many steps there are, and how many of them have ended; of a large run, jobs. */
export function progress(outline: Outline): { readonly done: number; readonly total: number } {
  let done = 0;
  let total = 0;
  const kind = outline.opened === null ? "step" : "steps";
  for (const node of outline.nodes.values()) {
    if (node.kind !== kind) continue;
    total += 1;
    if (!isActive(stateOf({ status: node.status ?? "completed", conclusion: node.conclusion ?? null }))) done += 1;
  }
  return { done, total };
}
