// Lines that a script has marked with workflow commands. The agent writes them as `##[NAME]text`; everything else is plain text.

const MARK = /^##\[(error|warning|notice|debug|group|endgroup)\]/;
/** The line of a command that masks a value. */
const MASKED = "::add-mask::***";

export type MarkName = "error" | "warning" | "notice" | "debug" | "group" | "endgroup" | "masked";

export interface MarkedLine {
  /** Null for a plain line. */
  readonly mark: MarkName | null;
  readonly text: string;
}

export function markedLine(text: string): MarkedLine {
  const found = MARK.exec(text);
  if (found) return { mark: found[1] as MarkName, text: text.slice(found[0].length) };
  return text === MASKED ? { mark: "masked", text } : { mark: null, text };
}
