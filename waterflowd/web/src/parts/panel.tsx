// A box with a heading, and how many things are in it.

import type { ComponentChildren, JSX } from "preact";

export function Panel({ title, count, children }: { readonly title: string; readonly count?: number; readonly children: ComponentChildren }): JSX.Element {
  return (
    <section class="panel" aria-label={title}>
      <h2>{title}{count !== undefined && count > 0 && <span class="count">{count}</span>}</h2>
      {children}
    </section>
  );
}
