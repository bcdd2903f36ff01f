// The parts of a run as a treegrid: name, duration, and a bar on the time axis in each row. The bars show nothing that the row and
// the details do not say in words.

import { useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { density } from "../live/choices";
import { zoomed, type Axis } from "../model/axis";
import type { CriticalPath } from "../model/critical";
import { visible } from "../model/lines";
import type { Part } from "../model/parts";
import { isActive } from "../model/states";
import { duration } from "../model/times";
import type { Row } from "../model/tree";
import { Glyph } from "../parts/glyph";
import { useKeys } from "../parts/keys";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";
import { Bars, CriticalSentence, Legend, Ticks, useDrag } from "./run_timeline";

const words = texts.run;
export const ROW_PX = { compact: 28, comfortable: 36 } as const;
const ZOOM = 1.6;

export interface TreeProperties {
  readonly rows: readonly Row[];
  readonly selected: string;
  readonly axis: Axis;
  readonly whole: Axis;
  /** Where open bars end: now, or the instant that is shown. */
  readonly present: number;
  readonly isZoomed: boolean;
  readonly zoom: (axis: Axis | null) => void;
  /** Whether the path is shown, and what it is. */
  readonly critical: { readonly isShown: boolean; readonly path: CriticalPath | null; readonly toggle: () => void };
  readonly folding: { readonly isOn: boolean; readonly toggle: () => void };
  readonly select: (part: Part) => void;
  readonly toggle: (part: Part, isOpen: boolean) => void;
}

export function RunTree(properties: TreeProperties): JSX.Element {
  const { rows, selected, axis, whole, present, isZoomed, zoom, critical, folding, select, toggle } = properties;
  const at = rows.findIndex((row) => row.part.place === selected);
  const [hasFocus, setFocus] = useState(false);
  const move = (by: number) => (): void => {
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + by))];
    if (next) select(next.part);
  };
  const right = (): void => {
    const row = rows[at];
    if (row?.canOpen && !row.isOpen) toggle(row.part, true);
    else move(1)();
  };
  const left = (): void => {
    const row = rows[at];
    if (row?.isOpen) return toggle(row.part, false);
    const parent = rows.slice(0, Math.max(0, at)).reverse().find((other) => other.level < (row?.level ?? 0));
    if (parent) select(parent.part);
  };
  const scale = (factor: number) => (): void => zoom(zoomed(axis, whole, factor, rows[at]?.part.from ?? (axis.from + axis.to) / 2));
  useKeys({
    j: move(1), ArrowDown: move(1), k: move(-1), ArrowUp: move(-1), ArrowRight: right, ArrowLeft: left, Home: move(-rows.length), End: move(rows.length),
    "+": scale(ZOOM), "-": scale(1 / ZOOM), 0: () => zoom(null), c: critical.toggle, z: folding.toggle,
  });
  const panel = useRef<HTMLElement>(null);
  const chosen = useDrag(panel, axis, whole, zoom);
  const middle = (axis.from + axis.to) / 2;
  return (
    <section class="tree-panel panel" aria-label={words.tree} ref={panel}>
      {critical.isShown && <CriticalSentence path={critical.path} />}
      {chosen && <div class="chosen-span" style={{ left: `${chosen.left}px`, width: `${chosen.width}px` }} />}
      <VirtualRows
        total={rows.length} rowPx={ROW_PX[density.value]} focused={at}
        attributes={{
          role: "treegrid", "aria-label": words.tree, class: "run-tree", tabIndex: 0, "aria-rowcount": rows.length + 1,
          ...(hasFocus && at >= 0 ? { "aria-activedescendant": `part-${at}` } : {}),
          onFocus: () => setFocus(true), onBlur: () => setFocus(false),
        }}
        head={
          <>
            <span role="columnheader" class="c-name">{words.name}</span>
            <span role="columnheader" class="c-took">{words.took}</span>
            <span role="columnheader" class="c-bars">
              <span class="visually-hidden">{words.timeline}</span>
              <Ticks axis={axis} origin={whole.from} />
            </span>
          </>
        }
        render={(index) => {
          const row = rows[index];
          return row ? <TreeRow key={row.part.place} row={row} index={index} isSelected={index === at} isCritical={critical.isShown && critical.path?.places.has(row.part.place) === true} axis={axis} present={present} select={select} toggle={toggle} /> : <div key={index} />;
        }}
      />
      <footer class="legend">
        <Legend />
        <span class="zoom">
          <button type="button" class="small" aria-pressed={critical.isShown} title={`${texts.timeline.criticalHelp} (c)`} onClick={critical.toggle}>{texts.timeline.criticalButton}</button>
          <button type="button" class="small" aria-pressed={folding.isOn} title={`${texts.timeline.foldHelp} (z)`} onClick={folding.toggle}>{texts.timeline.foldButton}</button>
          <button type="button" class="small" aria-label={words.zoomOut} title={`${words.zoomOut} (-)`} disabled={!isZoomed} onClick={() => zoom(zoomed(axis, whole, 1 / ZOOM, middle))}>−</button>
          <button type="button" class="small" aria-label={words.zoomIn} title={`${words.zoomIn} (+)`} onClick={() => zoom(zoomed(axis, whole, ZOOM, middle))}>+</button>
          <button type="button" class="small" disabled={!isZoomed} title="0" onClick={() => zoom(null)}>{words.zoomAll}</button>
        </span>
      </footer>
    </section>
  );
}

