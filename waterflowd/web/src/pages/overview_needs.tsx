// What needs a person now, in the order in which the daemon lists it: decisions first, then what went wrong.

import { useState } from "preact/hooks";
import type { JSX } from "preact";
import { visible } from "../model/lines";
import type { Attention, AttentionItem, PendingApproval, RunSummary } from "../model/shapes";
import { stateOfAttention } from "../model/states";
import { ActionButton, DecisionDialog, obstacle, RerunDialog } from "../parts/actions";
import { Glyph } from "../parts/glyph";
import { Panel } from "../parts/panel";
import { RunName } from "../parts/run_line";
import { Time } from "../parts/time";
import { texts } from "../texts";

const words = texts.overviewPage;

export function countOf(attention: Attention): number {
  return Object.values(attention.counts).reduce((sum, count) => sum + count, 0);
}

export function Needs({ attention, approvals }: { readonly attention: Attention; readonly approvals: readonly PendingApproval[] }): JSX.Element {
  return (
    <Panel title={words.needs} count={countOf(attention)}>
      {attention.items.length === 0 && <p class="quiet-line"><Glyph state="success" isSilent /> {words.nothing}</p>}
      <ul class="items">
        {attention.items.map((item) => <Item key={`${item.kind} ${item.run?.id ?? item.name ?? ""} ${item.place ?? ""}`} item={item} approvals={approvals} />)}
      </ul>
    </Panel>
  );
}

function Item({ item, approvals }: { readonly item: AttentionItem; readonly approvals: readonly PendingApproval[] }): JSX.Element {
  const { run } = item;
  const pending = approvals.find((found) => found.run === run?.id && placeOf(found) === item.place);
  return (
    <li>
      <Glyph state={stateOfAttention(item)} />
      <span class="what">
        {run !== null ? <RunName run={run} place={item.place} /> : <b>{visible(item.name ?? "")}</b>}
        {item.place !== null && <> <span class="mono">{visible(item.place)}</span></>}
        <small>
          {visible(item.reason)}
          {item.streak > 1 && <> · {words.streak(item.streak)}</>}
          {item.due_at !== null ? <> · {words.due} <Time at={item.due_at} /></> : item.since !== null && <> · <Time at={item.since} /></>}
        </small>
      </span>
      {run !== null && pending !== undefined && <Decide run={run} pending={pending} />}
      {run !== null && item.kind === "failed" && <RunAgain run={run} />}
    </li>
  );
}

const placeOf = (pending: PendingApproval): string => (pending.step === null ? pending.job : `${pending.job}/${pending.step}`);

function Decide({ run, pending }: { readonly run: RunSummary; readonly pending: PendingApproval }): JSX.Element {
  const [asked, setAsked] = useState<"approve" | "reject" | null>(null);
  return (
    <span class="item-actions">
      <ActionButton action="approve" isPrimary obstacle={obstacle("approve", run, 1)} onPress={() => setAsked("approve")} />
      <ActionButton action="reject" obstacle={obstacle("reject", run, 1)} onPress={() => setAsked("reject")} />
      {asked && <DecisionDialog pending={pending} action={asked} onClose={() => setAsked(null)} />}
    </span>
  );
}

function RunAgain({ run }: { readonly run: RunSummary }): JSX.Element {
  const [isAsked, setAsked] = useState(false);
  return (
    <span class="item-actions">
      <ActionButton action="rerun-failed" obstacle={obstacle("rerun-failed", run, 0)} onPress={() => setAsked(true)} />
      {isAsked && <RerunDialog run={run} body={{ failed: true }} onClose={() => setAsked(false)} />}
    </span>
  );
}
