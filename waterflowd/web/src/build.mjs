// Builds the pages: `node build.mjs [SOURCES] [OUTPUT]`. The same sources give the same bytes, on every machine.
//
// `built.json` holds the SHA-256 of each source and each output, so that a stale build is found without Node.

import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const sources = process.argv[2] ?? dirname(fileURLToPath(import.meta.url));
const output = process.argv[3] ?? join(sources, "../static");
const COPIED = ["index.html", "icon.svg"];
const LICENSES = ["preact", "@preact/signals", "@preact/signals-core"];

function files(folder, prefix = "") {
  return readdirSync(join(folder, prefix), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const name = prefix + entry.name;
      if (entry.name === "node_modules") return [];
      return entry.isDirectory() ? files(folder, `${name}/`) : [name];
    });
}

const hashes = (folder, names) =>
  Object.fromEntries(names.map((name) => [name, createHash("sha256").update(readFileSync(join(folder, name))).digest("hex")]));

rmSync(output, { recursive: true, force: true });
mkdirSync(output, { recursive: true });
await build({
  absWorkingDir: sources,
  entryPoints: [
    { in: "app.tsx", out: "app" },
    { in: "theme.ts", out: "theme" },
    { in: "style/app.css", out: "app" },
  ],
  entryNames: "[name]",
  // One shared chunk and the pages of a run: with more parts a first page would need more requests.
  splitting: true,
  chunkNames: "[name]",
  outdir: output,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16.4"],
  charset: "utf8",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
  tsconfig: "tsconfig.json",
});
for (const name of COPIED) cpSync(join(sources, name), join(output, name));
const licenses = LICENSES.map((name) => `${name}\n\n${readFileSync(join(sources, "node_modules", name, "LICENSE"), "utf8").trim()}\n`);
writeFileSync(join(output, "licenses.txt"), licenses.join("\n\n"));

const built = { sources: hashes(sources, files(sources)), outputs: hashes(output, files(output)) };
writeFileSync(join(output, "built.json"), `${JSON.stringify(built, null, 1)}\n`);
