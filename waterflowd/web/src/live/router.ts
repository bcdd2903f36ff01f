// The address: its path is the thing, its query the view. All links and all changes of a view pass here.

import { signal } from "@preact/signals";

export interface Place {
  readonly path: string;
  readonly query: URLSearchParams;
  readonly hash: string;
}

const read = (): Place => ({
  path: location.pathname,
  query: new URLSearchParams(location.search),
  hash: location.hash,
});

export const place = signal<Place>(read());

/** Opens another page, as a link would. */
export function open(href: string): void {
  history.pushState(null, "", href);
  place.value = read();
  scrollTo(0, 0);
}

/** The same page at its proper address. */
export function replace(path: string): void {
  history.replaceState(history.state, "", path + location.search + location.hash);
  place.value = read();
}

/** Changes the view of this page; `null` removes a part. Typing and dragging replace the entry of the history, other choices add one. */
export function view(changes: Readonly<Record<string, string | null>>, way: "replace" | "push" = "replace"): void {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString().replaceAll("%2F", "/").replaceAll("%5B", "[").replaceAll("%5D", "]").replaceAll("%2C", ",");
  const href = location.pathname + (text ? `?${text}` : "") + location.hash;
  if (way === "push") history.pushState(null, "", href);
  else history.replaceState(history.state, "", href);
  place.value = read();
}

/** Changes the fragment, which names lines of an output. */
export function fragment(hash: string): void {
  history.replaceState(history.state, "", location.pathname + location.search + hash);
  place.value = read();
}

/** Removes the fragment, which may hold a code, from the address and from the history. */
export function forgetHash(): void {
  history.replaceState(history.state, "", location.pathname + location.search);
  place.value = read();
}

export function start(): void {
  addEventListener("popstate", () => (place.value = read()));
  addEventListener("hashchange", () => (place.value = read()));
  addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.getAttribute("href")?.startsWith("#")) return;
    if (/^\/(v1|metrics|openapi\.json)/.test(link.pathname)) return;
    event.preventDefault();
    open(link.pathname + link.search + link.hash);
  });
}
