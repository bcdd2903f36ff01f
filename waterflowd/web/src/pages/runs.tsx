// Runs: find one among many. The filters are the address; older pages are appended, rows out of view are not in the document.

import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, get } from "../live/api";
import { density } from "../live/choices";
import { now } from "../live/clock";
import { useQuery } from "../live/query";
import { open, place, view } from "../live/router";
import { fromQuery, fromText, KEYS, toRequest, toText, type Filters, type Key } from "../model/filters";
import { visible } from "../model/lines";
import type { Problem, RunList, RunSummary } from "../model/shapes";
import { Command } from "../parts/copy";
import { onKey } from "../parts/keys";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { RunCells } from "../parts/run_line";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";

const words = texts.runsPage;
const PAGE = 100;
const STATUSES = ["running", "waiting", "queued", "failure", "timed-out", "lost", "cancelled", "skipped", "success"];
const TRIGGERS = ["push", "schedule", "webhook", "workflow_run", "parent_run", "api", "rerun", "manual"];
const PERIODS = ["1h", "24h", "7d", "30d"];
export const ROW_PX = { compact: 44, comfortable: 52 } as const;

export function Runs(): JSX.Element {
  const filters = fromQuery(place.value.query);
  const text = toText(filters);
  useEffect(() => void (document.title = `${texts.runs} · ${texts.product}`), []);
  return (
    <>
      <header class="page-head"><h1>{texts.runs}</h1></header>
      <FilterBar filters={filters} key={text} />
      <List filters={filters} key={`list ${text}`} />
    </>
  );
}

function change(changes: Readonly<Partial<Record<Key, string | null>>>): void {
  view(changes);
}

function FilterBar({ filters }: { readonly filters: Filters }): JSX.Element {
  const [typed, setTyped] = useState(toText(filters));
  const apply = (event: Event): void => {
    event.preventDefault();
    const found = fromText(typed);
    view(Object.fromEntries(KEYS.map((key) => [key, found[key] ?? null])));
  };
  return (
    <form class="filters" role="search" aria-label={words.filter} onSubmit={apply}>
      <Choice label={words.status} value={filters.status} values={STATUSES} pick={(value) => change({ status: value })} />
      <Choice label={words.trigger} value={filters.trigger} values={TRIGGERS} pick={(value) => change({ trigger: value })} />
      <Choice label={words.since} value={filters.since} values={PERIODS} pick={(value) => change({ since: value })} />
      <input type="text" aria-label={words.filter} placeholder={words.filterHelp} value={typed} spellcheck={false} autocomplete="off" onInput={(event) => setTyped(event.currentTarget.value)} />
      {typed !== "" && <button type="button" onClick={() => { setTyped(""); view(Object.fromEntries(KEYS.map((key) => [key, null]))); }}>{words.clear}</button>}
    </form>
  );
}

interface ChoiceProperties {
  readonly label: string;
  readonly value: string | undefined;
  readonly values: readonly string[];
  readonly pick: (value: string | null) => void;
}

function Choice({ label, value, values, pick }: ChoiceProperties): JSX.Element {
  const all = value === undefined || values.includes(value) ? values : [...values, value];
  return (
    <label class={`choice ${value === undefined ? "" : "chosen"}`}>
      <span>{label}</span>
      <select value={value ?? ""} onChange={(event) => pick(event.currentTarget.value || null)}>
        <option value="">{words.any}</option>
        {all.map((one) => <option key={one} value={one}>{one}</option>)}
      </select>
    </label>
  );
}

function List({ filters }: { readonly filters: Filters }): JSX.Element {
  const request = useRef(toRequest(filters, now.peek()).toString());
  const base = `/v1/runs?limit=${PAGE}${request.current ? `&${request.current}` : ""}`;
  const query = useQuery<RunList>(base, ["runs"]);
  const [older, setOlder] = useState<{ readonly runs: readonly RunSummary[]; readonly next: string | null } | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [focused, setFocused] = useState(-1);
  const newest = query.value.value;
  const runs = newest === null ? [] : merged(newest.runs, older?.runs ?? []);
  const next = older === null ? (newest?.next ?? null) : older.next;
  const state = useRef({ runs, focused });
  state.current = { runs, focused };
  useEffect(() => {
    const move = (by: number) => (): void => setFocused((at) => Math.max(0, Math.min(state.current.runs.length - 1, at + by)));
    const enter = (event: KeyboardEvent): void => {
      const run = state.current.runs[state.current.focused];
      if (run && !(event.target instanceof HTMLAnchorElement || event.target instanceof HTMLButtonElement)) open(`/runs/${run.id}`);
      else if (event.target instanceof HTMLElement) event.target.click();
    };
    const keys = [onKey("j", move(1)), onKey("ArrowDown", move(1)), onKey("k", move(-1)), onKey("ArrowUp", move(-1)), onKey("Enter", enter)];
    return () => keys.forEach((end) => end());
  }, []);
  const load = (): void => {
    if (next === null) return;
    get<RunList>(`${base}&cursor=${encodeURIComponent(next)}`).then(
      (list) => setOlder({ runs: [...(older?.runs ?? runs), ...list.runs], next: list.next }),
      (error: unknown) => setProblem(error instanceof ApiError ? error.problem : null),
    );
  };
  const trouble = query.problem.value ?? problem;
  if (newest === null) return trouble ? <ProblemNote problem={trouble} again={query.again} /> : <Waiting rows={12} />;
  if (runs.length === 0) return <None filters={filters} />;
  return (
    <>
      {trouble && <ProblemNote problem={trouble} again={query.again} />}
      <VirtualRows
        total={runs.length} rowPx={ROW_PX[density.value]} focused={focused}
        attributes={{ role: "grid", "aria-label": texts.runs, "aria-rowcount": next === null ? runs.length + 1 : -1, class: "run-list panel", tabIndex: 0 }}
        head={<>{words.columns.map((name) => <span key={name} role="columnheader">{name}</span>)}</>}
        render={(index) => {
          const run = runs[index];
          if (!run) return <div key={index} />;
          return <div key={run.id} role="row" aria-rowindex={index + 2} class={`row ${index === focused ? "focused" : ""}`} aria-selected={index === focused}><RunCells run={run} /></div>;
        }}
      />
      <p class="below">{next === null ? words.end : <button type="button" onClick={load}>{words.older}</button>}</p>
    </>
  );
}

/** The newest page over what was read before: a run has one row, its newest. */
function merged(newest: readonly RunSummary[], older: readonly RunSummary[]): readonly RunSummary[] {
  const known = new Set(newest.map((run) => run.id));
  return [...newest, ...older.filter((run) => !known.has(run.id))];
}

function None({ filters }: { readonly filters: Filters }): JSX.Element {
  const used = KEYS.filter((key) => filters[key] !== undefined);
  if (used.length === 0) return <Empty><p>{words.noneYet}</p><Command text="waterflowctl run WORKFLOW" /></Empty>;
  return (
    <Empty>
      <p>{words.none}</p>
      <p>{used.map((key) => <button key={key} type="button" onClick={() => change({ [key]: null })}>{words.drop(`${key}:${visible(filters[key] ?? "")}`)}</button>)}</p>
    </Empty>
  );
}
