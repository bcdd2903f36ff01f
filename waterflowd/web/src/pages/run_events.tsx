// The event history of a run as a table: filters in the address, and the JSON of one event.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, send } from "../live/api";
import { density } from "../live/choices";
import { place, view } from "../live/router";
import { isFailure, placeOfEvent, selected, textOfEvent, typesOf, type RunEvent } from "../model/events";
import { Lines, visible } from "../model/lines";
import type { Outline } from "../model/outline";
import type { Problem } from "../model/shapes";
import { absolute, clock, instant } from "../model/times";
import { useKeys } from "../parts/keys";
import { ProblemNote, Waiting } from "../parts/problem";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";

const words = texts.events;
const ROW_PX = { compact: 28, comfortable: 36 } as const;
/** Beyond this the newer events are left out, and the table says so. */
const KEPT = 50_000;

export function Events({ run, outline }: { readonly run: string; readonly outline: Outline }): JSX.Element {
  const { events, problem, isCut } = useEvents(run, outline.seq);
  const { query } = place.value;
  const filter = { type: query.get("type") ?? "", within: query.get("within") ?? "", failures: query.has("failures") };
  const rows = selected(events ?? [], filter);
  const chosen = Number(query.get("event") ?? 0);
  const at = rows.findIndex((event) => event.seq === chosen);
  const move = (by: number) => (): void => {
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + by))];
    if (next) view({ event: String(next.seq) });
  };
  useKeys({ j: move(1), ArrowDown: move(1), k: move(-1), ArrowUp: move(-1), Home: move(-KEPT), End: move(KEPT) });
  if (events === null) return problem ? <ProblemNote problem={problem} /> : <Waiting rows={10} />;
  const event = rows[at];
  return (
    <section class="events" aria-label={words.title}>
      <form class="filters" onSubmit={(submitted) => submitted.preventDefault()}>
        <label class={`choice ${filter.type ? "chosen" : ""}`}>
          <span>{words.type}</span>
          <select value={filter.type} onChange={(changed) => view({ type: changed.currentTarget.value })}>
            <option value="">{texts.runsPage.any}</option>
            {typesOf(events).map((type) => <option key={type} value={type}>{type}</option>)}
          </select>
        </label>
        <label class="check"><input type="checkbox" checked={filter.failures} onChange={(changed) => view({ failures: changed.currentTarget.checked ? "1" : null })} /> {words.failures}</label>
        <input type="text" aria-label={words.within} placeholder={words.within} value={filter.within} spellcheck={false} onInput={(changed) => view({ within: changed.currentTarget.value })} />
        <span class="quiet-line">{words.count(rows.length, events.length)}{isCut && ` ${words.cut(KEPT)}`}</span>
      </form>
      {problem && <ProblemNote problem={problem} />}
      <div class="events-body">
        <VirtualRows
          total={rows.length} rowPx={ROW_PX[density.value]} focused={at}
          attributes={{ role: "grid", "aria-label": words.title, "aria-rowcount": rows.length + 1, class: "event-list panel", tabIndex: 0 }}
          head={<>{words.columns.map((name) => <span key={name} role="columnheader">{name}</span>)}</>}
          render={(index) => {
            const row = rows[index];
            return row ? <Row key={row.seq} event={row} index={index} isChosen={row.seq === chosen} /> : <div key={index} />;
          }}
        />
        {event && <aside class="panel event-json" aria-label={words.json}><h2>{words.one(event.seq)}</h2><pre class="mono">{visibleLines(JSON.stringify(event, null, 2))}</pre></aside>}
      </div>
    </section>
  );
}

function Row({ event, index, isChosen }: { readonly event: RunEvent; readonly index: number; readonly isChosen: boolean }): JSX.Element {
  const at = instant(event.at) ?? 0;
  return (
    <div role="row" aria-rowindex={index + 2} aria-selected={isChosen} class={`row ${isChosen ? "focused" : ""}`} onClick={() => view({ event: String(event.seq) })}>
      <span role="gridcell" class="num">{event.seq}</span>
      <span role="gridcell" class="num" title={absolute(at)}>{clock(at)}.{String(at % 1000).padStart(3, "0")}</span>
      <span role="gridcell" class={isFailure(event) ? "word-failure" : ""}>{event.type}</span>
      <span role="gridcell" class="mono">{visible(placeOfEvent(event))}</span>
      <span role="gridcell">{visible(textOfEvent(event))}</span>
    </div>
  );
}

/** JSON has its lines; everything else that is not seen is shown as an escape. */
const visibleLines = (text: string): string => text.split("\n").map(visible).join("\n");

/** All events, and those that follow: each is read once. */
function useEvents(run: string, seq: number): { readonly events: readonly RunEvent[] | null; readonly problem: Problem | null; readonly isCut: boolean } {
  const [events, setEvents] = useState<readonly RunEvent[] | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const known = events?.at(-1)?.seq ?? 0;
  const isCut = (events?.length ?? 0) >= KEPT;
  useEffect(() => {
    if (events !== null && (known >= seq || isCut)) return undefined;
    const controller = new AbortController();
    read(run, known, controller).then(
      (found) => {
        setEvents([...(events ?? []), ...found].slice(0, KEPT));
        setProblem(null);
      },
      (error: unknown) => {
        if (error instanceof ApiError && !controller.signal.aborted) setProblem(error.problem);
      },
    );
    return () => controller.abort();
  }, [run, seq, known]);
  return { events, problem, isCut };
}

async function read(run: string, after: number, controller: AbortController): Promise<readonly RunEvent[]> {
  const answer = await send("GET", `/v1/runs/${run}/events?cursor=${after}`, { signal: controller.signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  const lines = new Lines();
  const found: RunEvent[] = [];
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done || value === undefined || found.length >= KEPT) break;
    for (const line of lines.push(value)) if (line !== "") found.push(JSON.parse(line) as RunEvent);
  }
  return found;
}
