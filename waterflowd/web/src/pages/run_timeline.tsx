// The time axis beside the tree: ticks, bars, and what is chosen on it by dragging.

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX, RefObject } from "preact";
import { between, instantAt, percent, placeOf, type Axis } from "../model/axis";
import type { CriticalPath } from "../model/critical";
import { visible } from "../model/lines";
import type { Segment, Spent } from "../model/parts";
import { duration, mark, ticks } from "../model/times";
import { texts } from "../texts";

const words = texts.timeline;
const TICKS = 8;
/** On a phone the axis has room for two labels. */
const NARROW = matchMedia("(max-width: 600px)");
const isNarrow = signal(NARROW.matches);
NARROW.addEventListener("change", () => (isNarrow.value = NARROW.matches));
const NARROW_TICKS = 2;
const KINDS: readonly Spent[] = ["needs", "slot", "lock", "sent", "running", "retry", "decision"];
/** A pointer that moves less than this has clicked. */
const DRAG_PX = 6;
const LINKS_SHOWN = 6;

export function Bars({ segments, axis, present }: { readonly segments: readonly Segment[]; readonly axis: Axis; readonly present: number }): JSX.Element {
  return (
    <>
      {axis.folds.map((fold) => <Fold key={fold.from} axis={axis} from={fold.from} to={fold.to} />)}
      {segments.map((segment, number) => <Bar key={number} segment={segment} axis={axis} present={present} />)}
    </>
  );
}

function Bar({ segment, axis, present }: { readonly segment: Segment; readonly axis: Axis; readonly present: number }): JSX.Element | null {
  const found = placeOf(axis, segment, present);
  if (found === null) return null;
  const text = `${texts.spent[segment.spent]}: ${duration((segment.to ?? present) - segment.from)}`;
  return <i class={`bar b-${segment.spent} s-${segment.state} ${segment.to === null ? "open" : ""}`} title={text} style={{ left: `${found.left}%`, width: `${found.width}%` }} />;
}

function Fold({ axis, from, to }: { readonly axis: Axis; readonly from: number; readonly to: number }): JSX.Element | null {
  const found = placeOf(axis, { from, to }, to);
  return found && <span class="fold" title={words.folded(duration(to - from))} style={{ left: `${found.left}%`, width: `${found.width}%` }} />;
}

export function Ticks({ axis, origin }: { readonly axis: Axis; readonly origin: number }): JSX.Element {
  const span = axis.to - axis.from - axis.folds.reduce((sum, fold) => sum + Math.max(0, Math.min(fold.to, axis.to) - Math.max(fold.from, axis.from)), 0);
  const first = axis.from - origin;
  const step = ticks(Math.max(span, 1), isNarrow.value ? NARROW_TICKS : TICKS)[1] ?? span;
  const marks: number[] = [];
  for (let at = Math.ceil(first / step) * step; at <= axis.to - origin && marks.length < 500; at += step) marks.push(origin + at);
  const isShown = (at: number): boolean => percent(axis, at) < (isNarrow.value ? 45 : 92) && !axis.folds.some((fold) => at > fold.from && at < fold.to);
  return (
    <span class="ticks" aria-hidden="true">
      {axis.folds.map((fold) => <Fold key={fold.from} axis={axis} from={fold.from} to={fold.to} />)}
      {marks.filter(isShown).map((at) => <i key={at} style={{ left: `${percent(axis, at)}%` }}>{at === origin ? "0" : `+${mark(at - origin)}`}</i>)}
    </span>
  );
}

export function Legend(): JSX.Element {
  return (
    <span class="kinds" aria-label={texts.run.legend} role="list">
      {KINDS.map((kind) => <span key={kind} role="listitem"><i class={`bar b-${kind} s-${kind === "running" ? "success" : "waiting"}`} aria-hidden="true" />{texts.spent[kind]}</span>)}
    </span>
  );
}

/** What the outlined bars mean, in one sentence. */
export function CriticalSentence({ path }: { readonly path: CriticalPath | null }): JSX.Element {
  if (path === null) return <p class="critical-line">{words.noCritical}</p>;
  const shown = path.links.slice(-LINKS_SHOWN);
  const left = path.links.length - shown.length;
  return (
    <p class="critical-line" role="status">
      <b>{words.critical}</b>{" "}
      {left > 0 && `${words.linksLeft(left)} → `}
      {shown.map((part) => visible(part.place)).join(" → ")}
      {": "}{words.criticalTimes(duration(path.totalMs), path.waitedMs < 1 ? null : duration(path.waitedMs))}
    </p>
  );
}

/** Zooms to what is dragged over the bars of `panel`. Returns where the chosen span is, in pixels from its left edge. */
export function useDrag(panel: RefObject<HTMLElement>, axis: Axis, whole: Axis, zoom: (axis: Axis | null) => void): { readonly left: number; readonly width: number } | null {
  const [chosen, setChosen] = useState<{ readonly left: number; readonly width: number } | null>(null);
  const latest = useRef({ axis, whole, zoom });
  latest.current = { axis, whole, zoom };
  useEffect(() => {
    const box = panel.current;
    if (!box) return undefined;
    let began: { readonly x: number; readonly bars: DOMRect } | null = null;
    const span = (event: PointerEvent): { readonly from: number; readonly to: number } | null => {
      if (began === null || Math.abs(event.clientX - began.x) < DRAG_PX) return null;
      const x = Math.min(Math.max(event.clientX, began.bars.left), began.bars.right);
      return { from: Math.min(x, began.x), to: Math.max(x, began.x) };
    };
    const down = (event: PointerEvent): void => {
      const bars = event.target instanceof Element ? event.target.closest(".c-bars") : null;
      if (bars && event.button === 0 && event.pointerType !== "touch") began = { x: event.clientX, bars: bars.getBoundingClientRect() };
    };
    const move = (event: PointerEvent): void => {
      const found = span(event);
      if (found) setChosen({ left: found.from - box.getBoundingClientRect().left, width: found.to - found.from });
    };
    const up = (event: PointerEvent): void => {
      const found = span(event);
      if (found && began) {
        const { bars } = began;
        const at = (x: number): number => instantAt(latest.current.axis, ((x - bars.left) / bars.width) * 100);
        latest.current.zoom(between(latest.current.whole, at(found.from), at(found.to)));
        // What follows is not a click on the row.
        addEventListener("click", (click) => click.stopPropagation(), { capture: true, once: true });
      }
      began = null;
      setChosen(null);
    };
    box.addEventListener("pointerdown", down);
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    return () => {
      box.removeEventListener("pointerdown", down);
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
    };
  }, []);
  return chosen;
}
