// The output of everything below a job: equal output of many servers once, or all lines by time with the server beside each.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, send } from "../live/api";
import { open, place, view } from "../live/router";
import { Lines, visible } from "../model/lines";
import { byTime, folded, MANY_MAX, manyLines, sectionKey, sections, shortJob, type ManyLine, type Section } from "../model/log/many";
import { lineTime } from "../model/log/sizes";
import { pathOf } from "../model/log/ranges";
import type { OutputLine, Problem } from "../model/shapes";
import { LogBox, type BoxHandle } from "../parts/log/box";
import { LogRow } from "../parts/log/row";
import { ProblemNote, Waiting } from "../parts/problem";
import { texts } from "../texts";

const words = texts.log;
/** Sections are open at first as long as there are few of them. */
const OPEN_SECTIONS = 6;
/** Lines are shown together so often, however fast they come. */
const SHOW_MS = 200;

export function ManyLogs({ run, job, isActive }: { readonly run: string; readonly job: string; readonly isActive: boolean }): JSX.Element {
  const [objects, setObjects] = useState<readonly OutputLine[]>([]);
  const [isRead, setRead] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [toggled, setToggled] = useState<ReadonlyMap<string, boolean>>(new Map());
  const [follows] = useState(isActive);
  const handle = useRef<BoxHandle | null>(null);
  const isByTime = place.value.query.get("order") === "time";
  useEffect(() => {
    const controller = new AbortController();
    read(run, job, follows, controller, setObjects)
      .then(() => setRead(true))
      .catch((error: unknown) => {
        if (error instanceof ApiError && !controller.signal.aborted) setProblem(error.problem);
      });
    return () => controller.abort();
  }, []);
  const lines = useMemo(() => manyLines(objects), [objects]);
  const found = useMemo(() => sections(lines), [lines]);
  const isOpen = (section: Section): boolean => toggled.get(sectionKey(section)) ?? found.length <= OPEN_SECTIONS;
  const ordered = useMemo(() => (isByTime ? byTime(lines) : []), [lines, isByTime]);
  const rows = useMemo(() => folded(found, isOpen), [found, toggled]);
  const start = lines.reduce((first, line) => Math.min(first, line.at ?? Infinity), Infinity);
  if (problem) return <ProblemNote problem={problem} />;
  if (lines.length === 0) return isRead || isActive ? <p class="quiet-line">{isActive ? words.nothingYet : words.nothing}</p> : <Waiting rows={6} />;
  const line = (key: string, shown: ManyLine, server?: string): JSX.Element => (
    <LogRow
      key={key} number={shown.number} text={shown.text} time={isByTime ? lineTime(shown.at, start, "start") : ""} isError={shown.isError} leftOut={0}
      isLinked={false} isHit={false} isCurrent={false} expression={null} onChoose={() => open(`${pathOf({ run, ...shown })}#L${shown.number}`)} {...(server === undefined ? {} : { server })}
    />
  );
  const renderRow = (index: number): JSX.Element => {
    if (isByTime) {
      const shown = ordered[index];
      return shown ? line(`${index}`, shown, shortJob(shown.job)) : <div key={index} />;
    }
    const row = rows[index];
    if (!row) return <div key={index} />;
    if (row.line) return line(`${sectionKey(row.section)}\n${row.line.number}`, row.line);
    return <Head key={sectionKey(row.section)} run={run} section={row.section} isOpen={isOpen(row.section)} toggle={(open) => setToggled(new Map([...toggled, [sectionKey(row.section), open]]))} />;
  };
  return (
    <section class={`log is-page ${isByTime ? "t-start by-time" : "t-off"}`} aria-label={words.title}>
      <div class="log-tools" role="toolbar" aria-label={words.tools}>
        <span>{words.many(new Set(lines.map((shown) => shown.job)).size)}</span>
        <span class="log-view">
          <button type="button" class="small flag" aria-pressed={!isByTime} onClick={() => view({ order: null })}>{words.grouped}</button>
          <button type="button" class="small flag" aria-pressed={isByTime} onClick={() => view({ order: "time" })}>{words.interleaved}</button>
        </span>
      </div>
      {objects.length >= MANY_MAX && <p class="note warn">{words.cutAt(MANY_MAX)}</p>}
      <div class="log-body">
        <LogBox
          rows={isByTime ? ordered.length : rows.length} wraps={false} isFollowing={false} label={words.title} hasLines={isRead} handle={handle}
          onScroll={() => undefined} onView={() => undefined} render={renderRow}
        />
      </div>
    </section>
  );
}

function Head({ run, section, isOpen, toggle }: { readonly run: string; readonly section: Section; readonly isOpen: boolean; readonly toggle: (isOpen: boolean) => void }): JSX.Element {
  const names = section.jobs.map(shortJob);
  const address = { run, job: section.jobs[0] ?? "", step: section.step, attempt: section.attempt };
  return (
    <div class="log-section">
      <button type="button" class="quiet small" aria-expanded={isOpen} onClick={() => toggle(!isOpen)}>{isOpen ? "▾" : "▸"} <b>{visible(section.step)}</b></button>
      <span class="servers" title={names.map(visible).join(", ")}>{names.length > 1 ? `${words.same(names.length)}: ` : ""}{names.map(visible).join(", ")}</span>
      <a href={pathOf(address)}>{words.open}</a>
    </div>
  );
}

async function read(run: string, job: string, follows: boolean, controller: AbortController, show: (objects: readonly OutputLine[]) => void): Promise<void> {
  const query = new URLSearchParams({ job, ...(follows ? { follow: "true" } : {}) });
  const answer = await send("GET", `/v1/runs/${encodeURIComponent(run)}/logs?${query.toString()}`, { signal: controller.signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  const lines = new Lines();
  const objects: OutputLine[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = (): void => {
    timer = undefined;
    if (!controller.signal.aborted) show([...objects]);
  };
  while (objects.length < MANY_MAX) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done || value === undefined) break;
    for (const line of lines.push(value)) if (line !== "" && objects.length < MANY_MAX) objects.push(JSON.parse(line) as OutputLine);
    timer ??= setTimeout(flush, SHOW_MS);
  }
  await reader?.cancel();
  clearTimeout(timer);
  flush();
}
