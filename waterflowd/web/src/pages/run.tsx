// A run: what happened, why, and what next. One selection is shared by the tree, its bars, the details and the output.

import { useEffect, useMemo, useState } from "preact/hooks";
import type { JSX } from "preact";
import { now } from "../live/clock";
import { useOutline } from "../live/outline";
import { useQuery } from "../live/query";
import { place, replace, view } from "../live/router";
import { axisOf, between, folded, type Axis } from "../model/axis";
import { criticalPath } from "../model/critical";
import { jobsOf } from "../model/graph/jobs";
import { visible } from "../model/lines";
import { isOpened, type Outline } from "../model/outline";
import { partsOf, type Part } from "../model/parts";
import type { Run, RunSummary } from "../model/shapes";
import { instantOf, stateAfter } from "../model/slider";
import { isBad, stateOf, type State } from "../model/states";
import { focusOf, jobOfPlace, pathTo, progress, rowsOf, type Toggled } from "../model/tree";
import { RunActions } from "../parts/actions";
import { copy } from "../parts/copy";
import { Glyph } from "../parts/glyph";
import { GraphView } from "../parts/graph/view";
import { useKeys } from "../parts/keys";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { shortRevision, starter } from "../parts/run_line";
import { say } from "../parts/status_line";
import { Time, Took } from "../parts/time";
import { texts } from "../texts";
import { Artifacts } from "./run_artifacts";
import { Compare } from "./run_compare";
import { Details } from "./run_details";
import { Events } from "./run_events";
import { ReportView } from "./run_report";
import { Servers } from "./run_servers";
import { PastBanner, Slider, useInstant, type Instant } from "./run_slider";
import { RunTree, type TreeProperties } from "./run_tree";
import { RunValues, ViewTabs, viewOf, viewsOf } from "./run_views";

const words = texts.run;

export function RunPage({ id }: { readonly id: string }): JSX.Element {
  const query = useQuery<Run>(`/v1/runs/${encodeURIComponent(id)}?part=`);
  const source = useOutline(id);
  const run = query.value.value;
  const outline = source.outline.value;
  const instant = useInstant(outline);
  const problem = query.problem.value ?? source.problem.value;
  const again = (): void => {
    query.again();
    source.again();
  };
  useEffect(() => {
    if (run) document.title = `${signOf(run)} ${run.name} #${run.number} · ${texts.product}`;
    // The stream knows runs by their whole ids.
    if (run && run.id !== id) replace(`/runs/${run.id}`);
  }, [run]);
  useEffect(() => {
    if (run && outline && outline.seq > run.seq) query.again();
  }, [outline?.seq, run?.seq]);
  if (run === null) {
    if (problem === null) return <Waiting rows={10} />;
    if (problem.status !== 404) return <ProblemNote problem={problem} again={again} />;
    return <Empty><h1>{words.unknown}</h1><p>{visible(problem.detail)}</p><p><a href="/runs">{words.back}</a></p></Empty>;
  }
  return (
    <>
      {problem && <ProblemNote problem={problem} again={again} />}
      {outline !== null && <PastBanner outline={outline} instant={instant} />}
      <Head run={run} past={outline === null || instant.at === null ? null : { at: instant.at, state: stateAfter(outline, instant.at) }} />
      {outline === null ? problem === null && <Waiting rows={10} /> : <Body run={run} outline={outline} instant={instant} open={source.open} />}
    </>
  );
}

const SIGNS: Readonly<Partial<Record<string, string>>> = { success: "✓", failure: "✗", "timed-out": "✗", lost: "?", running: "●", waiting: "◌" };
const signOf = (run: RunSummary): string => SIGNS[stateOf(run)] ?? "·";

