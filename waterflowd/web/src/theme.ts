// Runs before the first paint: the theme and density that somebody chose in this browser.

for (const name of ["theme", "density"]) {
  try {
    const chosen = localStorage.getItem(`waterflow-${name}`);
    if (chosen) document.documentElement.dataset[name] = chosen;
  } catch {
    // Storage may be forbidden; then the system's choice applies.
  }
}
