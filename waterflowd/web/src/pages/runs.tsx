// Runs: find one among many. The filters are the address; older pages are appended, rows out of view are not in the document.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, get } from "../live/api";
import { density } from "../live/choices";
import { now } from "../live/clock";
import { useQuery } from "../live/query";
import { open, place } from "../live/router";
import { follow } from "../live/stream";
import { fromQuery, toQuery, toRequest, type Filters } from "../model/filters";
import { rowsOf } from "../model/run_list";
import type { Problem, RunList, RunSummary } from "../model/shapes";
import { useKeys } from "../parts/keys";
import { ProblemNote, Waiting } from "../parts/problem";
import { RunCells } from "../parts/run_line";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";
import { FilterBar, NoRuns, type Counts } from "./runs_filters";
import { ManyBar } from "./runs_many";

const words = texts.runsPage;
const PAGE = 100;
const TOPICS = ["runs"];
export const ROW_PX = { compact: 44, comfortable: 52 } as const;
/** Rows that were changed by events; beyond this the first page is read again instead. */
const CHANGED_MAX = 1_000;

export function Runs(): JSX.Element {
  const filters = fromQuery(place.value.query);
  const key = toQuery(filters);
  useEffect(() => void (document.title = `${texts.runs} · ${texts.product}`), []);
  return (
    <>
      <header class="page-head"><h1>{texts.runs}</h1></header>
      <FilterBar filters={filters} key={key} />
      <List filters={filters} key={`list ${key}`} />
    </>
  );
}

/** What somebody has seen of a list: where it was scrolled, and how far it was read. It is back when the address is. */
interface Seen {
  readonly older: readonly RunSummary[];
  readonly next: string | null;
  readonly scrollTop: number;
}

const seen = new Map<string, Seen>();
const SEEN_MAX = 20;