/** The head of the page; in the past it says nothing that had not happened yet. */
function Head({ run, past }: { readonly run: Run; readonly past: { readonly at: number; readonly state: State } | null }): JSX.Element {
  const state = past?.state ?? stateOf(run);
  const subject = run.trigger.git.subject ?? run.trigger.git.message;
  return (
    <header class="run-head">
      <div class="run-title">
        <h1><Glyph state={state} isSilent /> {visible(run.name)} <span class="num">#{run.number}</span> <span class={`word-${state}`}>{texts.states[state]}</span>{past && <small class="as-of"> {words.asOf(past.at)}</small>}</h1>
        {past === null && run.reason.code !== "started" && state !== "success" && <p class="reason">{visible(run.reason.text)}</p>}
        <p class="facts-line">
          {run.revision && <span class="mono">{run.trigger.ref ? `${visible(run.trigger.ref.replace(/^refs\/(heads|tags)\//, ""))}@` : ""}{shortRevision(run.revision)}</span>}
          {typeof subject === "string" && <span>“{visible(subject.split("\n")[0] ?? "")}”</span>}
          <span>{visible(starter(run))} · <Time at={run.created_at} /></span>
          {past === null && <span><Took from={run.started_at} to={run.completed_at} /></span>}
          {run.rerun_of && <a href={`/runs/${run.rerun_of}`}>{words.rerunOf}</a>}
          {run.parent_run && <a href={`/runs/${run.parent_run.run}?place=${encodeURIComponent(`${run.parent_run.job}/${run.parent_run.step}`)}`}>{words.parent} {run.parent_run.run.slice(0, 8)}</a>}
          <span class="mono path">{visible(run.repository ? `${run.repository} · ${run.path}` : run.path)}</span>
        </p>
      </div>
      {past === null && <RunActions run={run} approvals={run.approvals} />}
    </header>
  );
}

interface BodyProperties {
  readonly run: Run;
  readonly outline: Outline;
  readonly instant: Instant;
  readonly open: (job: string) => void;
}

function Body({ run, outline, instant, open }: BodyProperties): JSX.Element {
  const { at } = instant;
  const parts = useMemo(() => partsOf(outline, at ?? Infinity), [outline, at]);
  const present = at === null ? now.value : instantOf(outline, at);
  const [toggled, setToggled] = useState<Toggled>(new Map());
  const wanted = place.value.query.get("place");
  const [first, setFirst] = useState(() => focusOf(at === null ? parts : partsOf(outline)));
  const path = (wanted !== null ? pathTo(parts, wanted) : null) ?? (first !== null ? pathTo(parts, first.place) : null) ?? parts.slice(0, 1);
  const selected = path.at(-1) ?? null;
  // A linked part is in view even where its parents would be closed.
  const missing = path.slice(0, -1).filter((part) => !toggled.has(part.place));
  const shown: Toggled = missing.length === 0 ? toggled : new Map([...toggled, ...missing.map((part): [string, boolean] => [part.place, true])]);
  const rows = useMemo(() => rowsOf(parts, shown), [parts, toggled, selected?.place]);
  const timeline = useTimeline(outline, parts);
  const views = viewsOf(run, outline);
  const shownView = viewOf(place.value.query, views);
  const jobs = useMemo(() => (shownView === "graph" ? jobsOf(parts) : []), [parts, shownView]);
  useKeys({ y: () => void copyLink() });
  // Of a large run, the steps of the linked job, or of the first one that failed, are read at once.
  useEffect(() => {
    const job = wanted !== null ? jobOfPlace(outline, wanted) : first?.isClosed ? first.place : null;
    if (job !== null) open(job);
  }, [wanted, first?.place]);
  useEffect(() => {
    if (first?.isClosed && isOpened(outline, first.place)) setFirst(focusOf(partsOf(outline)));
  }, [outline.opened]);
  if (parts.length === 0) return <Empty><p>{words.noParts}</p><p>{visible(run.reason.text)}</p></Empty>;
  const toggle = (part: Part, isOpen: boolean): void => {
    if (isOpen && part.isClosed) open(part.place);
    setToggled(new Map([...toggled, [part.place, isOpen]]));
  };
  const details = selected && <Details run={run} part={selected} version={outline.touched.get(selected.place) ?? 0} at={instant.settledAt} isPast={at !== null} seq={outline.seq} key={selected.place} />;
  return (
    <>
      <FirstFailure parts={parts} selected={selected} />
      <Progress run={run} outline={outline} />
      <ViewTabs views={views} shown={shownView} />
      {shownView === "values" && <RunValues run={run} />}
      {shownView === "report" && <ReportView run={run} seq={outline.seq} at={instant.settledAt} />}
      {shownView === "artifacts" && <Artifacts run={run.id} seq={outline.seq} />}
      {shownView === "compare" && <Compare run={run} />}
      {shownView === "events" && <Events run={run.id} outline={outline} />}
      {(shownView === "timeline" || shownView === "graph") && (
        <div class={`run-body v-${shownView}`}>
          <RunTree rows={rows} selected={selected?.place ?? ""} present={present} {...timeline} select={(part) => view({ place: part.place })} toggle={toggle} />
          {shownView === "graph" && <GraphView jobs={jobs} selected={selected?.place ?? ""} select={(chosen) => view({ place: chosen })} />}
          {details}
        </div>
      )}
      {shownView === "servers" && (
        <div class="run-body">
          <Servers run={run} outline={outline} parts={parts} selected={selected} isPast={at !== null} />
          {details}
        </div>
      )}
      {(shownView === "timeline" || shownView === "graph" || shownView === "servers" || shownView === "report") && <Slider outline={outline} instant={instant} />}
    </>
  );
}

