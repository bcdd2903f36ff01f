// The servers of a roll-out, or the instances of a matrix: one cell each, in batches, and the line at which it was halted.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { place, view } from "../live/router";
import { visible } from "../model/lines";
import type { Outline } from "../model/outline";
import type { Part } from "../model/parts";
import { batchesOf, CHOICES, instancesOf, isChosen, rollOuts, serverRows, type Choice, type ServerRow } from "../model/servers";
import type { Run } from "../model/shapes";
import { isActive, STATES } from "../model/states";
import { find } from "../model/tree";
import { obstacle, RerunDialog } from "../parts/actions";
import { Glyph } from "../parts/glyph";
import { useKeys } from "../parts/keys";
import { Empty } from "../parts/problem";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";

const words = texts.servers;
const CELL_PX = 132;
const ROW_PX = 34;

interface Properties {
  readonly run: Run;
  readonly outline: Outline;
  readonly parts: readonly Part[];
  readonly selected: Part | null;
  /** Whether an earlier state is shown: then nothing can be started. */
  readonly isPast: boolean;
}

export function Servers({ run, outline, parts, selected, isPast }: Properties): JSX.Element {
  const jobs = rollOuts(outline);
  const node = jobs.find((job) => selected !== null && (selected.place === job.place || selected.place.startsWith(`${job.place}[`))) ?? jobs[0];
  const job = node === undefined ? null : find(parts, node.place);
  const [asked, setAsked] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(800);
  useLayoutEffect(() => {
    if (!box.current) return undefined;
    const observer = new ResizeObserver(([entry]) => setWidth(entry?.contentRect.width ?? 800));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [node?.place]);
  const choices = (place.value.query.get("servers") ?? "").split(",").filter((word): word is Choice => (CHOICES as readonly string[]).includes(word));
  const perRow = Math.max(1, Math.floor((width - 24) / CELL_PX));
  const hasEnded = job !== null && !isActive(job.state);
  const instances = job === null ? [] : instancesOf(job, outline);
  const rows = serverRows(batchesOf(instances, node?.batches ?? []), perRow, choices, hasEnded, isPast ? "" : (node?.halted ?? ""));
  const shown = rows.flatMap((row) => (row.kind === "cells" ? row.instances : []));
  const at = shown.findIndex((one) => selected !== null && (one.place === selected.place || selected.place.startsWith(`${one.place}/`)));
  const atRow = rows.findIndex((row) => row.kind === "cells" && row.instances.some((one) => one.place === shown[at]?.place));
  const move = (by: number) => (): void => {
    const next = shown[Math.max(0, Math.min(shown.length - 1, at + by))];
    if (next) view({ place: next.place });
  };
  useKeys({ ArrowRight: move(1), ArrowLeft: move(-1), ArrowDown: move(perRow), ArrowUp: move(-perRow), j: move(1), k: move(-1) });
  if (node === undefined || job === null) return <Empty><p>{words.none}</p></Empty>;
  const toggle = (choice: Choice): void => view({ servers: (choices.includes(choice) ? choices.filter((one) => one !== choice) : [...choices, choice]).join(",") });
  const again: readonly Choice[] = choices.length > 0 ? choices : CHOICES;
  const count = instances.filter((one) => again.some((choice) => isChosen(choice, one, hasEnded))).length;
  // Of a matrix, everything that did not succeed runs again, and what depends on it.
  const isMatrix = node.kind !== "each";
  const why = count === 0 ? words.nothingToRerun : isPast ? words.onlyNow : isMatrix && choices.length === 1 ? words.together : obstacle("rerun", run, 0);
  return (
    <section class="servers panel" aria-label={words.title(node.place)} ref={box}>
      <header>
        {jobs.length > 1 ? (
          <label class="choice"><span>{words.job}</span><select value={node.place} onChange={(event) => view({ place: event.currentTarget.value })}>{jobs.map((one) => <option key={one.place} value={one.place}>{one.place}</option>)}</select></label>
        ) : <b>{visible(node.name)}</b>}
        {CHOICES.map((choice) => (
          <button key={choice} type="button" class="small" aria-pressed={choices.includes(choice)} onClick={() => toggle(choice)}>
            {words.choices[choice]} <span class="num">{instances.filter((one) => isChosen(choice, one, hasEnded)).length}</span>
          </button>
        ))}
        <button type="button" class="small" aria-disabled={why !== null} title={why ?? undefined} onClick={() => why === null && setAsked(true)}>{words.rerun(count)}</button>
      </header>
      {rows.length === 0 && <p class="quiet-line">{words.noneChosen}</p>}
      <VirtualRows
        total={rows.length} rowPx={ROW_PX} focused={atRow}
        attributes={{ role: "grid", "aria-label": words.title(node.place), "aria-rowcount": rows.length, class: "cells", tabIndex: 0 }}
        render={(index) => {
          const row = rows[index];
          return row ? <Row key={index} row={row} index={index} selected={shown[at]?.place ?? ""} /> : <div key={index} />;
        }}
      />
      {asked && <RerunDialog run={run} body={isMatrix ? { failed: true } : { servers: again }} onClose={() => setAsked(false)} />}
    </section>
  );
}

function Row({ row, index, selected }: { readonly row: ServerRow; readonly index: number; readonly selected: string }): JSX.Element {
  if (row.kind === "halted") return <div role="row" aria-rowindex={index + 1} class="cell-row halted"><span role="gridcell">{words.halted} {visible(row.reason)}</span></div>;
  if (row.kind === "batch") {
    return (
      <div role="row" aria-rowindex={index + 1} class="cell-row batch">
        <span role="gridcell">{words.batch(row.number, row.of)} {STATES.filter((state) => row.counts.has(state)).map((state) => <span key={state} class="num"><Glyph state={state} /> {row.counts.get(state)}</span>)}</span>
      </div>
    );
  }
  return (
    <div role="row" aria-rowindex={index + 1} class="cell-row">
      {row.instances.map((one) => (
        <span key={one.place} role="gridcell" aria-selected={one.place === selected} class={`cell s-${one.state} ${one.place === selected ? "selected" : ""}`} title={visible(one.reason?.text ?? "")} onClick={() => view({ place: one.place })}>
          <Glyph state={one.state} /> <span>{visible(one.name)}</span>
        </span>
      ))}
    </div>
  );
}
