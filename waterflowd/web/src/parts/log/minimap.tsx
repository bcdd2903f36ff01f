// A strip beside the scroll bar: where hits, standard error and gaps are. A picture only; search and keys say the same.

import { useEffect, useRef } from "preact/hooks";
import type { JSX } from "preact";
import type { LogSource } from "../../live/log_source";
import type { LineRange } from "../../model/log/ranges";

const WIDTH = 10;

export function Minimap({ source, hits, range }: { readonly source: LogSource; readonly hits: readonly number[]; readonly range: LineRange | null }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { total, isComplete } = source.lines;
  // While lines come in fast, the picture follows a few times a second.
  const version = isComplete ? source.version.value : source.version.value >> 4;
  useEffect(() => {
    const found = canvas.current;
    const context = found?.getContext("2d");
    if (!found || !context) return;
    const height = found.clientHeight;
    if (found.height !== height) found.height = height;
    context.clearRect(0, 0, WIDTH, height);
    if (total === 0) return;
    const style = getComputedStyle(found);
    let last = -1;
    const mark = (line: number, colour: string, left: number, width: number): void => {
      const y = Math.floor(((line - 1) / total) * height);
      // Many lines share a pixel.
      if (y === last) return;
      last = y;
      context.fillStyle = style.getPropertyValue(colour);
      context.fillRect(left, y, width, 2);
    };
    for (const [line] of source.lines.gaps()) mark(line, "--soft", 0, WIDTH);
    for (const line of source.lines.errors()) mark(line, "--s-failure", 0, 4);
    last = -1;
    for (const line of hits) mark(line, "--s-waiting", 4, 6);
    last = -1;
    if (range !== null) mark(range.first, "--accent", 0, WIDTH);
  }, [version, hits, range, isComplete]);
  return <canvas ref={canvas} class="minimap" width={WIDTH} height="100" aria-hidden="true" />;
}
