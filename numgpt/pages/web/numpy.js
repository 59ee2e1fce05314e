// A formula as lines of NumPy that give the number from a trace: what is copied runs as it stands.

const LEVELS = { "+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4 };
const literal = (x) => (Number.isFinite(x) ? String(x) : `float("${Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf"}")`);

const held = (part, least) => (part[1] >= least ? part[0] : `(${part[0]})`);

// [text, how tightly it holds together] of a node; null where it is absent.
function python(node, run) {
  const again = (part) => python(part, run);
  const list = (index) => index.map((one) => again(one)[0]).join(", ");
  switch (node.kind) {
    case "number":
      return [String(node.value), 5];
    case "constant":
      return ["math.pi", 5];
    case "given":
      return run.scalar(node.name) === undefined ? null : [node.name, 5];
    case "index":
      return [node.name, 5];
    case "entry":
      if (!run.array(node.array)) return null;
      return [node.index.length ? `${node.array}[${list(node.index)}]` : node.array, 5];
    case "local": {
      const isGiven = node.name in run.given;
      if (!isGiven && bodyOf(node.name, run) === null) return null;
      if (!node.index.length) return [node.name, 5];
      return [isGiven ? `${node.name}[${list(node.index)}]` : `${node.name}(${list(node.index)})`, 5];
    }
    case "minus": {
      const of = again(node.of);
      return of && [`-${held(of, 3)}`, 3];
    }
    case "call": {
      const of = again(node.of);
      return of && [`math.${node.function}(${of[0]})`, 5];
    }
    case "choice":
      return [`${held(again(node.yes), 1)} if ${again(node.test)[0]} else ${held(again(node.no), 1)}`, 0];
    case "compare":
      return [node.of.map((one, n) => `${n ? `${node.signs[n - 1]} ` : ""}${held(again(one), 1)}`).join(" "), 0.5];
    case "all":
      return [node.of.map((one) => held(again(one), 0.5)).join(" and "), 0.4];
    case "over": {
      const of = again(node.of);
      if (!of) return null;
      const where = node.where ? ` if ${held(again(node.where), 0.4)}` : "";
      const terms = `${held(of, 0.4)} for ${node.name} in range(${run.size(node.range)})${where}`;
      return [node.reduction === "mean" ? `np.mean([${terms}])` : `${node.reduction}(${terms})`, 5];
    }
    default:
      return joined(node.sign, again(node.left), again(node.right));
  }
}

function joined(sign, left, right) {
  if (!left || !right) {
    if (!right) return left;
    if (sign === "-") return [`-${held(right, 3)}`, 3];
    return sign === "/" ? null : right;
  }
  const level = LEVELS[sign];
  return [`${held(left, sign === "**" ? 5 : level)} ${sign} ${held(right, level + 0.5)}`, level];
}

// The right side of a local's equation; null where it is absent.
function bodyOf(name, run) {
  run.python ||= {};
  if (!(name in run.python)) run.python[name] = python(run.locals[name].of, run);
  return run.python[name];
}

// Letters, locals and numbers that a tree uses, with what its locals use.
function usedIn(node, run, found = { entry: new Set(), local: new Set(), given: new Set() }) {
  if (node.kind in found) {
    const name = node.array || node.name;
    const isGiven = node.kind !== "entry" && name in run.given;
    const kind = isGiven || (node.kind === "entry" && !run.use.sources[name]) ? "given" : node.kind;
    if (kind === "local" && !found.local.has(name)) usedIn(run.locals[name].of, run, found);
    if (kind !== "given" || name in run.given) found[kind].add(name);
  }
  for (const inner of Object.values(node).flat()) if (inner && inner.kind) usedIn(inner, run, found);
  return found;
}

function rowsOf(shape, tree, letter, run) {
  const ranks = [];
  JSON.stringify([tree, ...run.formula.locals], (key, node) => {
    if (node && node.kind === "entry" && node.array === letter && node.index.length && node.index[0].name === "n") ranks.push(node.index.length);
    return node;
  });
  return ranks.length ? `.reshape(-1${shape.slice(shape.length - ranks[0] + 1).map((n) => `, ${n}`).join("")})` : "";
}

function givenText(given) {
  if (!given.data) return literal(Number(given));
  return `np.array([${given.data.map((x) => literal(Number(x))).join(", ")}]).reshape(${given.shape.join(", ")})`;
}

const FROM = { value: "trace.value", grad: "trace.grad", ids: "trace.ids" };

// The lines for one use: arrays, what its step gives, locals, the place, the number.
function linesOf({ use, run, env }, result) {
  const { formula } = use;
  const used = usedIn(formula.of, run);
  const lines = [];
  for (const letter of used.entry) {
    const array = run.array(letter);
    if (!array) continue;
    const [name, which] = use.sources[letter];
    lines.push(`${letter} = ${FROM[which]}[${JSON.stringify(name)}]${rowsOf(array.shape, formula.of, letter, run)}`);
  }
  for (const name of used.given) {
    const given = run.given[name];
    const lead = given.data ? rowsOf(given.shape, formula.of, name, run) : "";
    lines.push(`${name} = ${givenText(given)}${lead}`);
  }
  for (const local of formula.locals) {
    const body = used.local.has(local.name) && !(local.name in run.given) ? bodyOf(local.name, run) : null;
    if (body) lines.push(`${local.name} = ${local.index.length ? `lambda ${local.index.join(", ")}: ` : ""}${body[0]}`);
  }
  if (formula.index.length) lines.push(`${formula.index.join(", ")} = ${formula.index.map((letter) => env[letter]).join(", ")}`);
  lines.push(`${result} = ${python(formula.of, run)[0]}`);
  return lines;
}

N.lines = (runs) => {
  const names = runs.map((_, n) => (runs.length > 1 ? `number_${n + 1}` : "number"));
  const lines = runs.flatMap((one, n) => linesOf(one, names[n]));
  if (runs.length > 1) lines.push(`number = ${names.join(" + ")}`);
  const whence = "# trace: of model.record(tokens, targets).trace(), or of numgpt.Trace.read(file)";
  return ["import math", "import numpy as np", whence, ...lines, ""].join("\n");
};
