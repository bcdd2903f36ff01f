// One sentence about what an action has done, also for screen readers.

import { signal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";

const said = signal<ComponentChildren>(null);
let timer: ReturnType<typeof setTimeout> | undefined;
const SHOWN_MS = 8_000;

export function say(sentence: ComponentChildren): void {
  said.value = sentence;
  clearTimeout(timer);
  timer = setTimeout(() => (said.value = null), SHOWN_MS);
}

export function StatusLine(): JSX.Element {
  return <div class="said" role="status" aria-live="polite">{said.value !== null && <p>{said.value}</p>}</div>;
}
