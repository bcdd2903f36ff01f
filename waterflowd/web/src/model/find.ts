// What somebody means who types into the find box.

import { fromText, toQuery } from "./filters";
import type { RunSummary } from "./shapes";

export interface Goal {
  readonly title: string;
  readonly detail: string;
  readonly href: string;
}

/** Pages by the letter that follows `g`. */
export const PAGES: readonly { readonly key: string; readonly title: string; readonly href: string }[] = [
  { key: "o", title: "Overview", href: "/" },
  { key: "r", title: "Runs", href: "/runs" },
  { key: "s", title: "Settings", href: "/settings" },
];

const MOST = 8;

/** Where the text may lead, best first: runs by number, id or revision, pages, and the list filtered by it. */
export function goals(text: string, runs: readonly RunSummary[]): readonly Goal[] {
  const wish = text.trim();
  if (wish === "") return PAGES.map((page) => ({ title: page.title, detail: `g ${page.key}`, href: page.href }));
  const lower = wish.toLowerCase();
  const [name, number] = lower.split("#");
  const found = runs.filter((run) =>
    number !== undefined
      ? String(run.number).startsWith(number) && run.name.toLowerCase().includes(name ?? "")
      : run.id.toLowerCase().startsWith(lower) || (lower.length >= 4 && (run.revision ?? "").startsWith(lower)) || run.name.toLowerCase().includes(lower),
  );
  const pages = PAGES.filter((page) => page.title.toLowerCase().startsWith(lower));
  return [
    ...pages.map((page) => ({ title: page.title, detail: `g ${page.key}`, href: page.href })),
    ...found.map((run) => ({ title: `${run.name} #${run.number}`, detail: run.reason.text, href: `/runs/${run.id}` })),
    { title: `Runs: ${wish}`, detail: "filter the list", href: `/runs?${toQuery(fromText(wish))}` },
  ].slice(0, MOST);
}
