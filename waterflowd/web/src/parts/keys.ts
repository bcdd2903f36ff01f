// Keys that work everywhere: single letters only outside of fields, and never together with the browser's own.

import { useLayoutEffect, useRef } from "preact/hooks";
import { letters } from "../live/choices";
import { open } from "../live/router";
import { PAGES } from "../model/find";

type Handler = (event: KeyboardEvent) => void;

const handlers = new Map<string, Handler[]>();
const PREFIX_MS = 1_500;
let prefixAt = -Infinity;

/**
 * Calls these handlers for their keys as long as the component is shown; of several for one key the newest wins. They count from the
 * moment at which the component is in the document, so no key is lost that follows what somebody sees.
 */
export function useKeys(wanted: Readonly<Record<string, Handler>>, isOn = true): void {
  const latest = useRef(wanted);
  latest.current = wanted;
  useLayoutEffect(() => {
    if (!isOn) return undefined;
    const ends = Object.keys(wanted).map((key) => onKey(key, (event) => latest.current[key]?.(event)));
    return () => ends.forEach((end) => end());
  }, [isOn]);
}

function onKey(key: string, handler: Handler): () => void {
  const all = handlers.get(key) ?? [];
  handlers.set(key, [...all, handler]);
  return () => void handlers.set(key, (handlers.get(key) ?? []).filter((other) => other !== handler));
}

export function start(): void {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    // The space bar presses the button that has the focus.
    if (event.key === " " && event.target instanceof HTMLButtonElement) return;
    const isLetter = event.key.length === 1;
    if (isLetter && letters.value === "off") return;
    const hasPrefix = performance.now() - prefixAt < PREFIX_MS;
    prefixAt = -Infinity;
    const page = hasPrefix ? PAGES.find((found) => found.key === event.key) : undefined;
    if (page) {
      event.preventDefault();
      open(page.href);
    } else if (event.key === "g") {
      prefixAt = performance.now();
    } else {
      const handler = handlers.get(event.key)?.at(-1);
      if (handler) {
        event.preventDefault();
        handler(event);
      }
    }
  });
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
