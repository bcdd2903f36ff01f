// What a part that is not over waits for, down to what must happen first. The sentences are those of `waterflowctl why`.

import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { useQuery } from "../live/query";
import { view } from "../live/router";
import { visible } from "../model/lines";
import { Command } from "../parts/copy";
import { Time } from "../parts/time";
import { texts } from "../texts";

const words = texts.why;

interface WhyAnswer {
  readonly seq: number;
  readonly chain: readonly {
    readonly place: string | null;
    readonly text: string;
    readonly until: string | null;
    readonly next: string | null;
  }[];
}

/** `seq` is the newest event of the run: what another part waits for may change what this one does. */
export function Why({ run, place, seq }: { readonly run: string; readonly place: string; readonly seq: number }): JSX.Element | null {
  const query = useQuery<WhyAnswer>(`/v1/runs/${run}/why?place=${encodeURIComponent(place)}`);
  const found = query.value.value;
  useEffect(() => {
    if (found !== null && seq > found.seq) query.again();
  }, [seq, found?.seq]);
  if (found === null || found.chain.length === 0) return null;
  return (
    <section class="why" aria-label={words.title}>
      <h3>{words.title}</h3>
      <ol>
        {found.chain.map((link, index) => (
          <li key={index}>
            {link.place !== null && link.place !== place && <a class="mono" href={`?place=${encodeURIComponent(link.place)}`} onClick={(event) => { event.preventDefault(); view({ place: link.place }); }}>{visible(link.place)}</a>}
            <span>{visible(link.text)}</span>
            {link.until !== null && <small><Time at={link.until} /> {words.atLatest}</small>}
            {link.next !== null && <Command text={link.next} />}
          </li>
        ))}
      </ol>
    </section>
  );
}
