// Several runs at once: what would be done is said in one summary before, and what was done in one after.

import { useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, request } from "../live/api";
import { fits } from "../model/permissions";
import { visible } from "../model/lines";
import type { Rerun, RunSummary } from "../model/shapes";
import { ActionButton, obstacle } from "../parts/actions";
import { Dialog } from "../parts/dialog";
import { texts } from "../texts";

const words = texts.many;
type ManyAction = "cancel" | "rerun" | "rerun-failed";
const ACTIONS: readonly ManyAction[] = ["cancel", "rerun-failed", "rerun"];
const NAMES_SHOWN = 12;

export function ManyBar({ runs, clear }: { readonly runs: readonly RunSummary[]; readonly clear: () => void }): JSX.Element | null {
  const [asked, setAsked] = useState<ManyAction | null>(null);
  if (runs.length === 0) return null;
  return (
    <section class="many panel" aria-label={words.label}>
      <b>{words.selected(runs.length)}</b>
      {ACTIONS.map((action) => {
        const first = runs.find((run) => fits(action, run));
        const why = first === undefined ? words.fitsNone : obstacle(action, first, 0);
        return <ActionButton key={action} action={action} obstacle={why} onPress={() => setAsked(action)} />;
      })}
      <button type="button" onClick={clear}>{words.clear}</button>
      {asked && <ManyDialog action={asked} runs={runs} onClose={() => setAsked(null)} onDone={clear} />}
    </section>
  );
}

interface DialogProperties {
  readonly action: ManyAction;
  readonly runs: readonly RunSummary[];
  readonly onClose: () => void;
  readonly onDone: () => void;
}

interface Refusal {
  readonly run: RunSummary;
  readonly text: string;
}

function ManyDialog({ action, runs, onClose, onDone }: DialogProperties): JSX.Element {
  // What is asked stays as it was, even if runs end meanwhile.
  const [chosen] = useState(() => runs.filter((run) => fits(action, run)));
  const [left] = useState(() => runs.length - chosen.length);
  // The same key however often the button is pressed: each run is started once.
  const [keys] = useState(() => new Map(chosen.map((run) => [run.id, crypto.randomUUID()])));
  const [done, setDone] = useState(0);
  const [refused, setRefused] = useState<readonly Refusal[]>([]);
  const [state, setState] = useState<"asked" | "sending" | "sent">("asked");
  const send = async (): Promise<void> => {
    setState("sending");
    for (const run of chosen) {
      try {
        await act(action, run, keys.get(run.id) ?? "");
        setDone((count) => count + 1);
      } catch (error) {
        const text = error instanceof ApiError ? error.problem.detail : String(error);
        setRefused((all) => [...all, { run, text }]);
      }
    }
    setState("sent");
  };
  const close = (): void => {
    onClose();
    if (state === "sent") onDone();
  };
  const name = texts.actions.names[action];
  return (
    <Dialog title={words.title(name, chosen.length)} onClose={close}>
      {state === "asked" && (
        <>
          <p>{action === "cancel" ? texts.actions.cancelText : words.rerunText}</p>
          <ul class="names">{chosen.slice(0, NAMES_SHOWN).map((run) => <li key={run.id}>{nameOf(run)}</li>)}{chosen.length > NAMES_SHOWN && <li>{texts.actions.more(chosen.length - NAMES_SHOWN)}</li>}</ul>
          {left > 0 && <p class="hint">{words.left(left)}</p>}
        </>
      )}
      {state !== "asked" && <p role="status">{words.progress(done, chosen.length)}</p>}
      {refused.length > 0 && <ul class="names">{refused.map(({ run, text }) => <li key={run.id}>{nameOf(run)}: {visible(text)}</li>)}</ul>}
      <footer>
        <button type="button" onClick={close}>{texts.close}</button>
        {state !== "sent" && <button type="button" class={action === "cancel" ? "danger" : "primary"} disabled={state === "sending"} onClick={() => void send()}>{name}</button>}
      </footer>
    </Dialog>
  );
}

const nameOf = (run: RunSummary): string => `${visible(run.name)} #${run.number}`;

async function act(action: ManyAction, run: RunSummary, key: string): Promise<void> {
  if (action === "cancel") await request("POST", `/v1/runs/${run.id}/cancel`, { body: { force: false } });
  else await request<Rerun>("POST", `/v1/runs/${run.id}/rerun`, { body: { failed: action === "rerun-failed" }, headers: { "Idempotency-Key": key } });
}
