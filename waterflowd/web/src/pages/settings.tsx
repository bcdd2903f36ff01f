// Settings: who I am, and how the pages look and behave in this browser.

import type { Signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { session } from "../live/api";
import { density, letters, theme, times } from "../live/choices";
import { useQuery } from "../live/query";
import { visible } from "../model/lines";
import { Time } from "../parts/time";
import { texts } from "../texts";

const words = texts.settingsPage;

export function Settings(): JSX.Element {
  useEffect(() => void (document.title = `${texts.settings} · ${texts.product}`), []);
  const version = useQuery<{ readonly version: string }>("/version");
  const who = session.value;
  const assets = new URL(".", import.meta.url).pathname;
  return (
    <>
      <header class="page-head"><h1>{texts.settings}</h1></header>
      <div class="settings">
        {who !== null && who !== "none" && (
          <section class="panel">
            <h2>{words.me}</h2>
            <dl class="facts">
              <dt>{words.name}</dt><dd>{visible(who.by)}</dd>
              <dt>{words.role}</dt><dd>{who.role}</dd>
              <dt>{words.groups}</dt><dd>{who.groups.length === 0 ? words.allGroups : who.groups.map(visible).join(", ")}</dd>
              {who.expires_at !== null && <><dt>{words.expires}</dt><dd><Time at={who.expires_at} /></dd></>}
            </dl>
          </section>
        )}
        <section class="panel">
          <h2>{words.appearance}</h2>
          <Choose label={words.theme} value={theme} choices={words.themes} />
          <Choose label={words.density} value={density} choices={words.densities} />
          <Choose label={words.times} value={times} choices={words.timesChoices} />
          <Choose label={words.letters} value={letters} choices={words.lettersChoices} />
          <p class="hint">{words.inThisBrowser}</p>
        </section>
        <section class="panel">
          <h2>{words.about}</h2>
          <dl class="facts"><dt>{words.version}</dt><dd>{version.value.value?.version ?? ""}</dd></dl>
          <p><a href={`${assets}licenses.txt`} target="_blank" rel="noreferrer">{words.licenses}</a></p>
        </section>
      </div>
    </>
  );
}

function Choose<T extends string>({ label, value, choices }: { readonly label: string; readonly value: Signal<T>; readonly choices: Readonly<Record<T, string>> }): JSX.Element {
  return (
    <fieldset class="choose">
      <legend>{label}</legend>
      {(Object.keys(choices) as T[]).map((choice) => (
        <label key={choice}><input type="radio" name={label} checked={value.value === choice} onChange={() => (value.value = choice)} /> {choices[choice]}</label>
      ))}
    </fieldset>
  );
}
