// The slider over the event history: the page shows the run as it was after an event, from the changes that are already here.

import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { place, view } from "../live/router";
import type { Outline } from "../model/outline";
import { instantOf, nextMark, ticksOf } from "../model/slider";
import { absolute, clock } from "../model/times";
import { useKeys } from "../parts/keys";
import { texts } from "../texts";

const words = texts.slider;
const STEP_MS = 100;
/** A history is played in about so many steps. */
const STEPS = 150;

export interface Instant {
  /** The event after which the run is shown; null for now. */
  readonly at: number | null;
  /** The same, but only once the slider rests: what must be asked for follows this one. */
  readonly settledAt: number | null;
  readonly move: (at: number | null) => void;
  readonly settle: () => void;
}

/** Where the slider is. While it is dragged only the page changes; at rest the address does as well (`at`). */
export function useInstant(outline: Outline | null): Instant {
  const text = place.value.query.get("at");
  const [dragged, setDragged] = useState<number | null>(null);
  const settledAt = text !== null && /^\d+$/.test(text) && outline !== null && Number(text) < outline.seq ? Math.max(1, Number(text)) : null;
  const latest = useRef(dragged);
  latest.current = dragged;
  return {
    at: dragged === null ? settledAt : outline !== null && dragged >= outline.seq ? null : dragged,
    settledAt,
    move: (at) => {
      latest.current = at === null ? (outline?.seq ?? 0) : Math.max(1, at);
      setDragged(latest.current);
    },
    settle: () => {
      if (latest.current === null) return;
      view({ at: outline !== null && latest.current >= outline.seq ? null : String(latest.current) });
      latest.current = null;
      setDragged(null);
    },
  };
}

export function Slider({ outline, instant }: { readonly outline: Outline; readonly instant: Instant }): JSX.Element {
  const [isPlaying, setPlaying] = useState(false);
  const at = instant.at ?? outline.seq;
  const latest = useRef({ outline, instant, at });
  latest.current = { outline, instant, at };
  const go = (to: number): void => {
    const { instant: now } = latest.current;
    now.move(Math.max(1, Math.min(latest.current.outline.seq, to)));
    now.settle();
  };
  useKeys({
    ",": () => go(at - 1), ".": () => go(at + 1), "<": () => go(nextMark(outline, at, -1)), ">": () => go(nextMark(outline, at, 1)),
    " ": () => setPlaying((before) => !before),
  });
  useEffect(() => {
    if (!isPlaying) return undefined;
    if (latest.current.instant.at === null) latest.current.instant.move(1);
    const timer = setInterval(() => {
      const { outline: played, at: from, instant: now } = latest.current;
      const to = from + Math.max(1, Math.round(played.seq / STEPS));
      if (to >= played.seq) {
        setPlaying(false);
        now.move(null);
        now.settle();
      } else now.move(to);
    }, STEP_MS);
    return () => {
      clearInterval(timer);
      latest.current.instant.settle();
    };
  }, [isPlaying]);
  const text = words.event(at, outline.seq, clock(instantOf(outline, at)));
  return (
    <section class="slider panel" aria-label={words.label}>
      <button type="button" class="small" title={`${words.before} (<)`} aria-label={words.before} onClick={() => go(nextMark(outline, at, -1))}>«</button>
      <button type="button" class="small" title={`${words.play} (Space)`} aria-label={isPlaying ? words.pause : words.play} onClick={() => setPlaying(!isPlaying)}>{isPlaying ? "‖" : "▶"}</button>
      <button type="button" class="small" title={`${words.after} (>)`} aria-label={words.after} onClick={() => go(nextMark(outline, at, 1))}>»</button>
      <span class="track">
        <input type="range" min={1} max={Math.max(1, outline.seq)} value={at} aria-label={words.label} aria-valuetext={text}
          onInput={(event) => instant.move(Number(event.currentTarget.value))} onChange={() => instant.settle()} />
        <span class="slider-ticks" aria-hidden="true">{ticksOf(outline.marks, outline.seq).map((tick) => <i key={tick.percent} class={`t-${tick.kind}`} style={{ left: `${tick.percent}%` }} />)}</span>
      </span>
      <output class="num">{text}</output>
    </section>
  );
}

export function PastBanner({ outline, instant }: { readonly outline: Outline; readonly instant: Instant }): JSX.Element | null {
  if (instant.at === null) return null;
  const when = instantOf(outline, instant.at);
  return (
    <p class="banner past" role="status">
      <span title={absolute(when)}>{words.past(instant.at, clock(when))}</span>
      <button type="button" class="small" onClick={() => { instant.move(null); instant.settle(); }}>{words.now}</button>
    </p>
  );
}
