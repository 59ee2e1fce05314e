// Formulas as MathML: in letters, and in the numbers of one cell. What is absent is left out, and short locals, the
// first and last key that a query sees, stand where they are used.

const LARGEST = 3; // terms of a sum that are written out
const DIGITS = 4;
const SHORT = 7; // characters of a number that is written as it is
const NAMES = {
  Delta: "Δ",
  Phi: "Φ",
  act: "a",
  along: ["⟨", "g", ["x", "^"], "⟩"],
  angle: "θ",
  cosine: ["cos", "θ"],
  count: "N",
  du: "u′",
  eps: "ε",
  gmean: ["⟨", "g", "⟩"],
  keep: "k",
  ms: ["⟨", ["x", "2"], "⟩"],
  mu: "μ",
  phi: "φ",
  positions: "p",
  sigma: "σ",
  sine: ["sin", "θ"],
  slope: "a′",
  slopes: "m",
  theta: "θ",
  used: [["P", "~"]],
  var: [["σ", "2"]],
  xhat: [["x", "^"]],
};
const SIGNS = { "<=": "≤", ">=": "≥", "==": "=", "!=": "≠" };
const OPPOSITE = { "<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==" };
const BREAKS = "=+−"; // signs before which a line may be broken
const FACTORS = "·\u2062"; // and between factors, where there is little room
const ONE = { kind: "number", value: 1 };
const ZERO = { kind: "number", value: 0 };

const isNumber = (node, value) => node.kind === "number" && node.value === value;
const parts = (node) => Object.values(node).flat().filter((part) => part && typeof part === "object" && part.kind);
const has = (node, test) => test(node) || parts(node).some((part) => has(part, test));
// Whether a local stands where it is used: another name for an entry, or arithmetic of indices and sizes.
const isShort = (node) => node.kind === "entry" || !has(node, ({ kind, sign }) => ["entry", "over", "local"].includes(kind) || sign === "**");
const isOfIndices = (node) =>
  has(node, ({ kind }) => kind === "index") && !has(node, ({ kind, sign }) => ["entry", "over", "local", "choice"].includes(kind) || ["/", "**"].includes(sign));

// A tree as it is read: without what is absent, factors 1 and sums over one. Null for what is absent.
function simple(node, run, env = {}) {
  const again = (part) => simple(part, run, env);
  const known = { ...node };
  switch (node.kind) {
    case "index":
      return env[node.name] || node;
    case "given": {
      const given = run.scalar(node.name);
      if (given === undefined) return null;
      return given === 1 && /^[A-Z]$/.test(node.name) ? ONE : node;
    }
    case "entry":
      if (!run.array(node.array)) return null;
      known.index = node.index.map(again);
      return known;
    case "local":
      return local(node, run, env);
    case "minus":
    case "call":
      known.of = again(node.of);
      return known.of && known;
    case "binary":
      return joined(node.sign, again(node.left), again(node.right));
    case "choice":
      known.test = again(node.test);
      if (!has(known.test, ({ kind }) => ["index", "entry", "local"].includes(kind))) return again(run.holds(known.test, {}) ? node.yes : node.no);
      for (const key of ["yes", "no"]) known[key] = again(node[key]);
      return known;
    case "compare":
    case "all":
      known.of = node.of.map(again);
      return known;
    case "over": {
      if (node.range[0] === "given" && run.size(node.range) === 1) return simple(node.of, run, { ...env, [node.name]: ZERO });
      known.of = again(node.of);
      known.where = node.where && again(node.where);
      return known.of && known;
    }
    default:
      return node;
  }
}

// The right side of a local's equation, as it is read.
function bodyOf(name, run) {
  run.bodies ||= {};
  if (!(name in run.bodies)) run.bodies[name] = simple(run.locals[name].of, run);
  return run.bodies[name];
}

function local(node, run, env) {
  const index = node.index.map((part) => simple(part, run, env));
  if (node.name in run.given) return index.length ? { kind: "entry", array: node.name, index } : { kind: "given", name: node.name };
  const body = bodyOf(node.name, run);
  if (body === null) return null;
  if (!isShort(body)) return { ...node, index };
  const { index: own, of } = run.locals[node.name];
  return simple(of, run, Object.fromEntries(own.map((name, i) => [name, index[i]])));
}

function joined(sign, left, right) {
  if (left === null || right === null) {
    if (right === null) return left;
    if (sign === "-") return { kind: "minus", of: right };
    return sign === "/" ? null : right;
  }
  if (sign === "+" && isNumber(left, 0)) return right;
  if ((sign === "+" || sign === "-") && isNumber(right, 0)) return left;
  if (sign === "*" && isNumber(left, 1)) return right;
  if (["*", "/", "//"].includes(sign) && isNumber(right, 1)) return left;
  if (sign === "*" && (isNumber(left, 0) || isNumber(right, 0))) return ZERO;
  return { kind: "binary", sign, left, right };
}

