// The graph of a run's jobs. It is a picture of the tree beside it: everything that it shows, and every action, is there as well.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { theme } from "../../live/choices";
import { graphOf, refreshed, structureOf, type JobNode } from "../../model/graph/boxes";
import { fit, kept, neededBy, neighbour, opening, showing, under, zoomed, type Camera, type Direction } from "../../model/graph/camera";
import type { Point, Size } from "../../model/graph/layout";
import { isActive, STATES, type State } from "../../model/states";
import { texts } from "../../texts";
import { draw, type Look } from "./draw";

const words = texts.graph;
const ZOOM = 1.25;
const REDUCED = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const FORCED = matchMedia("(forced-colors: active)");
const PULSE_MS = 1_600;
/** A pointer that moved less has clicked. */
const CLICK_PX = 4;
const PAN_PX = 60;

interface Properties {
  readonly jobs: readonly JobNode[];
  /** The place of the selected job, or of the job that the selection is in. */
  readonly selected: string;
  readonly select: (place: string) => void;
}

export function GraphView({ jobs, selected, select }: Properties): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState<Size>({ width: 0, height: 0 });
  const [opened, setOpened] = useState<ReadonlySet<string>>(new Set());
  const [search, setSearch] = useState("");
  const [camera, setCamera] = useState<Camera | null>(null);
  const [look, setLook] = useState<Look | null>(null);
  const dragging = useRef<{ readonly start: Point; readonly camera: Camera; hasMoved: boolean } | null>(null);
  // The width decides where a long chain continues below; it must not do so with every pixel.
  const readingPx = Math.max(640, Math.round(view.width / 160) * 160);
  const structure = useMemo(() => structureOf(jobs), [jobs]);
  const layout = useMemo(() => graphOf(jobs, (place) => opened.has(place), readingPx), [structure, opened, readingPx]);
  const graph = useMemo(() => refreshed(layout, jobs), [layout, jobs]);
  const shown = useMemo(() => boxOfPlace(graph.boxes.map((found) => found.place), selected), [graph, selected]);
  // A cell that the selection is in, or the box.
  const marked = useMemo(() => boxOfPlace(graph.boxes.flatMap((one) => one.cells.flatMap((cell) => cell.place ?? [])), selected) || shown, [graph, selected, shown]);
  const needed = useMemo(() => neededBy(graph, shown), [graph, shown]);
  const awaited = useMemo(() => new Set(graph.boxes.filter((found) => needed.has(found.place) && isActive(found.state)).map((found) => found.place)), [graph, needed]);
  const found = useMemo(() => foundIn(jobs, search), [jobs, search]);
  const now = camera ?? { scale: 1, x: 0, y: 0 };
  const latest = useRef({ graph, camera: now, view, shown, opened });
  latest.current = { graph, camera: now, view, shown, opened };

  useLayoutEffect(() => {
    const observer = new ResizeObserver(() => {
      const element = box.current;
      if (element) setView((old) => (old.width === element.clientWidth && old.height === element.clientHeight ? old : { width: element.clientWidth, height: element.clientHeight }));
    });
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    const read = (): void => setLook(box.current ? lookOf(box.current) : null);
    read();
    const queries = [DARK, FORCED];
    queries.forEach((query) => query.addEventListener("change", read));
    return () => queries.forEach((query) => query.removeEventListener("change", read));
  }, [theme.value]);
  useLayoutEffect(() => {
    if (camera === null && view.width > 0) setCamera(opening(graph, view, graph.boxes.find((one) => one.place === shown) ?? null));
  }, [view, graph]);
  useEffect(() => {
    const target = graph.boxes.find((one) => one.place === shown);
    if (camera !== null && target) setCamera(showing(latest.current.camera, target, view));
  }, [shown]);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !canvas.current || look === null || camera === null || view.width === 0) return undefined;
    const element = canvas.current;
    const pixels = devicePixelRatio || 1;
    const [width, height] = [Math.round(view.width * pixels), Math.round(view.height * pixels)];
    if (element.width !== width) element.width = width;
    if (element.height !== height) element.height = height;
    let frame = 0;
    const isPulsing = awaited.size > 0 && !REDUCED.matches;
    const paint = (time: number): void => {
      draw(context, { graph, camera, view, selected: marked, needed, awaited, found, look, pulse: isPulsing ? (1 + Math.cos((time / PULSE_MS) * 2 * Math.PI)) / 2 : 1 }, pixels);
      if (isPulsing) frame = requestAnimationFrame(paint);
    };
    frame = requestAnimationFrame(paint);
    return () => cancelAnimationFrame(frame);
  }, [graph, camera, view, marked, needed, awaited, found, look]);

  const middle = { x: view.width / 2, y: view.height / 2 };
  const move = (next: Camera): void => setCamera(kept(next, latest.current.graph, latest.current.view));
  const zoom = (factor: number, at: Point = middle): void => move(zoomed(latest.current.camera, factor, at));
  const toggle = (place: string): void => {
    const next = new Set(latest.current.opened);
    if (!next.delete(place)) next.add(place);
    setOpened(next);
  };
  // Not through an attribute: the browser would take its listener for a passive one.
  useEffect(() => {
    const wheel = (event: WheelEvent): void => {
      event.preventDefault();
      const { camera: before } = latest.current;
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), pointOf(event));
      else move({ ...before, x: before.x - (event.shiftKey ? event.deltaY : event.deltaX), y: before.y - (event.shiftKey ? 0 : event.deltaY) });
    };
    box.current?.addEventListener("wheel", wheel, { passive: false });
    return () => box.current?.removeEventListener("wheel", wheel);
  }, []);
  const pointOf = (event: MouseEvent): Point => {
    const corner = box.current?.getBoundingClientRect();
    return { x: event.clientX - (corner?.left ?? 0), y: event.clientY - (corner?.top ?? 0) };
  };
  const press = (event: PointerEvent): void => {
    if (event.button !== 0) return;
    dragging.current = { start: pointOf(event), camera: now, hasMoved: false };
    canvas.current?.setPointerCapture(event.pointerId);
  };
  const drag = (event: PointerEvent): void => {
    const drag_ = dragging.current;
    if (!drag_) return;
    const at = pointOf(event);
    const [dx, dy] = [at.x - drag_.start.x, at.y - drag_.start.y];
    if (!drag_.hasMoved && Math.hypot(dx, dy) < CLICK_PX) return;
    drag_.hasMoved = true;
    move({ ...drag_.camera, x: drag_.camera.x + dx, y: drag_.camera.y + dy });
  };
  const release = (event: PointerEvent): void => {
    const drag_ = dragging.current;
    dragging.current = null;
    if (!drag_ || drag_.hasMoved) return;
    const at = pointOf(event);
    const hit = under(graph, now, at);
    if (!hit) return;
    select(hit.place);
    const isTwist = hit.box.canOpen && hit.place === hit.box.place && (at.x - now.x) / now.scale > hit.box.x + hit.box.width - 26 && (at.y - now.y) / now.scale < hit.box.y + 44;
    if (isTwist) toggle(hit.box.place);
  };
  const key = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = DIRECTIONS[event.key];
    if (direction && event.shiftKey) move({ ...now, x: now.x + (direction === "left" ? PAN_PX : direction === "right" ? -PAN_PX : 0), y: now.y + (direction === "up" ? PAN_PX : direction === "down" ? -PAN_PX : 0) });
    else if (direction) {
      const next = neighbour(graph, shown, direction);
      if (next) select(next.place);
    } else if (event.key === "Enter" || event.key === " ") {
      if (graph.boxes.find((one) => one.place === shown)?.canOpen) toggle(shown);
    } else if (event.key === "+" || event.key === "=") zoom(ZOOM);
    else if (event.key === "-") zoom(1 / ZOOM);
    else if (event.key === "0") setCamera(fit(graph, view));
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <section class="graph-panel panel" aria-label={words.title}>
      <div class="graph-tools" role="toolbar" aria-label={words.tools}>
        <input type="text" aria-label={words.find} placeholder={words.find} value={search} autocomplete="off" spellcheck={false} onInput={(event) => setSearch(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Escape") setSearch(""); if (event.key === "Enter" && found) selectFirst(found, select); }} />
        {found !== null && <span class="num" role="status">{words.found(found.size)}</span>}
        <span class="zoom">
          <button type="button" class="small" aria-label={texts.run.zoomOut} title={`${texts.run.zoomOut} (-)`} onClick={() => zoom(1 / ZOOM)}>−</button>
          <span class="num">{Math.round(now.scale * 100)} %</span>
          <button type="button" class="small" aria-label={texts.run.zoomIn} title={`${texts.run.zoomIn} (+)`} onClick={() => zoom(ZOOM)}>+</button>
          <button type="button" class="small" title="0" onClick={() => setCamera(fit(graph, view))}>{words.fit}</button>
        </span>
      </div>
      <div ref={box} class="graph-box" tabIndex={0} role="application" aria-label={words.describe(graph.boxes.length)} onKeyDown={key}
        onPointerDown={press} onPointerMove={drag} onPointerUp={release} onPointerCancel={() => (dragging.current = null)}
        onDblClick={(event) => { const hit = under(graph, now, pointOf(event)); if (hit?.box.canOpen && hit.place === hit.box.place) toggle(hit.place); }}>
        <canvas ref={canvas} aria-hidden="true" data-boxes={graph.boxes.length} data-scale={now.scale.toFixed(3)} style={{ width: `${view.width}px`, height: `${view.height}px` }} />
      </div>
    </section>
  );
}

