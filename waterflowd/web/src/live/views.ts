// Named views: addresses that somebody has saved in this browser.

import { signal } from "@preact/signals";

export interface SavedView {
  readonly name: string;
  /** The query of the address. */
  readonly query: string;
}

const STORED = "waterflow-views";
const MOST = 30;
const NAME_MAX = 60;

export const savedViews = signal<readonly SavedView[]>(read());

function read(): readonly SavedView[] {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "[]") as unknown;
    if (!Array.isArray(found)) return [];
    return found.filter((one): one is SavedView => typeof (one as SavedView).name === "string" && typeof (one as SavedView).query === "string").slice(0, MOST);
  } catch {
    // Storage may be forbidden, or hold something else.
    return [];
  }
}

function write(views: readonly SavedView[]): void {
  savedViews.value = views;
  try {
    localStorage.setItem(STORED, JSON.stringify(views));
  } catch {
    // As above: then the views last as long as the page.
  }
}

/** A view with the same name is replaced. */
export function save(name: string, query: string): void {
  const trimmed = name.trim().slice(0, NAME_MAX);
  if (trimmed !== "") write([...savedViews.value.filter((one) => one.name !== trimmed), { name: trimmed, query }].slice(-MOST));
}

export function remove(name: string): void {
  write(savedViews.value.filter((one) => one.name !== name));
}