// Writing. A part is an element and how tightly it holds together: 1 a sum, 2 a product, 3 a word.

const m = (tag, ...children) => N.mathml(tag, null, ...children);
const row = (...children) => m("mrow", ...children);
const operator = (sign) => N.mathml("mo", { text: sign });
const word = (text) => N.mathml("mi", { text });
// The name of a thing: a letter, or signs in a row, of which one may have a hat or a power.
function letter(name) {
  const shown = NAMES[name] || name;
  if (typeof shown === "string") return word(shown);
  const signs = shown.map((sign) => {
    if (Array.isArray(sign)) return sign[1] === "2" ? m("msup", word(sign[0]), N.mathml("mn", { text: "2" })) : m("mover", word(sign[0]), operator(sign[1]));
    return "⟨⟩".includes(sign) ? operator(sign) : word(sign);
  });
  return signs.length > 1 ? row(...signs) : signs[0];
}
const number = (x) => N.mathml("mn", { text: String(x).length <= SHORT ? N.exact(x) : N.number(x, DIGITS) });
const words = (text) => N.mathml("mtext", { text: text.replace(/ /g, "\u00a0") });
const held = ({ element, level }, least) => (level >= least ? element : row(operator("("), element, operator(")")));
const between = (sign, elements) => elements.flatMap((element, n) => (n ? [operator(sign), element] : [element]));
const amount = (x) => ({ element: number(x), level: x < 0 || Object.is(x, -0) ? 1 : 3 });

class Writer {
  constructor(run, env, inNumbers) {
    Object.assign(this, { run, env, inNumbers, since: [] });
  }

  part(node, env = this.env, nested = false) {
    const isOne = ["index", "given", "entry", "local"].includes(node.kind) || (node.kind === "binary" && isOfIndices(node));
    if (this.inNumbers && isOne) return amount(this.run.value(node, env));
    switch (node.kind) {
      case "number":
        return amount(node.value);
      case "constant":
        return { element: word("π"), level: 3 };
      case "index":
        return { element: word(node.name), level: 3 };
      case "given":
        return { element: letter(node.name), level: 3 };
      case "entry":
      case "local":
        return { element: this.named(node.array || node.name, node.index), level: 3 };
      case "minus":
        return { element: row(operator("−"), held(this.part(node.of, env, nested), 2)), level: 1 };
      case "binary":
        return this.binary(node, env, nested);
      case "call":
        return this.call(node, env, nested);
      case "choice":
        return this.choice(node, env, nested);
      case "over":
        return this.over(node, env, nested);
      default:
        return { element: this.condition(node, env), level: 1 };
    }
  }

  // x with its indices below it; those of leading axes that there are not are left out.
  named(name, index) {
    const base = letter(name);
    const shown = index.filter((part) => !(part.kind === "index" && part.name === "n" && this.run.isAlone));
    if (!shown.length) return base;
    const below = row(...between(",", shown.map((part) => new Writer(this.run, this.env, false).part(part).element)));
    return base.localName === "msup" ? m("msubsup", base.firstChild, below, base.lastChild) : m("msub", base, below);
  }

  binary({ sign, left, right }, env, nested) {
    const [a, b] = [this.part(left, env, nested), this.part(right, env, nested)];
    if (sign === "/") return { element: m("mfrac", a.element, b.element), level: 3 };
    if (sign === "**") return { element: m("msup", held(a, 3), b.element), level: 3 };
    if (sign === "//") return { element: row(operator("⌊"), held(a, 2), operator("/"), held(b, 3), operator("⌋")), level: 3 };
    if (sign === "%") return { element: row(held(a, 3), words(" mod "), held(b, 3)), level: 2 };
    if (sign === "*") return { element: row(held(a, 2), operator(this.inNumbers || b.element.tagName === "mn" ? "·" : "\u2062"), held(b, 2)), level: 2 };
    return { element: row(a.element, operator(sign === "-" ? "−" : "+"), held(b, sign === "-" || b.element.tagName === "mn" ? 2 : 1)), level: 1 };
  }

  call({ function: name, of }, env, nested) {
    const inside = this.part(of, env, nested).element;
    if (name === "sqrt") return { element: m("msqrt", inside), level: 3 };
    return { element: row(word(name), operator("("), inside, operator(")")), level: 3 };
  }