const DIRECTIONS: Readonly<Record<string, Direction>> = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

/** The box that stands for a place: its own, or that of the nearest job around it. */
function boxOfPlace(places: readonly string[], selected: string): string {
  return places.filter((place) => selected === place || selected.startsWith(`${place}/`) || selected.startsWith(`${place}[`)).sort((a, b) => b.length - a.length)[0] ?? "";
}

function foundIn(jobs: readonly JobNode[], search: string): ReadonlySet<string> | null {
  const wish = search.trim().toLowerCase();
  if (wish === "") return null;
  const found = new Set<string>();
  const walk = (level: readonly JobNode[]): void => {
    for (const job of level) {
      if (`${job.name}\n${job.place}\n${job.state}`.toLowerCase().includes(wish)) found.add(job.place);
      walk(job.children);
    }
  };
  walk(jobs);
  return found;
}

function selectFirst(found: ReadonlySet<string>, select: (place: string) => void): void {
  const [first] = found;
  if (first !== undefined) select(first);
}

/** The theme's colours, as a canvas needs them. */
function lookOf(element: HTMLElement): Look {
  const style = getComputedStyle(element);
  const of = (name: string): string => style.getPropertyValue(name).trim();
  const quiet = of("--s-quiet");
  const states = Object.fromEntries(STATES.map((state) => [state, of(`--s-${state === "timed-out" ? "failure" : state}`) || quiet])) as Record<State, string>;
  return {
    text: of("--text"), soft: of("--soft"), border: of("--strong-line"), surface: of("--surface"), ground: of("--ground"), accent: of("--accent"),
    chosen: of("--chosen"), cut: of("--cut"), states, font: style.fontFamily,
  };
}
