// A dialogue over the page. The focus goes in, stays in, and comes back to where it was.

import { useLayoutEffect, useRef } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";
import { texts } from "../texts";

interface Properties {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  readonly isModalOnly?: boolean;
}

export function Dialog({ title, onClose, children, isModalOnly = false }: Properties): JSX.Element {
  const reference = useRef<HTMLDialogElement>(null);
  // With the first paint: what is typed next is for the dialogue.
  useLayoutEffect(() => {
    const before = document.activeElement;
    reference.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const cancel = (event: Event): void => {
    event.preventDefault();
    if (!isModalOnly) onClose();
  };
  return (
    <dialog ref={reference} aria-label={title} onCancel={cancel}>
      <header>
        <h2>{title}</h2>
        {!isModalOnly && <button type="button" class="quiet" aria-label={texts.close} onClick={onClose}>✕</button>}
      </header>
      {children}
    </dialog>
  );
}
