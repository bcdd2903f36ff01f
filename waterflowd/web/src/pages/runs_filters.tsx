// The filters of the list of runs, the saved ones, and what to drop when nothing matches.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { get } from "../live/api";
import { now } from "../live/clock";
import { place, view } from "../live/router";
import { remove, save, savedViews } from "../live/views";
import { fromText, KEYS, toQuery, toRequest, toText, type Filters, type Key } from "../model/filters";
import { visible } from "../model/lines";
import { Command } from "../parts/copy";
import { Dialog } from "../parts/dialog";
import { Empty } from "../parts/problem";
import { texts } from "../texts";

const words = texts.runsPage;
const STATUSES = ["running", "waiting", "queued", "failure", "timed-out", "lost", "cancelled", "skipped", "success"];
const TRIGGERS = ["push", "schedule", "webhook", "workflow_run", "parent_run", "api", "rerun", "manual"];
const PERIODS = ["1h", "24h", "7d", "30d"];

export interface Counts {
  readonly counts: Readonly<Record<string, number>>;
  readonly total: number;
  readonly more: boolean;
}

export function FilterBar({ filters }: { readonly filters: Filters }): JSX.Element {
  const [typed, setTyped] = useState(toText(filters));
  const [isSaving, setSaving] = useState(false);
  const apply = (event: Event): void => {
    event.preventDefault();
    change(fromText(typed), true);
  };
  return (
    <form class="filters" role="search" aria-label={words.filter} onSubmit={apply}>
      <Choice label={words.status} value={filters.status} values={STATUSES} pick={(value) => change({ status: value })} />
      <Choice label={words.trigger} value={filters.trigger} values={TRIGGERS} pick={(value) => change({ trigger: value })} />
      <Choice label={words.since} value={filters.since} values={PERIODS} pick={(value) => change({ since: value })} />
      <input type="text" aria-label={words.filter} placeholder={words.filterHelp} value={typed} spellcheck={false} autocomplete="off" onInput={(event) => setTyped(event.currentTarget.value)} />
      {typed !== "" && <button type="button" onClick={() => change({}, true)}>{words.clear}</button>}
      {toQuery(filters) !== "" && <button type="button" onClick={() => setSaving(true)}>{words.save}</button>}
      <Saved filters={filters} />
      {isSaving && <SaveDialog query={toQuery(filters)} onClose={() => setSaving(false)} />}
    </form>
  );
}

/** Changes filters in the address; with `isAll` the others are dropped. */
function change(changes: Readonly<Partial<Record<Key, string | null>>>, isAll = false): void {
  const none = isAll ? Object.fromEntries(KEYS.map((key) => [key, null])) : {};
  view({ ...none, ...changes }, "push");
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

function Saved({ filters }: { readonly filters: Filters }): JSX.Element | null {
  if (savedViews.value.length === 0) return null;
  const shown = toQuery(filters);
  return (
    <ul class="saved" aria-label={words.saved}>
      {savedViews.value.map((one) => (
        <li key={one.name} class={one.query === shown ? "chosen" : ""}>
          <a href={`/runs?${one.query}`}>{visible(one.name)}</a>
          <button type="button" class="quiet small" aria-label={words.forget(one.name)} onClick={() => remove(one.name)}>✕</button>
        </li>
      ))}
    </ul>
  );
}

function SaveDialog({ query, onClose }: { readonly query: string; readonly onClose: () => void }): JSX.Element {
  const [name, setName] = useState("");
  const submit = (event: Event): void => {
    event.preventDefault();
    event.stopPropagation();
    save(name, query);
    onClose();
  };
  return (
    <Dialog title={words.saveTitle} onClose={onClose}>
      <p class="mono">{visible(decodeURIComponent(query))}</p>
      <label for="view-name">{words.viewName}</label>
      <input id="view-name" type="text" class="wide" maxLength={60} required autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} onKeyDown={(event) => { if (event.key === "Enter") submit(event); }} />
      <p class="hint">{texts.settingsPage.inThisBrowser}</p>
      <footer>
        <button type="button" onClick={onClose}>{texts.close}</button>
        <button type="button" class="primary" disabled={name.trim() === ""} onClick={submit}>{words.save}</button>
      </footer>
    </Dialog>
  );
}

/** Says how many runs there would be without each of the filters: the one that removes most comes first. */
export function NoRuns({ filters }: { readonly filters: Filters }): JSX.Element {
  const used = KEYS.filter((key) => filters[key] !== undefined);
  const [totals, setTotals] = useState<ReadonlyMap<Key, Counts>>(new Map());
  useEffect(() => {
    const controller = new AbortController();
    for (const key of used) {
      const { [key]: _, ...others } = filters;
      get<Counts>(`/v1/runs/counts?${toRequest(others, now.peek()).toString()}`, controller.signal).then(
        (counts) => setTotals((known) => new Map([...known, [key, counts]])),
        () => undefined,
      );
    }
    return () => controller.abort();
  }, [toQuery(filters)]);
  if (used.length === 0) return <Empty><p>{words.noneYet}</p><Command text="waterflowctl run WORKFLOW" /></Empty>;
  const sorted = [...used].sort((a, b) => (totals.get(b)?.total ?? 0) - (totals.get(a)?.total ?? 0));
  return (
    <Empty>
      <p>{words.none}</p>
      <ul class="drops">
        {sorted.map((key) => {
          const found = totals.get(key);
          return (
            <li key={key}>
              <button type="button" onClick={() => change({ [key]: null })}>{words.drop(`${key}:${visible(filters[key] ?? "")}`)}</button>
              {found && <span class="num"> {words.total(found.total, found.more)}</span>}
            </li>
          );
        })}
      </ul>
      {place.value.query.size > 1 && <p><button type="button" onClick={() => change({}, true)}>{words.clear}</button></p>}
    </Empty>
  );
}
