// What a run looks like in a list.

import type { JSX } from "preact";
import { visible } from "../model/lines";
import type { RunSummary } from "../model/shapes";
import { isBad, stateOf } from "../model/states";
import { texts } from "../texts";
import { Glyph } from "./glyph";
import { Time, Took } from "./time";

const words = texts.runsPage;

export const shortRevision = (revision: string | null): string => (revision ?? "").slice(0, 7);

/** Who or what started a run, in a few words. */
export function starter(run: RunSummary): string {
  const { kind, by } = run.trigger;
  return by === "" || by === kind ? kind : kind === "api" || kind === "manual" ? by : `${kind} · ${by}`;
}

export function RunName({ run, place = null }: { readonly run: RunSummary; readonly place?: string | null }): JSX.Element {
  return <a href={`/runs/${run.id}${place === null ? "" : `?place=${encodeURIComponent(place)}`}`} class="run-name">{visible(run.name)} <span class="num">#{run.number}</span></a>;
}

/** How far an open run is; nothing for one job, which is either completed or not. */
export function RunProgress({ run }: { readonly run: RunSummary }): JSX.Element | null {
  const { done, total, failed } = run.progress;
  if (run.status === "completed" || total < 2) return null;
  return <><progress class={`jobs ${failed > 0 ? "failed" : ""}`} value={done} max={total} aria-label={words.progress(done, total, failed)} /> <span class="num" aria-hidden="true">{done}/{total}</span></>;
}

/** What failed first, else why the run is where it is. */
export function noteOf(run: RunSummary): string {
  const failure = run.first_failure;
  if (failure !== null && (run.status !== "completed" || isBad(stateOf(run)))) return `${words.on(failure.place, failure.agent)}: ${failure.reason.text}`;
  return run.reason.code === "started" ? "" : run.reason.text;
}

export function RunCells({ run }: { readonly run: RunSummary }): JSX.Element {
  const state = stateOf(run);
  const note = visible(noteOf(run));
  return (
    <>
      <span role="gridcell" class={`c-state word-${state}`}><Glyph state={state} isSilent /> {texts.states[state]}</span>
      <span role="gridcell" class="c-run"><RunName run={run} /><small title={note || undefined}><RunProgress run={run} /> {note}</small></span>
      <span role="gridcell" class="c-revision mono">{run.revision ? shortRevision(run.revision) : "–"}</span>
      <span role="gridcell" class="c-by">{visible(starter(run))}</span>
      <span role="gridcell" class="c-took"><Took from={run.started_at} to={run.completed_at} /></span>
      <span role="gridcell" class="c-created"><Time at={run.created_at} /></span>
    </>
  );
}
