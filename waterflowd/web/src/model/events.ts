// The events of a run as a table, and which of them a filter selects.

export interface RunEvent {
  readonly type: string;
  readonly seq: number;
  readonly at: string;
  readonly job?: string;
  readonly step?: string;
  readonly attempt?: number;
  readonly agent_name?: string;
  readonly outcome?: string;
  readonly conclusion?: string;
  readonly number?: number;
  readonly by?: string;
  readonly reason?: { readonly code: string; readonly text: string };
}

export interface EventFilter {
  readonly type: string;
  /** Part of a place. */
  readonly within: string;
  readonly failures: boolean;
}

const FAILED: ReadonlySet<string> = new Set(["failure", "timed-out", "lost", "refused"]);
const ALWAYS: ReadonlySet<string> = new Set(["step-held", "job-halted", "run-timed-out", "cancel-requested"]);

/** `JOB[/STEP]`, with the number of the attempt; empty for an event of the run itself. */
export function placeOfEvent(event: RunEvent): string {
  if (event.job === undefined) return "";
  return event.step === undefined ? event.job : `${event.job}/${event.step}`;
}

/** What the event says in words: its reason, else its facts. */
export function textOfEvent(event: RunEvent): string {
  if (event.reason !== undefined) return event.reason.text;
  const facts = [event.attempt === undefined ? "" : `attempt ${event.attempt}`, event.agent_name ?? "", event.by ?? "", event.conclusion ?? event.outcome ?? ""];
  return facts.filter(Boolean).join(" · ");
}

export function isFailure(event: RunEvent): boolean {
  return FAILED.has(event.conclusion ?? event.outcome ?? "") || ALWAYS.has(event.type);
}

export function selected(events: readonly RunEvent[], filter: EventFilter): readonly RunEvent[] {
  return events.filter(
    (event) => (filter.type === "" || event.type === filter.type) && (!filter.failures || isFailure(event)) && (filter.within === "" || placeOfEvent(event).includes(filter.within)),
  );
}

export function typesOf(events: readonly RunEvent[]): readonly string[] {
  return [...new Set(events.map((event) => event.type))].sort();
}