function List({ filters }: { readonly filters: Filters }): JSX.Element {
  const address = toQuery(filters);
  const before = useMemo(() => seen.get(address), []);
  const request = useRef(toRequest(filters, now.peek()).toString());
  const suffix = request.current ? `&${request.current}` : "";
  const isFiltered = request.current !== "";
  const known = useRef<ReadonlySet<string>>(new Set());
  const query = useQuery<RunList>(`/v1/runs?limit=${PAGE}${suffix}`, TOPICS, (change) => change.kind === "row" && (isFiltered || !known.current.has(change.key)));
  const counts = useQuery<Counts>(`/v1/runs/counts?${request.current}`, TOPICS, (change) => change.kind === "row").value.value;
  const changed = useChanged();
  const [older, setOlder] = useState<{ readonly runs: readonly RunSummary[]; readonly next: string | null } | null>(before ? { runs: before.older, next: before.next } : null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [focused, setFocused] = useState(-1);
  const [top, setTop] = useState<string | null>(null);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const newest = query.value.value;
  const { shown: runs, waiting } = rowsOf(newest?.runs ?? [], older?.runs ?? [], changed, !isFiltered, top);
  known.current = new Set(runs.map((run) => run.id));
  const next = older === null ? (newest?.next ?? null) : older.next;
  const state = useRef({ runs, focused, scrollTop: before?.scrollTop ?? 0 });
  state.current.runs = runs;
  state.current.focused = focused;
  // Rows stay where they are while somebody reads: what is new waits above them.
  const hold = (): void => setTop((held) => held ?? state.current.runs[0]?.id ?? null);
  const release = (): void => {
    setTop(null);
    setFocused(-1);
  };
  const toggle = (id: string): void => setChosen((all) => (all.has(id) ? new Set([...all].filter((other) => other !== id)) : new Set([...all, id])));
  const move = (by: number) => (): void => {
    hold();
    setFocused((at) => Math.max(0, Math.min(state.current.runs.length - 1, at + by)));
  };
  const enter = (event: KeyboardEvent): void => {
    const run = state.current.runs[state.current.focused];
    if (run && !(event.target instanceof HTMLAnchorElement || event.target instanceof HTMLButtonElement)) open(`/runs/${run.id}`);
    else if (event.target instanceof HTMLElement) event.target.click();
  };
  const select = (): void => {
    const run = state.current.runs[state.current.focused];
    if (run) toggle(run.id);
  };
  useKeys({ j: move(1), ArrowDown: move(1), k: move(-1), ArrowUp: move(-1), Enter: enter, x: select, Escape: () => setChosen(new Set()) });
  const kept = useRef<Seen | null>(null);
  kept.current = { older: older?.runs ?? [], next: older?.next ?? null, scrollTop: state.current.scrollTop };
  useEffect(() => () => {
    if (kept.current === null || (kept.current.older.length === 0 && state.current.scrollTop === 0)) return void seen.delete(address);
    seen.delete(address);
    seen.set(address, { ...kept.current, scrollTop: state.current.scrollTop });
    if (seen.size > SEEN_MAX) seen.delete([...seen.keys()][0] ?? "");
  }, []);
  const load = (): void => {
    if (next === null) return;
    get<RunList>(`/v1/runs?limit=${PAGE}${suffix}&cursor=${encodeURIComponent(next)}`).then(
      (list) => setOlder({ runs: [...(older?.runs ?? runs), ...list.runs], next: list.next }),
      (error: unknown) => setProblem(error instanceof ApiError ? error.problem : null),
    );
  };
  const scrolled = (scrollTop: number): void => {
    state.current.scrollTop = scrollTop;
    if (scrollTop > 0) hold();
    else if (state.current.focused <= 0) setTop(null);
  };
  const trouble = query.problem.value ?? problem;
  if (newest === null) return trouble ? <ProblemNote problem={trouble} again={query.again} /> : <Waiting rows={12} />;
  if (runs.length === 0) return <NoRuns filters={filters} />;
  const left = counts === null ? 0 : counts.total - runs.length - waiting;
  return (
    <>
      {trouble && <ProblemNote problem={trouble} again={query.again} />}
      <div class="list-state" role="status">
        {counts !== null && <span class="num">{words.total(counts.total, counts.more)}</span>}
        {waiting > 0 && <button type="button" class="small" onClick={release}>{words.fresh(waiting)}</button>}
      </div>
      <ManyBar runs={runs.filter((run) => chosen.has(run.id))} clear={() => setChosen(new Set())} />
      <VirtualRows
        total={runs.length} rowPx={ROW_PX[density.value]} focused={focused} scrollTop={before?.scrollTop ?? 0} isAtTop={top === null} onScrolled={scrolled}
        attributes={{ role: "grid", "aria-label": texts.runs, "aria-rowcount": next === null ? runs.length + 1 : -1, class: `run-list panel ${chosen.size > 0 ? "choosing" : ""}`, tabIndex: 0 }}
        head={<><span role="columnheader"><span class="visually-hidden">{words.select}</span></span>{words.columns.map((name) => <span key={name} role="columnheader">{name}</span>)}</>}
        render={(index) => {
          const run = runs[index];
          if (!run) return <div key={index} />;
          const isChosen = chosen.has(run.id);
          return (
            <div key={run.id} role="row" aria-rowindex={index + 2} class={`row ${index === focused ? "focused" : ""} ${isChosen ? "chosen" : ""}`} aria-selected={isChosen || index === focused}>
              <span role="gridcell" class="c-select"><input type="checkbox" tabIndex={-1} checked={isChosen} aria-label={words.selectOne(`${run.name} #${run.number}`)} onChange={() => toggle(run.id)} /></span>
              <RunCells run={run} />
            </div>
          );
        }}
      />
      <p class="below">{next === null ? words.end : <button type="button" onClick={load}>{left > 0 && counts !== null && !counts.more ? words.olderCount(left) : words.older}</button>}</p>
    </>
  );
}

/** The newest rows of runs that have changed since the list is shown, as the stream brings them. */
function useChanged(): ReadonlyMap<string, RunSummary> {
  const [changed, setChanged] = useState<ReadonlyMap<string, RunSummary>>(new Map());
  useEffect(() => {
    const { end } = follow({
      topics: () => TOPICS,
      change: (change) => {
        if (change.kind === "row" && change.list === "runs" && change.row !== null) {
          const row = change.row as RunSummary;
          setChanged((all) => new Map([...(all.size >= CHANGED_MAX ? [] : all), [change.key, row]]));
        }
      },
    });
    return end;
  }, []);
  return changed;
}
