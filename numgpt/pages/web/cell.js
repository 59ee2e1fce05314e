// One number of the page: which formulas make it, what their letters stand for, what it is made of.

const steps = N.data.steps;
const order = Object.keys(steps);
const places = new Map(order.map((name, n) => [name, n]));
const layers = new Set(order.filter((name) => steps[name].cost === null && order.some((other) => other.startsWith(`${name}.`))));
const isLayer = (name) => layers.has(name);
// Whether the trace lacks something that its steps read: then a gradient may come by further ways.
const isPart = order.some((name) => [...steps[name].reads, ...steps[name].parameters].some((read) => !(read in N.data.tensors) && !(read in N.data.ids)));
const rowOf = (step) => (N.data.ops[steps[step].op] || {}).cells || null;
const isSame = (a, b) => a.length === b.length && a.every((x, i) => x === b[i] || (Number.isNaN(x) && Number.isNaN(b[i])));

// The step whose value a layer gives: the last one filed in it, where their numbers are the same.
const inner = new Map();
function lastIn(layer) {
  if (!inner.has(layer)) {
    const before = order[places.get(layer) - 1];
    const [mine, its] = [N.tensor(layer), before && N.tensor(before)].map((tensor) => tensor && tensor.value);
    const is = before && before.startsWith(`${layer}.`) && isLayer(layer) && mine && its && isSame(mine, its);
    inner.set(layer, is ? before : null);
  }
  return inner.get(layer);
}

function layerOf(name) {
  const outer = places.has(name) ? order[places.get(name) + 1] : undefined;
  return outer !== undefined && lastIn(outer) === name ? outer : null;
}

// What a layer gives is its last step's number, and the gradient of that is the layer's.
function copyOf(of, which) {
  const found = usesOf(of, which);
  return typeof found === "string" ? found : found.map((use) => ({ ...use, same: use.same || of }));
}

// Letter → [name, "value", "grad" or "ids"] at a step; null where an array that it read has no name.
function sourcesOf(step, row) {
  const { reads, parameters } = steps[step];
  if (reads.length !== row.inputs) return null;
  const owned = Object.fromEntries(parameters.map((name) => [name.slice(name.lastIndexOf(".") + 1), name]));
  const sources = {};
  reads.forEach((name, i) => {
    sources[row.letters[i]] = [name, name in N.data.ids ? "ids" : "value"];
  });
  for (const [letter, end] of Object.entries(row.parameters)) if (owned[end]) sources[letter] = [owned[end], "value"];
  sources[row.result] = [step, "value"];
  sources[`d${row.result}`] = [step, "grad"];
  return sources;
}

// The formulas whose sum is a number, or the key of the words that say why there are none.
function usesOf(name, which) {
  if (which === "value") {
    if (N.data.edited.includes(name)) return "edited";
    if (N.data.parameters.includes(name)) return "parameter";
    if (!steps[name]) return "unknown";
    if (isLayer(name)) return lastIn(name) ? copyOf(lastIn(name), "value") : "layer";
    const row = rowOf(name);
    if (!row) return "no_row";
    const sources = sourcesOf(name, row);
    return sources ? [{ step: name, formula: row.forward, sources }] : "nameless";
  }
  const outer = layerOf(name);
  if (outer) return copyOf(outer, "grad");
  const found = [];
  for (const step of order) {
    if (isLayer(step) || ![...steps[step].reads, ...steps[step].parameters].includes(name)) continue;
    const row = rowOf(step);
    if (!row) return "no_row";
    const sources = sourcesOf(step, row);
    if (!sources) return "nameless";
    for (const letter of row.letters) {
      if (row.backward[letter] && sources[letter] && sources[letter][0] === name) {
        found.push({ step, formula: row.backward[letter], sources });
      }
    }
  }
  if (found.length) return found;
  return N.tensor(name).shape.length ? "unread" : "start";
}

// The letters of arrays and of sizes in a formula, in its locals too.
const lettersIn = new WeakMap();
function lettersOf(formula) {
  if (!lettersIn.has(formula)) {
    const letters = { arrays: new Set(), sizes: new Set() };
    JSON.stringify(formula, (key, node) => {
      if (node && node.kind === "entry") letters.arrays.add(node.array);
      if (node && node.kind === "given" && /^[A-Z]$/.test(node.name)) letters.sizes.add(node.name);
      return node;
    });
    lettersIn.set(formula, letters);
  }
  return lettersIn.get(formula);
}

