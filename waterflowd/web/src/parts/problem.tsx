// What went wrong, with what to do next.

import type { ComponentChildren, JSX } from "preact";
import { visible } from "../model/lines";
import type { Problem } from "../model/shapes";
import { texts } from "../texts";

export function ProblemNote({ problem, again }: { readonly problem: Problem; readonly again?: () => void }): JSX.Element {
  return (
    <div class="note bad" role="alert">
      <p>{visible(problem.detail)} {problem.code && <code>{problem.code}</code>}</p>
      {again && <button type="button" onClick={again}>{texts.again}</button>}
    </div>
  );
}

export function Empty({ children }: { readonly children: ComponentChildren }): JSX.Element {
  return <div class="empty">{children}</div>;
}

/** Rows of the right height while the first answer is on its way. */
export function Waiting({ rows }: { readonly rows: number }): JSX.Element {
  return (
    <div class="waiting" role="status" aria-label={texts.loading}>
      {Array.from({ length: rows }, (_, index) => <div key={index} class="grey-row"><i /><i /></div>)}
    </div>
  );
}
