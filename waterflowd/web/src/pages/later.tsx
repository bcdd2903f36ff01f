// A page whose script is read when it is first opened.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { texts } from "../texts";
import { ProblemNote, Waiting } from "../parts/problem";

type Pages = typeof import("./run_pages");

let pages: Pages | null = null;

/** Shows one of the pages of a run once their script is here. */
export function Later({ show }: { readonly show: (pages: Pages) => JSX.Element }): JSX.Element {
  const [state, setState] = useState<"reading" | "failed" | "here">(pages === null ? "reading" : "here");
  const read = (): void => {
    setState("reading");
    import("./run_pages").then(
      (found) => {
        pages = found;
        setState("here");
      },
      () => setState("failed"),
    );
  };
  useEffect(() => {
    if (pages === null) read();
  }, []);
  if (pages !== null) return show(pages);
  return state === "failed" ? <ProblemNote problem={{ status: 0, title: texts.unreachable, detail: texts.unreachable, code: "" }} again={read} /> : <Waiting rows={10} />;
}
