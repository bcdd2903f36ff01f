// The output of the selected step: from its first line, followed while the step runs.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, send } from "../live/api";
import { Lines } from "../model/lines";
import { appended, KEPT, NONE, type Output } from "../model/output";
import { stepOf, type Part } from "../model/parts";
import type { OutputLine, Problem, Run } from "../model/shapes";
import { isActive } from "../model/states";
import { ProblemNote } from "../parts/problem";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";

const words = texts.run;
const LINE_PX = 20;
/** Lines are shown together so often, however fast they come. */
const SHOW_MS = 100;

export function OutputPane({ run, part }: { readonly run: Run; readonly part: Part }): JSX.Element {
  const [output, setOutput] = useState<Output>(NONE);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [hasEnded, setHasEnded] = useState(false);
  const isOpen = isActive(part.state);
  const [follows] = useState(isOpen);
  useEffect(() => {
    const controller = new AbortController();
    read(run, part, follows, controller, setOutput)
      .then(() => setHasEnded(true))
      .catch((error: unknown) => {
        if (error instanceof ApiError && !controller.signal.aborted) setProblem(error.problem);
      });
    return () => controller.abort();
  }, []);
  const left = output.total - output.lines.length;
  return (
    <section class="output" aria-label={words.output}>
      <h3>{words.output}</h3>
      {problem && <ProblemNote problem={problem} />}
      {output.total === 0 && !problem && (isOpen || hasEnded) && <p class="quiet-line">{isOpen ? words.outputNone : words.outputNothing}</p>}
      {left > 0 && <p class="hint">{words.leftOut(left)}</p>}
      {output.total > 0 && (
        <VirtualRows
          total={output.lines.length} rowPx={LINE_PX} focused={-1} sticksToEnd
          attributes={{ class: "lines", tabIndex: 0, role: "log", "aria-live": "off", "aria-label": words.output, style: { height: `${Math.min(24, Math.max(3, output.lines.length)) * LINE_PX + 10}px` } }}
          render={(index) => {
            const line = output.lines[index];
            return <div key={line?.number ?? index} class={`line ${line?.isError ? "stderr" : ""}`}><i data-number={line?.number ?? ""} /><span>{line?.text ?? ""}</span></div>;
          }}
        />
      )}
    </section>
  );
}

async function read(run: Run, part: Part, follows: boolean, controller: AbortController, show: (output: Output) => void): Promise<void> {
  const query = new URLSearchParams({ job: part.job, step: stepOf(part) ?? "" });
  if (follows) query.set("follow", "true");
  const answer = await send("GET", `/v1/runs/${run.id}/logs?${query.toString()}`, { signal: controller.signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  const lines = new Lines();
  let output = NONE;
  let waiting: OutputLine[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = (): void => {
    timer = undefined;
    if (waiting.length === 0 || controller.signal.aborted) return;
    output = appended(output, waiting);
    waiting = [];
    show(output);
  };
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done || value === undefined) break;
    for (const line of lines.push(value)) {
      if (line !== "") waiting.push(JSON.parse(line) as OutputLine);
    }
    if (waiting.length > KEPT) flush();
    timer ??= setTimeout(flush, SHOW_MS);
  }
  clearTimeout(timer);
  flush();
}
