// The sign of a state: shape and glyph before colour, with its word for those who do not see it.

import type { JSX } from "preact";
import { texts } from "../texts";
import type { State } from "../model/states";

/** Each sign is drawn anew: elements that several pages share keep all of those pages in memory. */
const SHAPES: Readonly<Record<State, () => JSX.Element>> = {
  success: () => <><circle cx="8" cy="8" r="7" class="fill" /><path d="M4.700 8.300l2.200 2.300 4.400-4.900" class="cut" /></>,
  failure: () => <><rect x="1.500" y="1.500" width="13" height="13" rx="2" class="fill" /><path d="M5.200 5.200l5.600 5.600M10.800 5.200l-5.600 5.600" class="cut" /></>,
  "timed-out": () => <><rect x="1.500" y="1.500" width="13" height="13" rx="2" class="fill" /><path d="M8 4.600V8.300l2.600 1.700" class="cut" /></>,
  lost: () => <><path d="M8 .700L15.300 8 8 15.300.700 8z" class="fill" /><path d="M6.200 6.500a1.800 1.800 0 1 1 2.500 1.700c-.5.200-.7.500-.7 1M8 11.200v.1" class="cut" /></>,
  running: () => <><circle cx="8" cy="8" r="6" class="ring" /><path d="M8 2a6 6 0 0 1 6 6" class="turning" /><circle cx="8" cy="8" r="2.600" class="fill" /></>,
  waiting: () => <circle cx="8" cy="8" r="6" class="dashes" />,
  cancelled: () => <><circle cx="8" cy="8" r="6" class="line" /><path d="M3.800 12.200l8.400-8.400" class="line" /></>,
  queued: () => <circle cx="8" cy="8" r="2.200" class="fill" />,
  skipped: () => <path d="M3 8h10" class="line" />,
};

/** The sign; `isSilent` where the word stands beside it. */
export function Glyph({ state, isSilent = false }: { readonly state: State; readonly isSilent?: boolean }): JSX.Element {
  return (
    <svg class={`glyph s-${state}`} viewBox="0 0 16 16" width="16" height="16" {...(isSilent ? { "aria-hidden": "true" } : { role: "img", "aria-label": texts.states[state] })}>
      {SHAPES[state]()}
    </svg>
  );
}