export function nameOf(part: Part): string {
  if (part.kind !== "more") return part.name;
  return part.name === "others" ? words.others(part.children.length) : words.all(part.children.length);
}

interface RowProperties {
  readonly row: Row;
  readonly index: number;
  readonly isSelected: boolean;
  readonly isCritical: boolean;
  readonly axis: Axis;
  readonly present: number;
  readonly select: (part: Part) => void;
  readonly toggle: (part: Part, isOpen: boolean) => void;
}

function TreeRow({ row, index, isSelected, isCritical, axis, present, select, toggle }: RowProperties): JSX.Element {
  const { part, level, canOpen: hasChildren, isOpen, position, siblings } = row;
  const took = part.from === null ? null : (part.to ?? (isActive(part.state) ? present : part.from)) - part.from;
  return (
    <div
      role="row" id={`part-${index}`} class={`row k-${part.kind} ${isSelected ? "selected" : ""} ${isCritical ? "critical" : ""}`} aria-level={level} aria-posinset={position} aria-setsize={siblings}
      aria-selected={isSelected} aria-rowindex={index + 2} {...(hasChildren ? { "aria-expanded": isOpen } : {})}
      onClick={() => { select(part); if (part.kind === "more") toggle(part, !isOpen); }} onDblClick={() => hasChildren && part.kind !== "more" && toggle(part, !isOpen)}
    >
      <span role="gridcell" class="c-name" style={{ paddingInlineStart: `${(level - 1) * 16}px` }}>
        {hasChildren ? (
          <button type="button" class="twist" tabIndex={-1} aria-hidden="true" onClick={(event) => { event.stopPropagation(); toggle(part, !isOpen); }}>{isOpen ? "▾" : "▸"}</button>
        ) : <i class="twist" />}
        {part.kind !== "more" && <Glyph state={part.state} />}
        <span class="name" title={visible(nameOf(part))}>{visible(nameOf(part))}</span>
        {part.detail !== "" && <small>{visible(part.detail)}</small>}
        {isCritical && <span class="visually-hidden">{texts.timeline.onPath}</span>}
      </span>
      <span role="gridcell" class="c-took num">{took === null ? (part.state === "skipped" && part.kind !== "more" ? "skipped" : "") : duration(took)}</span>
      <span role="gridcell" class="c-bars" aria-hidden="true"><Bars segments={part.segments} axis={axis} present={present} /></span>
    </div>
  );
}