  // What holds of this cell, and why; all cases where the cell is not known.
  choice(node, env, nested) {
    const isKnown = !has(node.test, (part) => part.kind === "index" && !(part.name in env));
    if (!isKnown) {
      const line = (part, condition) => m("mtr", m("mtd", this.part(part, env, nested).element), m("mtd", condition));
      const rows = [line(node.yes, row(words(`${N.strings("formula.if")} `), this.condition(node.test, env))), line(node.no, words(N.strings("formula.else")))];
      return { element: row(operator("{"), m("mtable", ...rows)), level: 3 };
    }
    const holds = this.run.holds(node.test, env);
    if (!nested) this.since.push([node.test, holds]);
    return this.part(holds ? node.yes : node.no, env, nested);
  }

  condition(node, env, holds = true) {
    if (node.kind === "all") {
      const all = row(...node.of.flatMap((part, n) => [n && words(` ${N.strings("formula.and")} `), this.condition(part, env)].filter(Boolean)));
      return holds ? all : row(words(`${N.strings("formula.not")} `), all);
    }
    let { signs, of } = node;
    if (isNumber(of[0], 0) && signs[0] === "<=" && of.length === 3) [signs, of] = [signs.slice(1), of.slice(1)]; // no index is below 0
    if (!holds && signs.length === 1) return this.condition({ ...node, signs: [OPPOSITE[signs[0]]], of }, env);
    const elements = of.map((part) => held(this.part(part, env, true), 1));
    const written = row(...elements.flatMap((element, n) => (n ? [operator(SIGNS[signs[n - 1]] || signs[n - 1]), element] : [element])));
    return holds ? written : row(words(`${N.strings("formula.not")} `), written);
  }

  over(node, env, nested) {
    const isCounted = !has(node.of, ({ kind }) => ["entry", "local"].includes(kind));
    if (this.inNumbers) return nested || isCounted ? amount(this.run.value(node, env)) : this.largest(node, env);
    const { [node.name]: _, ...outer } = env;
    const index = node.where ? row(word(node.name), operator(":"), this.condition(node.where, outer)) : word(node.name);
    const of = this.part(node.of, outer, true);
    if (node.reduction === "mean") return { element: m("msub", row(operator("⟨"), of.element, operator("⟩")), index), level: 3 };
    if (node.reduction === "max") return { element: row(m("munder", operator("max"), index), held(of, 2)), level: 2 };
    return { element: row(N.mathml("munder", null, N.mathml("mo", { text: "∑", movablelimits: "false" }), index), held(of, 2)), level: 2 };
  }

  // The largest terms of a sum in numbers, and what the others come to.
  largest(node, env) {
    const terms = this.run.places(node, env).map((at) => ({ at, value: this.run.value(node.of, at) }));
    if (!terms.length) return amount(this.run.value(node, env));
    const sorted = [...terms].sort((a, b) => (node.reduction === "max" ? b.value - a.value : Math.abs(b.value) - Math.abs(a.value)));
    const shown = sorted.length <= LARGEST + 1 ? sorted : sorted.slice(0, LARGEST);
    const rest = sorted.slice(shown.length);
    const written = shown.map(({ at }) => held(this.part(node.of, at, true), node.reduction === "max" ? 1 : 2));
    const total = rest.reduce((sum, { value }) => sum + value, 0);
    if (node.reduction === "max") {
      if (rest.length) written.push(words(N.strings("formula.others", { n: rest.length })));
      return { element: row(operator("max"), operator("("), ...between(",", written), operator(")")), level: 3 };
    }
    if (rest.length) written.push(row(m("munder", held(amount(total), 2), words(N.strings("formula.others", { n: rest.length })))));
    const sum = { element: row(...between("+", written)), level: written.length > 1 ? 1 : 2 };
    return node.reduction === "mean" ? { element: m("mfrac", sum.element, number(terms.length)), level: 3 } : sum;
  }
}

// A line, which may be broken before each sum and difference that is in no brackets.
function line(name, ...children) {
  return N.el("div", { class: `formula-line ${name}` }, ...N.broken(children.flatMap(flat)));
}

