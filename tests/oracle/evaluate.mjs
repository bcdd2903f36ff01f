// GitHub's evaluator behind a pipe. Each line in is {"contexts": {...}, "sources": [...]}; each line out is the list of
// outcomes: {"value": ...} or {"error": text}. In values a number is {"num": text} and an object {"obj": [[key, value], ...]},
// so that NaN, infinities and the order of keys survive JSON.

import { createInterface } from "node:readline";
import { Evaluator, Lexer, Parser, data } from "@actions/expressions";

const { Kind } = data;

function decoded(value) {
  if (value === null) return new data.Null();
  if (typeof value === "boolean") return new data.BooleanData(value);
  if (typeof value === "string") return new data.StringData(value);
  if (Array.isArray(value)) return new data.Array(...value.map(decoded));
  if ("num" in value) return new data.NumberData(Number(value.num));
  return new data.Dictionary(...value.obj.map(([key, item]) => ({ key, value: decoded(item) })));
}

function encoded(value) {
  switch (value.kind) {
    case Kind.Null:
      return null;
    case Kind.Boolean:
    case Kind.String:
      return value.value;
    case Kind.Number:
      return { num: Object.is(value.value, -0) ? "0" : String(value.value) };
    case Kind.Array:
      return value.values().map(encoded);
    case Kind.Dictionary:
      return { obj: value.pairs().map(({ key, value: item }) => [key, encoded(item)]) };
  }
  throw new Error(`a value of unknown kind: ${value.kind}`);
}

function outcome(source, contexts, names) {
  try {
    const tree = new Parser(new Lexer(source).lex().tokens, names, []).parse();
    return { value: encoded(new Evaluator(tree, contexts).evaluate()) };
  } catch (error) {
    return { error: String(error.message) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { contexts, sources } = JSON.parse(line);
  const names = Object.keys(contexts);
  const known = new data.Dictionary(...names.map((key) => ({ key, value: decoded(contexts[key]) })));
  process.stdout.write(JSON.stringify(sources.map((source) => outcome(source, known, names))) + "\n");
}