/** What the time axis shows. It is a part of the address: `zoom=FROM-TO` in ms since the creation, `fold` and `critical`. */
function useTimeline(outline: Outline, parts: readonly Part[]): Pick<TreeProperties, "axis" | "whole" | "isZoomed" | "zoom" | "critical" | "folding"> {
  const { query } = place.value;
  const present = outline.endedAt ?? now.value;
  const isFolded = query.has("fold");
  const isCritical = query.has("critical");
  const plain = axisOf(outline.createdAt, outline.endedAt, present);
  const whole = isFolded ? folded(plain, parts, present) : plain;
  const path = isCritical ? criticalPath(parts, outline.createdAt, present) : null;
  const span = /^(\d+)-(\d+)$/.exec(query.get("zoom") ?? "");
  const axis = span === null ? whole : between(whole, whole.from + Number(span[1]), whole.from + Number(span[2]));
  const zoom = (to: Axis | null): void => {
    const isWhole = to === null || (to.from <= whole.from && to.to >= whole.to);
    view({ zoom: isWhole ? null : `${Math.round(to.from - whole.from)}-${Math.round(to.to - whole.from)}` });
  };
  return {
    axis, whole, zoom, isZoomed: span !== null,
    critical: { isShown: isCritical, path, toggle: () => view({ critical: place.peek().query.has("critical") ? null : "1" }) },
    folding: { isOn: isFolded, toggle: () => view({ fold: place.peek().query.has("fold") ? null : "1" }) },
  };
}

async function copyLink(): Promise<void> {
  if (await copy(location.href)) say(texts.copied);
}

function Progress({ run, outline }: { readonly run: Run; readonly outline: Outline }): JSX.Element | null {
  if (run.status === "completed") return null;
  const { done, total } = progress(outline);
  return <progress class="run-progress" value={done} max={Math.max(1, total)} aria-label={`${done} of ${total}`} />;
}

function FirstFailure({ parts, selected }: { readonly parts: readonly Part[]; readonly selected: Part | null }): JSX.Element | null {
  const failure = useMemo(() => focusOf(parts), [parts]);
  if (failure === null || !isBad(failure.state) || failure.place === selected?.place) return null;
  const server = failure.kind === "job" ? failure.node?.agent : parts.find((part) => part.place === failure.job)?.node?.agent;
  return (
    <a class="first-failure" href={`?place=${encodeURIComponent(failure.place)}`} onClick={(event) => { event.preventDefault(); view({ place: failure.place }); }}>
      <Glyph state={failure.state} isSilent />
      <b>{words.firstFailure}</b>
      <span class="mono">{visible(failure.place)}</span>
      {server && <span>{visible(server)}</span>}
      <span>{visible(failure.reason?.text ?? "")}</span>
    </a>
  );
}
