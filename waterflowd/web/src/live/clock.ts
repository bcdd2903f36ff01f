// The present, once a second, for everything that shows an age. It stands still while the tab is hidden.

import { signal } from "@preact/signals";

export const now = signal(Date.now());

export function start(): void {
  setInterval(() => {
    if (!document.hidden) now.value = Date.now();
  }, 1000);
  document.addEventListener("visibilitychange", () => (now.value = Date.now()));
}
