// The views of a run: one of them is shown, and the address says which.

import type { JSX } from "preact";
import { place, view } from "../live/router";
import { visible } from "../model/lines";
import type { Outline } from "../model/outline";
import { rollOuts } from "../model/servers";
import type { Run } from "../model/shapes";
import { texts } from "../texts";

export type View = "timeline" | "graph" | "servers" | "report" | "artifacts" | "values" | "events" | "compare";

/** The views that a run has. */
export function viewsOf(run: Run, outline: Outline): readonly View[] {
  const servers: readonly View[] = rollOuts(outline).length > 0 ? ["servers"] : [];
  const report: readonly View[] = run.reports.length > 0 ? ["report"] : [];
  return ["timeline", "graph", ...servers, ...report, "artifacts", "values", "events", "compare"];
}

export function viewOf(query: URLSearchParams, views: readonly View[]): View {
  const wanted = query.get("view");
  return views.find((name) => name === wanted) ?? "timeline";
}

export function ViewTabs({ views, shown }: { readonly views: readonly View[]; readonly shown: View }): JSX.Element {
  return (
    <nav class="view-tabs" aria-label={texts.views.label}>
      {views.map((name) => (
        <a key={name} href={hrefOf(name)} {...(name === shown ? { "aria-current": "page" } : {})} onClick={(event) => { event.preventDefault(); view({ view: name === "timeline" ? null : name }); }}>
          {texts.views.names[name]}
        </a>
      ))}
    </nav>
  );
}

function hrefOf(name: View): string {
  const query = new URLSearchParams(place.value.query);
  if (name === "timeline") query.delete("view");
  else query.set("view", name);
  return `?${query.toString()}`;
}

/** Inputs, variables and outputs of the run. */
export function RunValues({ run }: { readonly run: Run }): JSX.Element {
  const groups = [[texts.run.inputs, run.inputs], [texts.run.vars, run.vars], [texts.run.outputs, run.outputs]] as const;
  return (
    <div class="run-values">
      {groups.map(([title, values]) => (
        <section key={title} class="panel" aria-label={title}>
          <h2>{title}</h2>
          {Object.keys(values).length === 0 && <p class="quiet-line">{texts.views.none}</p>}
          <Values values={values} />
        </section>
      ))}
    </div>
  );
}

const VALUE_CHARACTERS = 2_000;

export function Values({ values }: { readonly values: Readonly<Record<string, unknown>> }): JSX.Element | null {
  const entries = Object.entries(values);
  if (entries.length === 0) return null;
  return <dl class="facts">{entries.flatMap(([name, value]) => [<dt key={`name ${name}`}>{visible(name)}</dt>, <dd key={name}><span class="mono">{visible(textOf(value))}</span></dd>])}</dl>;
}

function textOf(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > VALUE_CHARACTERS ? `${text.slice(0, VALUE_CHARACTERS)}…` : text;
}
