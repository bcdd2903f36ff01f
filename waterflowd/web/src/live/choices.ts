// What somebody has chosen for this browser: looks, and how times and keys behave. No secrets are kept here.

import { signal, type Signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
export type Density = "compact" | "comfortable";

function chosen<T extends string>(name: string, values: readonly T[], otherwise: T): Signal<T> {
  let stored: string | null = null;
  try {
    stored = localStorage.getItem(`waterflow-${name}`);
  } catch {
    // Storage may be forbidden; then a choice lasts as long as the page.
  }
  const found = signal<T>(values.find((value) => value === stored) ?? otherwise);
  found.subscribe((value) => {
    const isDefault = value === otherwise;
    if (name === "theme" || name === "density") {
      if (isDefault) delete document.documentElement.dataset[name];
      else document.documentElement.dataset[name] = value;
    }
    try {
      if (isDefault) localStorage.removeItem(`waterflow-${name}`);
      else localStorage.setItem(`waterflow-${name}`, value);
    } catch {
      // As above.
    }
  });
  return found;
}

export const theme = chosen<Theme>("theme", ["system", "light", "dark"], "system");
export const density = chosen<Density>("density", ["compact", "comfortable"], "compact");
export const times = chosen("times", ["relative", "absolute"] as const, "relative");
export const letters = chosen("letters", ["on", "off"] as const, "on");
