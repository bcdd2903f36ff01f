// What a run looks like in a list.

import type { JSX } from "preact";
import { visible } from "../model/lines";
import type { RunSummary } from "../model/shapes";
import { stateOf } from "../model/states";
import { texts } from "../texts";
import { Glyph } from "./glyph";
import { Time, Took } from "./time";

export const shortRevision = (revision: string | null): string => (revision ?? "").slice(0, 7);

/** Who or what started a run, in a few words. */
export function starter(run: RunSummary): string {
  const { kind, by } = run.trigger;
  return by === "" || by === kind ? kind : kind === "api" || kind === "manual" ? by : `${kind} · ${by}`;
}

export function RunName({ run, place = null }: { readonly run: RunSummary; readonly place?: string | null }): JSX.Element {
  return <a href={`/runs/${run.id}${place === null ? "" : `?place=${encodeURIComponent(place)}`}`} class="run-name">{visible(run.name)} <span class="num">#{run.number}</span></a>;
}

export function RunCells({ run }: { readonly run: RunSummary }): JSX.Element {
  const state = stateOf(run);
  return (
    <>
      <span role="gridcell" class={`c-state word-${state}`}><Glyph state={state} isSilent /> {texts.states[state]}</span>
      <span role="gridcell" class="c-run"><RunName run={run} /><small>{run.reason.code === "started" ? "" : visible(run.reason.text)}</small></span>
      <span role="gridcell" class="c-revision mono">{run.revision ? shortRevision(run.revision) : "–"}</span>
      <span role="gridcell" class="c-by">{visible(starter(run))}</span>
      <span role="gridcell" class="c-took"><Took from={run.started_at} to={run.completed_at} /></span>
      <span role="gridcell" class="c-created"><Time at={run.created_at} /></span>
    </>
  );
}
