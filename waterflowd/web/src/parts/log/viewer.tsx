// A log with its tools: search, times, wrapping, following, links to lines. On a page of its own its choices are in the address; in a
// pane they are not.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { LogSource } from "../../live/log_source";
import { rawPath } from "../../live/output";
import { fragment, place, view } from "../../live/router";
import { expressionOf, folded, hitFrom, unfolded, type SearchTerms } from "../../model/log/hits";
import { extended, fragmentOf, pathOf, rangeOf, type LineRange, type OutputAddress } from "../../model/log/ranges";
import { lineTime, TIMES, type Times } from "../../model/log/sizes";
import type { Span } from "../../model/log/store";
import { texts } from "../../texts";
import { copy } from "../copy";
import { useKeys } from "../keys";
import { ProblemNote } from "../problem";
import { say } from "../status_line";
import { LogBox, type BoxHandle } from "./box";
import { Minimap } from "./minimap";
import { LogRow } from "./row";
import { LogTools } from "./tools";

const words = texts.log;
const CONTEXT = 3;

export interface LogChoices {
  readonly terms: SearchTerms;
  readonly isOnlyHits: boolean;
  readonly times: Times;
  readonly wraps: boolean;
}

interface Properties {
  readonly address: OutputAddress;
  /** Whether the log is all of the page: then it takes the address and the keys. */
  readonly isPage: boolean;
  /** Why there is nothing, or nothing more: shown in place of the lines, or below them. */
  readonly hint: string | null;
  readonly emptyText: string;
}

