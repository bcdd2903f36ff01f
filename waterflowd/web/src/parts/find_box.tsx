// The find box: a combobox over runs, pages and filters.

import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { get } from "../live/api";
import { open } from "../live/router";
import { goals } from "../model/find";
import { visible } from "../model/lines";
import type { RunList, RunSummary } from "../model/shapes";
import { texts } from "../texts";
import { useKeys } from "./keys";

export function FindBox(): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState("");
  const [isOpen, setOpen] = useState(false);
  const [chosen, setChosen] = useState(0);
  const [runs, setRuns] = useState<readonly RunSummary[]>([]);
  // In a log, `/` searches the log; the other one leads here from everywhere.
  useKeys({ "/": () => input.current?.focus(), ":": () => input.current?.focus() });
  const found = goals(text, runs);
  const begin = (): void => {
    setOpen(true);
    get<RunList>("/v1/runs?limit=100").then((list) => setRuns(list.runs), () => undefined);
  };
  // The newest runs are here; of the others, those of the workflow that is typed.
  useEffect(() => {
    const name = text.split("#")[0]?.trim() ?? "";
    if (!isOpen || name.length < 2 || name.includes(":")) return undefined;
    const controller = new AbortController();
    get<RunList>(`/v1/runs?limit=50&text=${encodeURIComponent(name)}`, controller.signal).then(
      (list) => setRuns((known) => [...known, ...list.runs.filter((run) => !known.some((other) => other.id === run.id))]),
      () => undefined,
    );
    return () => controller.abort();
  }, [text, isOpen]);
  const go = (href: string): void => {
    setOpen(false);
    setText("");
    input.current?.blur();
    open(href);
  };
  const press = (event: KeyboardEvent): void => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setChosen((chosen + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length);
    } else if (event.key === "Enter") {
      const goal = found[chosen];
      if (goal) go(goal.href);
    } else if (event.key === "Escape") {
      setOpen(false);
      input.current?.blur();
    }
  };
  return (
    <div class="find">
      <input
        ref={input} type="text" role="combobox" aria-label={texts.find.label} aria-expanded={isOpen} aria-controls="find-list"
        aria-activedescendant={isOpen ? `find-${chosen}` : undefined} autocomplete="off" spellcheck={false}
        placeholder={texts.find.placeholder} value={text} onFocus={begin} onBlur={() => setOpen(false)} onKeyDown={press}
        onInput={(event) => { setText(event.currentTarget.value); setChosen(0); }}
      />
      <kbd aria-hidden="true">/</kbd>
      <ul id="find-list" role="listbox" aria-label={texts.find.label} hidden={!isOpen}>
        {found.map((goal, index) => (
          <li key={goal.href} id={`find-${index}`} role="option" aria-selected={index === chosen}
            onMouseDown={(event) => { event.preventDefault(); go(goal.href); }}>
            <span>{visible(goal.title)}</span><small>{visible(goal.detail)}</small>
          </li>
        ))}
      </ul>
    </div>
  );
}
