// What can be done with a log: search it, choose what is shown, download it, follow it.

import type { Ref } from "preact";
import type { JSX } from "preact";
import type { Found } from "../../live/log_source";
import { expressionOf, HITS_MAX, type SearchTerms } from "../../model/log/hits";
import { TIMES, type Times } from "../../model/log/sizes";
import { texts } from "../../texts";
import type { LogChoices } from "./viewer";

const words = texts.log;

interface Properties {
  readonly choices: LogChoices;
  readonly setChoices: (change: (old: LogChoices) => LogChoices) => void;
  readonly input: Ref<HTMLInputElement>;
  readonly found: Found;
  readonly total: number;
  /** Which hit is selected, from 1; 0 for none. */
  readonly position: number;
  readonly step: (by: number) => void;
  /** Gives the focus back to the lines. */
  readonly leave: () => void;
  readonly raw: string;
  readonly isFollowing: boolean;
  readonly isEnded: boolean;
  readonly isLive: boolean | null;
  readonly toEnd: () => void;
}

export function LogTools(properties: Properties): JSX.Element {
  const { choices, setChoices, input, found, total, position, step, leave, raw, isFollowing, isEnded, isLive, toEnd } = properties;
  const change = (part: Partial<SearchTerms>): void => setChoices((old) => ({ ...old, terms: { ...old.terms, ...part } }));
  const press = (event: KeyboardEvent): void => {
    if (event.key === "Enter") {
      event.preventDefault();
      step(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      event.preventDefault();
      if (choices.terms.text !== "") change({ text: "" });
      leave();
    }
  };
  return (
    <div class="log-tools" role="toolbar" aria-label={words.tools}>
      <span class="log-search" role="search">
        <input
          ref={input} type="text" aria-label={words.find} placeholder={words.findIn(total)} value={choices.terms.text} autocomplete="off" spellcheck={false}
          onInput={(event) => change({ text: event.currentTarget.value })} onKeyDown={press}
        />
        <Flag label={words.hasCase} sign="Aa" isOn={choices.terms.hasCase} set={(hasCase) => change({ hasCase })} />
        <Flag label={words.isWord} sign="ab" isOn={choices.terms.isWord} set={(isWord) => change({ isWord })} />
        <Flag label={words.isExpression} sign=".*" isOn={choices.terms.isExpression} set={(isExpression) => change({ isExpression })} />
      </span>
      {choices.terms.text !== "" && (
        <span class="log-hits">
          <span class="num" role="status">{countText(found, position, choices.terms)}</span>
          <button type="button" class="small" aria-label={words.previous} title={`${words.previous} (N)`} onClick={() => step(-1)}>◀</button>
          <button type="button" class="small" aria-label={words.next} title={`${words.next} (n)`} onClick={() => step(1)}>▶</button>
          <Flag label={words.onlyHits} sign={words.onlyHits} isOn={choices.isOnlyHits} set={(isOnlyHits) => setChoices((old) => ({ ...old, isOnlyHits }))} />
        </span>
      )}
      <span class="log-view">
        <label class="choice"><span>{words.times}</span>
          <select value={choices.times} onChange={(event) => { const times = event.currentTarget.value as Times; setChoices((old) => ({ ...old, times })); }}>
            {TIMES.map((times) => <option key={times} value={times}>{words.timesChoices[times]}</option>)}
          </select>
        </label>
        <Flag label={words.wrapHelp} sign={words.wrap} isOn={choices.wraps} set={(wraps) => setChoices((old) => ({ ...old, wraps }))} />
        <a class="button small" href={raw} download>{words.raw}</a>
        {!isEnded && <button type="button" class="small" aria-pressed={isFollowing} title="f" onClick={toEnd}>{isLive === false ? `✗ ${words.lost}` : isFollowing ? `● ${words.following}` : words.follow}</button>}
      </span>
    </div>
  );
}

function Flag({ label, sign, isOn, set }: { readonly label: string; readonly sign: string; readonly isOn: boolean; readonly set: (isOn: boolean) => void }): JSX.Element {
  return (
    <button type="button" class="small flag" aria-pressed={isOn} title={label} onClick={() => set(!isOn)}>
      <span aria-hidden="true">{sign}</span><span class="visually-hidden">{label}</span>
    </button>
  );
}

function countText(found: Found, position: number, terms: SearchTerms): string {
  if (expressionOf(terms) === null) return words.badExpression;
  const count = found.hits.length >= HITS_MAX ? `${HITS_MAX.toLocaleString("en")}+` : found.hits.length.toLocaleString("en");
  const text = found.terms.text === "" ? "…" : found.hits.length === 0 ? (found.isSearching ? "…" : words.noHits) : words.hits(position.toLocaleString("en"), count);
  return `${text}${found.isSearching && found.hits.length > 0 ? " …" : ""}${found.isPartial ? ` ${words.partial}` : ""}`;
}