export function LogViewer({ address, isPage, hint, emptyText }: Properties): JSX.Element {
  const source = useMemo(() => new LogSource(address), []);
  const [range, setRange] = useState<LineRange | null>(() => (isPage ? rangeOf(place.peek().hash) : null));
  const [choices, setChoices] = useState<LogChoices>(() => choicesOf(isPage ? place.peek().query : new URLSearchParams()));
  const [isFollowing, setFollowing] = useState(range === null);
  const [current, setCurrent] = useState<number | null>(null);
  const [leftAt, setLeftAt] = useState(0);
  const handle = useRef<BoxHandle | null>(null);
  const input = useRef<HTMLInputElement>(null);
  const shown = useRef<{ first: number; count: number }>({ first: 0, count: 0 });
  const section = useRef<HTMLElement>(null);

  void source.version.value;
  const { lines } = source;
  const found = source.found.value;
  const isOpen = source.isOpen.value;
  const rowsView = useMemo(() => (choices.isOnlyHits && choices.terms.text !== "" ? folded(found.hits, lines.total, CONTEXT) : unfolded(lines.total)), [choices.isOnlyHits, choices.terms.text, found.hits, lines.total]);
  const expression = useMemo(() => expressionOf(choices.terms), [choices.terms]);
  const hitLines = useMemo(() => new Set(found.hits), [found.hits]);

  useEffect(() => {
    void source.open(range?.first ?? null);
    return () => source.close();
  }, []);
  useEffect(() => {
    if (isOpen && range !== null) handle.current?.show(rowsView.rowOf(range.first));
    // So that the browser's own keys scroll it.
    if (isOpen && isPage && document.activeElement === document.body) focusLog();
  }, [isOpen]);
  useEffect(() => {
    const timer = setTimeout(() => source.search(choices.terms), choices.terms.text === found.terms.text ? 0 : TYPING_MS);
    if (isPage) view(queryOf(choices));
    return () => clearTimeout(timer);
  }, [choices.terms]);
  useEffect(() => {
    if (isPage) view(queryOf(choices));
  }, [choices.isOnlyHits, choices.times, choices.wraps]);
  // At once, so that the next key already finds nothing selected.
  useLayoutEffect(() => {
    if (choices.terms.text !== "") return;
    source.search(choices.terms);
    setCurrent(null);
  }, [choices.terms.text]);
  // A link to other lines of the same log, followed on its page.
  const { hash } = place.value;
  useEffect(() => {
    const wanted = isPage ? rangeOf(hash) : null;
    if (wanted === null || (wanted.first === range?.first && wanted.last === range.last)) return;
    setRange(wanted);
    showLine(wanted.first);
  }, [hash]);
  // The first hit at or below what is in view, once there is one.
  useEffect(() => {
    if (found.terms.text === "" || found.hits.length === 0) return setCurrent(null);
    // Before that, nothing is in view.
    if (!isOpen) return;
    if (current !== null && hitLines.has(current)) return;
    const next = found.hits[hitFrom(found.hits, lineAtTop())] ?? null;
    // Before all are known, only one that is below: another may still come that is nearer than the first of all.
    if (!found.isSearching || (next !== null && next >= lineAtTop())) go(next);
  }, [found.terms, found.hits, found.isSearching, isOpen]);

  const spans = (): readonly Span[] => {
    const wanted: { first: number; count: number }[] = [];
    for (let row = shown.current.first; row < Math.min(rowsView.rows, shown.current.first + shown.current.count); row++) {
      const line = rowsView.at(row);
      const last = wanted.at(-1);
      if (line > 0 && last && last.first + last.count === line) last.count += 1;
      else if (line > 0) wanted.push({ first: line, count: 1 });
    }
    return wanted;
  };
  const lineAtTop = (): number => Math.max(1, Math.abs(rowsView.at(handle.current?.top() ?? 0)));
  const stay = (): void => {
    setFollowing(false);
    setLeftAt(lines.total);
  };
  const showLine = (line: number): void => {
    stay();
    handle.current?.show(rowsView.rowOf(line));
  };
  const go = (line: number | null): void => {
    setCurrent(line);
    if (line !== null) showLine(line);
  };
  const toEnd = (): void => {
    setFollowing(true);
    handle.current?.toEnd();
  };
  const step = (by: number): void => {
    const { hits } = found;
    if (hits.length === 0) return;
    const at = current === null ? hitFrom(hits, lineAtTop()) - (by > 0 ? 1 : 0) : hits.indexOf(current);
    go(hits[(at + by + hits.length) % hits.length] ?? null);
  };
  const nextError = (): void => {
    void source.nextError(current ?? lineAtTop() - 1).then((line) => (line === null ? say(words.noError) : go(line)));
  };
  const choose = (line: number, isRange: boolean): void => {
    const next = isRange ? extended(range, line) : { first: line, last: line };
    setRange(next);
    if (isPage) fragment(fragmentOf(next));
  };
  const copyLink = async (): Promise<void> => {
    const lines_ = range ?? { first: lineAtTop(), last: lineAtTop() };
    if (await copy(location.origin + pathOf(address) + fragmentOf(lines_))) say(words.copiedLink(fragmentOf(lines_).slice(1)));
  };
  const copyText = async (): Promise<void> => {
    const lines_ = range ?? (current === null ? null : { first: current, last: current });
    if (lines_ === null) return say(words.chooseFirst);
    const text = await source.text(lines_.first, lines_.last);
    if (await copy(text)) say(words.copiedLines(text.split("\n").length));
  };
  const focusLog = (): void => section.current?.querySelector<HTMLElement>(".log-box")?.focus();

  const keys: Readonly<Record<string, () => void>> = {
    "/": () => input.current?.select(),
    n: () => step(1), N: () => step(-1), e: nextError, f: toEnd, End: toEnd,
    Home: () => { stay(); handle.current?.show(0); },
    y: () => void copyLink(), Y: () => void copyText(),
    w: () => setChoices((old) => ({ ...old, wraps: !old.wraps })),
    o: () => setChoices((old) => ({ ...old, isOnlyHits: !old.isOnlyHits })),
  };
  useKeys(keys, isPage);
  // In a pane the keys count only while it has the focus; there the page's own come second.
  const press = (event: KeyboardEvent): void => {
    if (isPage || event.ctrlKey || event.metaKey || event.altKey || !(event.target instanceof HTMLElement) || !event.target.classList.contains("log-box")) return;
    const action = keys[event.key];
    if (action) {
      event.preventDefault();
      event.stopPropagation();
      action();
    }
  };

  const problem = source.problem.value;
  const isEnded = source.isLive.value === null && lines.isComplete;
  const behind = isFollowing || isEnded ? 0 : lines.total - leftAt;
  const renderRow = (row: number): JSX.Element => {
    const number = rowsView.at(row);
    if (number <= 0) return <div key={`gap-${row}`} class="log-gap">{words.gap(-number)}</div>;
    const line = lines.line(number);
    return (
      <LogRow
        key={number} number={number} text={line?.text ?? null} time={line ? lineTime(line.at, lines.startedAt, choices.times) : ""} isError={line?.isError ?? false} leftOut={line?.leftOut ?? 0} cutBytes={line?.cut ?? 0}
        isLinked={range !== null && number >= range.first && number <= range.last} isHit={hitLines.has(number)} isCurrent={number === current} expression={expression} onChoose={choose}
      />
    );
  };
  return (
    <section ref={section} class={`log ${isPage ? "is-page" : "is-pane"} t-${choices.times}`} aria-label={words.title} onKeyDown={press}>
      {(lines.total > 0 || !isOpen) && <LogTools
        choices={choices} setChoices={setChoices} input={input} found={found} total={lines.total}
        position={current === null ? 0 : found.hits.indexOf(current) + 1} step={step} leave={focusLog} raw={rawPath(address)}
        isFollowing={isFollowing && !isEnded} isEnded={isEnded} isLive={source.isLive.value} toEnd={toEnd}
      />}
      {problem && <ProblemNote problem={problem} again={() => (isOpen ? source.need(spans()) : void source.open(range?.first ?? null))} />}
      {isOpen && lines.total === 0 && <p class="quiet-line">{hint ?? emptyText}</p>}
      <div class="log-body" hidden={lines.total === 0} style={isPage ? undefined : { "--lines": String(Math.min(24, Math.max(3, lines.total))) }}>
        <LogBox
          rows={rowsView.rows} wraps={choices.wraps} isFollowing={isFollowing} label={words.title} hasLines={isOpen} handle={handle}
          onScroll={(isAtEnd) => (isAtEnd ? setFollowing(true) : isFollowing && stay())}
          onView={(first, count) => { shown.current = { first, count }; if (source.isOpen.peek()) source.need(spans()); }}
          render={renderRow}
        />
        <Minimap source={source} hits={found.hits} range={range} />
        {behind > 0 && <button type="button" class="log-behind primary" onClick={toEnd}>{words.behind(behind)}</button>}
      </div>
      {lines.total > 0 && hint !== null && <p class="quiet-line">{hint}</p>}
    </section>
  );
}

const TYPING_MS = 150;

function choicesOf(query: URLSearchParams): LogChoices {
  const times = query.get("time");
  return {
    terms: { text: query.get("q") ?? "", hasCase: query.has("case"), isWord: query.has("word"), isExpression: query.has("regex") },
    isOnlyHits: query.has("only"),
    times: TIMES.find((found) => found === times) ?? "off",
    wraps: query.has("wrap"),
  };
}

function queryOf({ terms, isOnlyHits, times, wraps }: LogChoices): Readonly<Record<string, string | null>> {
  const flag = (isSet: boolean): string | null => (isSet ? "1" : null);
  return {
    q: terms.text, case: flag(terms.hasCase), word: flag(terms.isWord), regex: flag(terms.isExpression),
    only: flag(isOnlyHits), time: times === "off" ? null : times, wrap: flag(wraps),
  };
}
