// A command to type, or a link, with a button that copies it.

import { useState } from "preact/hooks";
import type { JSX } from "preact";
import { texts } from "../texts";

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

export function Command({ text }: { readonly text: string }): JSX.Element {
  const [isCopied, setCopied] = useState(false);
  return (
    <span class="command">
      <code>{text}</code>
      <button type="button" class="small" onClick={() => void copy(text).then(setCopied)}>{isCopied ? texts.copied : texts.copy}</button>
    </span>
  );
}