// Parts as pieces between which a line may be broken, before signs: MathML itself breaks nowhere. isTight: before factors
// and words and after commas, too.
N.broken = (parts, isTight = false) => {
  const pieces = [[]];
  for (const part of parts) {
    const before = pieces.at(-1).at(-1);
    const isAfter = (sign) => Boolean(before) && before.localName === "mo" && before.textContent === sign;
    const isSign = part.localName === "mo" && (isTight ? BREAKS + FACTORS : BREAKS).includes(part.textContent) && !isAfter("(");
    const isReason = part.localName === "mtext" && (isTight || part.textContent.includes(N.strings("formula.since")));
    if (isSign) part.setAttribute("form", "infix"); // at the begin of a piece it would be another sign
    if ((isSign || isReason || (isTight && isAfter(","))) && pieces.at(-1).length) pieces.push([]);
    pieces.at(-1).push(part);
  }
  return pieces.flatMap((piece, n) => [...(n ? [N.el("wbr")] : []), N.mathml("math", { displaystyle: "true" }, row(...piece))]);
};

// The parts of a row, and of rows in it, but for what stands in brackets, which grow with what is between them.
function flat(element) {
  const { localName, children } = element;
  const isHeld = [...children].some((part) => part.localName === "mo" && "({".includes(part.textContent));
  return localName === "mrow" && !isHeld ? [...children].flatMap(flat) : [element];
}
N.flatMath = flat;

// An equation: its left side and its right, with the reason for the case that holds.
function equation(left, tree, run, env, inNumbers) {
  const writer = new Writer(run, env, inNumbers);
  const { element } = writer.part(tree);
  const reasons = writer.since.flatMap(([test, holds], n) => [words(n ? ` ${N.strings("formula.and")} ` : `,  ${N.strings("formula.since")} `), writer.condition(test, env, holds)]);
  return [...(left ? [left, operator("=")] : []), element, ...reasons];
}

// The locals that a formula has used, where there is one for this cell: {name, at, count, value, tree}.
function localsOf(run, env) {
  return run.formula.locals.flatMap((known) => {
    const met = run.met.get(known.name) || [];
    const own = known.index.map((index) => env[index]);
    const at = met.length === 1 ? met[0] : met.find((one) => String(one) === String(own));
    const tree = known.name in run.given ? null : bodyOf(known.name, run);
    if (!met.length || tree === null || isShort(tree)) return [];
    return [{ name: known.name, index: known.index, at, count: met.length, value: at && run.known(known.name, at), tree }];
  });
}

function places(run, env, shape) {
  const own = run.formula.index.filter((letter) => letter !== "n").length;
  const lead = shape.slice(0, shape.length - own);
  const text = (letter) => (letter === "n" ? `(${N.index(lead, env.n).join(", ")})` : String(env[letter]));
  return run.formula.index.filter((letter) => letter !== "n" || lead.length).map((letter) => `${letter} = ${text(letter)}`);
}

// {tree, text, numbers, locals, uses} of the formulas at work that make a number.
N.letters = (runs, shape) => {
  const text = N.el("div", { class: "formula-text" });
  const numbers = N.el("div", { class: "formula-numbers" });
  const { same } = runs[0].use;
  if (same) text.append(N.el("div", { class: "formula-via", text: N.strings("formula.same", { name: same }) }));
  const uses = runs.map(({ use, run, env, result }) => {
    run.isAlone = run.formula.index[0] === "n" && shape.length < run.formula.index.length;
    const tree = simple(use.formula.of, run);
    const writer = new Writer(run, env, false);
    const index = use.formula.index.map((name) => ({ kind: "index", name }));
    const left = writer.named(use.formula.result, index);
    const via = runs.length > 1 ? [N.el("div", { class: "formula-via", text: N.strings("formula.via", { step: use.step }) })] : [];
    const locals = localsOf(run, env);
    text.append(...via.map((one) => one.cloneNode(true)), line("", ...equation(left, tree, run, env, false)));
    const total = runs.length > 1 && !["entry", "local"].includes(tree.kind) ? [operator("="), number(result)] : [];
    numbers.append(...via, line("", ...equation(null, tree, run, env, true), ...total));
    for (const one of locals) {
      const inside = one.at ? run.inside(one.name, one.at) : {};
      const name = writer.named(one.name, one.index.map((letter) => ({ kind: "index", name: letter })));
      text.append(line("formula-local", ...equation(name, one.tree, run, inside, false)));
      if (!one.at) continue;
      const written = equation(name.cloneNode(true), one.tree, run, inside, true);
      if (written.at(-1).localName !== "mn") written.push(operator("="), number(one.value)); // else it is that number
      numbers.append(line("formula-local", ...written));
    }
    return { step: use.step, same: use.same || null, formula: use.formula, tree, locals, result };
  });
  const [{ run, env }] = runs;
  const at = places(run, env, shape);
  if (at.length) text.append(N.el("div", { class: "formula-at", text: at.join(" · ") }));
  return { tree: uses[0].tree, text, numbers, locals: uses.flatMap((use) => use.locals), uses };
};