// Whether the page has all arrays that a formula reads: a large one may be cut to its largest entries.
const isWhole = ({ formula, sources }) =>
  [...lettersOf(formula).arrays].every((letter) => {
    const [name, which] = sources[letter] || ["", "ids"];
    return which === "ids" || Boolean(N.tensor(name) && N.tensor(name)[which]);
  });

// Whether a step has what its op's formula asks for; one that another program wrote may not.
const fits = ({ step, formula }) => [...lettersOf(formula).sizes].every((letter) => letter in (steps[step].given || {}));

function knownUses(name, which) {
  const found = usesOf(name, which);
  if (typeof found === "string") return found;
  if (!found.every(isWhole)) return "not_kept";
  return found.every(fits) ? found : "misfit";
}

// Why there is no formula, in words; null where there is one.
N.why = (name, which) => {
  const found = knownUses(name, which);
  return typeof found === "string" ? N.strings(`formula.${found}`) : null;
};

// The places of a number in a formula's indices; n is that of the leading axes, as one.
function environment({ index }, shape, at) {
  const own = index[0] === "n" ? index.length - 1 : index.length;
  const lead = shape.length - own;
  const env = {};
  index.forEach((letter, i) => {
    env[letter] = letter === "n" ? N.at(shape.slice(0, lead), at.slice(0, lead)) : at[lead + i - (index.length - own)];
  });
  return env;
}

const amount = ({ weight, value }) => Math.abs(weight * value) || 0;

// Whether a number is the trace's but for rounding, which is that of the largest of the array and of what it is made of.
function isNear(result, held, array, terms) {
  if (Number.isNaN(result) || Number.isNaN(held)) return Number.isNaN(result) && Number.isNaN(held);
  const largest = Math.max(N.top(array), terms.length ? amount(terms[0]) : 0);
  return result === held || Math.abs(result - held) <= (array instanceof Float32Array ? 1e-3 : 1e-9) * largest;
}

function whyApart(name, which, uses) {
  if ([name, ...uses.map(({ step }) => step)].some((one) => N.data.edited.includes(one))) return "formula.changed";
  return isPart && which === "grad" ? "formula.partial" : "formula.differs";
}

const MOST = 4000; // contributors that are listed

// {terms, count}: the entries that a number is made of, those that weigh most first.
function contributors(runs) {
  const found = new Map(); // array → its places → term
  for (const { run, weights } of runs) {
    for (const [letter, byPlace] of Object.entries(weights)) {
      const { name, which, shape, data } = run.array(letter);
      const key = `${which} ${name}`;
      if (!found.has(key)) found.set(key, new Map());
      const known = found.get(key);
      for (const [flat, weight] of byPlace) {
        const term = known.get(flat);
        if (term) term.weight += weight;
        else known.set(flat, { name, which, shape, flat, weight, value: Number(data[flat]) });
      }
    }
  }
  const all = [...found.values()].flatMap((known) => [...known.values()]);
  const terms = all.sort((a, b) => amount(b) - amount(a)).slice(0, MOST);
  return {
    count: all.length,
    terms: terms.map(({ name, which, shape, flat, weight, value }) => ({ name, index: N.index(shape, flat), which, weight, value })),
  };
}

// {tree, text, numbers, numpy, locals, terms, count, result, held, agrees, uses} of one number, or null where N.why
// says why. text and numbers are elements: the formula in letters, and in this number's own numbers; numpy gives it as
// lines to copy. held is the trace's number. A gradient that comes by several ways is the sum of its uses, of which each has
// its step, formula, locals and result, and of a tied weight the trace's part.
N.cell = (name, index, which) => {
  const tensor = N.tensor(name);
  const found = knownUses(name, which);
  if (typeof found === "string" || !tensor || !tensor[which]) return null;
  const shape = tensor.shape;
  const runs = found.map((use) => {
    const run = new N.Run(use);
    const env = environment(use.formula, shape, index);
    return { use, run, env, result: run.value(use.formula.of, env) };
  });
  for (const one of runs) one.weights = new N.Dependence(one.run).of(one.env);
  const result = runs.reduce((sum, one) => sum + one.result, 0);
  const held = Number(tensor[which][N.at(shape, index)]);
  const written = N.letters(runs, shape);
  for (const use of written.uses) {
    const part = which === "grad" && (tensor.parts || {})[use.step];
    use.held = part ? Number(part[N.at(shape, index)]) : null;
  }
  const made = contributors(runs);
  const agrees = isNear(result, held, tensor[which], made.terms);
  if (!agrees) written.numbers.append(N.el("div", { class: "formula-differs wrong", text: N.strings(whyApart(name, which, found), { held: N.number(held, 12) }) }));
  return { ...made, ...written, numpy: () => N.lines(runs), result, held, agrees };
};
