// Times: relative or absolute as chosen, each with the other one as its title.

import type { JSX } from "preact";
import { now } from "../live/clock";
import { times } from "../live/choices";
import { absolute, duration, elapsed, instant, relative, short } from "../model/times";

export function Time({ at }: { readonly at: string | null }): JSX.Element | null {
  const found = instant(at);
  if (found === null || at === null) return null;
  const full = absolute(found);
  const text = times.value === "relative" ? relative(found, now.value) : short(found, now.value);
  return <time dateTime={at} title={full}>{text}</time>;
}

/** How long something took, or has taken so far. */
export function Took({ from, to }: { readonly from: string | null; readonly to: string | null }): JSX.Element | null {
  const ms = elapsed(from, to, to === null ? now.value : 0);
  return ms === null ? null : <span class="num">{duration(ms)}</span>;
}
