// One line of output. Text from outside becomes text nodes and nothing else; its colours are custom properties of the style.

import { Component, type JSX } from "preact";
import { coloursOf } from "../../model/log/colours";
import { shownLine, type Piece, type Style } from "../../model/log/ansi";
import { markedLine } from "../../model/log/marks";
import { visible } from "../../model/lines";
import { bytesText } from "../../model/log/sizes";
import { texts } from "../../texts";

const words = texts.log;

interface Properties {
  readonly number: number;
  /** Null while the line is being read. */
  readonly text: string | null;
  readonly time: string;
  readonly isError: boolean;
  readonly leftOut: number;
  /** Bytes of the line that are not here. */
  readonly cutBytes?: number;
  readonly isLinked: boolean;
  readonly isHit: boolean;
  readonly isCurrent: boolean;
  readonly expression: RegExp | null;
  readonly onChoose: (line: number, isRange: boolean) => void;
  /** Beside the number: the server, where several are shown together. */
  readonly server?: string;
}

export class LogRow extends Component<Properties> {
  override shouldComponentUpdate(next: Properties): boolean {
    return (Object.keys(next) as (keyof Properties)[]).some((key) => next[key] !== this.props[key]);
  }

  override render({ number, text, time, isError, leftOut, isLinked, isHit, isCurrent, expression, onChoose, server, cutBytes = 0 }: Properties): JSX.Element {
    const line = markedLine(text ?? "");
    const marks = [line.mark !== null && `m-${line.mark}`, isError && "stderr", isLinked && "linked", isHit && "hit", isCurrent && "current", text === null && "unread", leftOut > 0 && "left-out"].filter(Boolean).join(" ");
    const choose = (event: MouseEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      onChoose(number, event.shiftKey);
    };
    return (
      <div class={`log-line ${marks}`} data-line={number} {...(time === "" ? {} : { "data-time": time })} {...(server === undefined ? {} : { "data-server": visible(server) })}>
        <a href={`#L${number}`} tabIndex={-1} onClick={choose}>{number}</a>
        {leftOut > 0 ? <span>{words.leftOut(bytesText(leftOut))}</span> : <Text label={line.mark === null ? "" : words.marks[line.mark]} text={line.text} cutBytes={cutBytes} expression={isHit ? expression : null} />}
      </div>
    );
  }
}

function Text({ label, text, cutBytes, expression }: { readonly label: string; readonly text: string; readonly cutBytes: number; readonly expression: RegExp | null }): JSX.Element {
  const { pieces, states, cut } = shownLine(text);
  return (
    <span>
      {label !== "" && <b>{label}</b>}
      {pieces.map((piece) => shown(piece, expression))}
      {states > 1 && <small title={words.statesHelp(states)}>×{states}</small>}
      {cut + cutBytes > 0 && <small>{words.cut(bytesText(cut + cutBytes))}</small>}
    </span>
  );
}

function shown(piece: Piece, expression: RegExp | null): JSX.Element | string | (JSX.Element | string)[] {
  const text = expression === null ? piece.text : marked(piece.text, expression);
  const colours = coloursOf(piece.style);
  const names = namesOf(piece.style);
  if (piece.href !== null) return <a href={piece.href} target="_blank" rel="noreferrer noopener" class={names}>{text}</a>;
  if (colours === null && names === "") return text;
  const style = colours === null ? undefined : {
    "--text-light": colours.text.light, "--text-dark": colours.text.dark,
    ...(colours.ground === null ? {} : { "--ground-light": colours.ground.light, "--ground-dark": colours.ground.dark }),
  };
  return <span class={`${names} ${colours === null ? "" : "coloured"} ${colours?.ground ? "grounded" : ""}`} style={style}>{text}</span>;
}

function namesOf(style: Style): string {
  return [style.isBold && "bold", style.isItalic && "italic", style.isUnderlined && "underlined", style.isStruck && "struck"].filter(Boolean).join(" ");
}

/** The text with what was searched for marked. */
function marked(text: string, expression: RegExp): (JSX.Element | string)[] {
  const found: (JSX.Element | string)[] = [];
  let at = 0;
  for (const match of text.matchAll(expression)) {
    if (match[0] === "") break;
    found.push(text.slice(at, match.index), <mark>{match[0]}</mark>);
    at = match.index + match[0].length;
  }
  found.push(text.slice(at));
  return found;
}
