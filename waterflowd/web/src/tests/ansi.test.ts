import assert from "node:assert/strict";
import { test } from "node:test";
import { plainText, RGB, SHOWN_CHARACTERS, shownLine, type Piece, type Style } from "../model/log/ansi";
import { coloursOf, contrast, CONTRAST_MIN, GROUNDS, PALETTES, parse, type Theme } from "../model/log/colours";

const E = "\u001b";
const text = (raw: string): string => shownLine(raw).pieces.map((piece) => piece.text).join("");
const styles = (raw: string): readonly (readonly [string, Partial<Style>])[] =>
  shownLine(raw).pieces.map(({ text: shown, style }: Piece) => [shown, Object.fromEntries(Object.entries(style).filter(([, value]) => value !== false && value !== null))]);

test("colours and styles apply until they are changed", () => {
  assert.deepEqual(styles(`a${E}[1;31mb${E}[0mc`), [["a", {}], ["b", { foreground: 1, isBold: true }], ["c", {}]]);
  assert.deepEqual(styles(`${E}[2;3;4;7;9ma${E}[22;23;24;27;29mb`), [
    ["a", { isDim: true, isItalic: true, isUnderlined: true, isInverse: true, isStruck: true }], ["b", {}],
  ]);
  assert.deepEqual(styles(`${E}[97;100ma${E}[39;49mb${E}[mc`), [["a", { foreground: 15, background: 8 }], ["b", {}], ["c", {}]]);
});

test("256 and true colours are read with semicolons and colons", () => {
  const colour = { foreground: RGB + 0x0a141e };
  for (const parameters of ["38;2;10;20;30", "38:2:10:20:30", "38:2::10:20:30"]) assert.deepEqual(styles(`${E}[${parameters}mx`), [["x", colour]]);
  assert.deepEqual(styles(`${E}[38;5;208;1;48:5:17mx`), [["x", { foreground: 208, background: 17, isBold: true }]]);
  for (const broken of ["38;5;999", "38;2;1;2", "38", "38;9;1", "48;2;1;2;300"]) assert.equal(text(`${E}[${broken}mx`), "x");
});

test("a progress line shows its last state, how many there were, and the style it had by then", () => {
  const line = shownLine(`${E}[32m 1 %\r 50 %\r100 %\r`);
  assert.deepEqual([line.pieces.map((piece) => piece.text), line.states, line.pieces[0]?.style.foreground], [["100 %"], 3, 2]);
  assert.equal(shownLine("windows\r").states, 1);
  assert.equal(shownLine("").pieces.length, 0);
});

test("every other escape, control character and direction mark shows as text", () => {
  assert.equal(text(`${E}]0;title\u0007a\u0000b\u202ec`), "\\x1b]0;title\\x07a\\x00b\\u202ec");
  assert.equal(text(`${E}[2Ja${E}[1Ab`), "\\x1b[2Ja\\x1b[1Ab");
  assert.equal(text("<script>alert(1)</script>"), "<script>alert(1)</script>");
  assert.equal(text(`grep ${E}[01;31m${E}[Kfound${E}[m${E}[K`), "grep found");
});

test("only plain https addresses are links, without the punctuation after them", () => {
  const links = (raw: string): readonly string[] => shownLine(raw).pieces.flatMap((piece) => piece.href ?? []);
  assert.deepEqual(links("see https://example.org/a?b=c&d=(e)#f. And http://no.example, javascript:alert(1)"), ["https://example.org/a?b=c&d=(e)#f"]);
  assert.deepEqual(links("https://example.org/\u202egnp.exe"), ["https://example.org/"]);
  assert.deepEqual(links(`${E}]8;;https://evil.example/\u0007text`), ["https://evil.example/"]);
});

test("a line of any length is cut, and says how much is not shown", () => {
  const long = "x".repeat(10_000_000);
  const line = shownLine(long);
  assert.deepEqual([line.pieces[0]?.text.length, line.cut], [SHOWN_CHARACTERS, 10_000_000 - SHOWN_CHARACTERS]);
  assert.ok(shownLine(`${E}[1mx${E}[0m`.repeat(5_000)).pieces.length <= 102);
});

test("the text to search and copy has no colours", () => {
  assert.equal(plainText(`${E}[1ma${E}[0mb\rc${E}[3md`), "cd");
});

test("the sixteen colours of both themes can be read", () => {
  for (const theme of ["light", "dark"] as const satisfies readonly Theme[]) {
    const low = PALETTES[theme].filter((colour) => contrast(parse(colour), parse(GROUNDS[theme])) < CONTRAST_MIN);
    assert.deepEqual([theme, low], [theme, []]);
    assert.equal(PALETTES[theme].length, 16);
  }
});

test("no combination of colours is below the contrast that reading needs", () => {
  const plain: Style = { foreground: null, background: null, isBold: false, isDim: false, isItalic: false, isUnderlined: false, isInverse: false, isStruck: false };
  const some = [null, 0, 1, 3, 7, 8, 11, 15, 16, 21, 196, 226, 231, 232, 244, 255, RGB + 0x777777, RGB + 0xfafafa];
  for (const foreground of some) {
    for (const background of some) {
      for (const [isDim, isInverse] of [[false, false], [true, false], [false, true], [true, true]] as const) {
        const found = coloursOf({ ...plain, foreground, background, isDim, isInverse });
        for (const theme of ["light", "dark"] as const) {
          const ground = found?.ground?.[theme] ?? GROUNDS[theme];
          if (found) assert.ok(contrast(parse(found.text[theme]), parse(ground)) >= CONTRAST_MIN, JSON.stringify([theme, foreground, background, isDim, isInverse]));
        }
      }
    }
  }
});

test("on a ground alone, the text is the one of both themes that is read best", () => {
  const plain: Style = { foreground: null, background: null, isBold: false, isDim: false, isItalic: false, isUnderlined: false, isInverse: false, isStruck: false };
  for (let background = 0; background < 16; background++) {
    const found = coloursOf({ ...plain, background });
    for (const theme of ["light", "dark"] as const) assert.ok(["#17202a", "#e6ebf0"].includes(found?.text[theme] ?? "") || contrast(parse(found?.text[theme] ?? ""), parse(found?.ground?.[theme] ?? "")) >= CONTRAST_MIN);
  }
  assert.equal(coloursOf({ ...plain, background: 0 })?.text.light, "#e6ebf0");
  assert.equal(coloursOf({ ...plain, background: 15 })?.text.dark, "#17202a");
});
