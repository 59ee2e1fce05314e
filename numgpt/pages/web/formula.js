// The formula of one number: its tree evaluated on this page's arrays, what it is made of, and its value.
// expressions.py has the language, formulas.py resolves names in the same way, evaluation.py gives the same numbers.

const COMPARE = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
};

// erfc by the three rational functions of W. J. Cody, "Rational Chebyshev approximations for the error function",
// Math. Comp. 23 (1969): below 0.46875, up to 4, beyond. Coefficients, that of the highest power first.
const CODY = [
  [
    [1.85777706184603153e-1, 3.1611237438705656, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3],
    [1, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3],
  ],
  [
    [2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
      8.8195222124176909e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3],
    [1, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3, 3.29079923573345963e3,
      4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3],
  ],
  [
    [1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2,
      6.58749161529837803e-4],
    [1, 2.56852019228982242, 1.87295284992346047, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3],
  ],
];
const ratio = ([p, q], x) => p.reduce((sum, a) => sum * x + a) / q.reduce((sum, a) => sum * x + a);
N.erfc = (x) => {
  if (Number.isNaN(x)) return x;
  const far = Math.abs(x);
  if (far <= 0.46875) return 1 - x * ratio(CODY[0], x * x);
  const cut = Math.floor(Math.min(far, 64) * 16) / 16; // exact when squared
  let tail = far > 64 ? 0 : Math.exp(-cut * cut) * Math.exp(-(far - cut) * (far + cut));
  if (far <= 4) tail *= ratio(CODY[1], far);
  else tail *= (1 / Math.sqrt(Math.PI) - ratio(CODY[2], 1 / (far * far)) / (far * far)) / far;
  return x > 0 ? tail : 2 - tail;
};

// [the function, its slope from x and the value at x]
const FUNCTIONS = {
  exp: [Math.exp, (x, y) => y],
  log: [Math.log, (x) => 1 / x],
  sqrt: [Math.sqrt, (x, y) => 1 / (2 * y)],
  tanh: [Math.tanh, (x, y) => 1 - y * y],
  erfc: [N.erfc, (x) => (-2 / Math.sqrt(Math.PI)) * Math.exp(-x * x)],
  sin: [Math.sin, (x) => Math.cos(x)],
  cos: [Math.cos, (x) => -Math.sin(x)],
};

function binary(sign, a, b) {
  if (a === undefined || b === undefined) {
    if (b === undefined) return a;
    if (sign === "-") return -b;
    return sign === "+" || sign === "*" ? b : undefined;
  }
  switch (sign) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "/":
      return a / b;
    case "**":
      return b === 2 ? a * a : a ** b;
    case "//":
      return Math.floor(a / b);
    default:
      return a - b * Math.floor(a / b);
  }
}

// Indices as the key of a map; one alone needs no text.
const keyOf = (at) => (at.length === 1 ? at[0] : String(at));

// A formula at work: arrays by letter, what its step gives, and locals that are known already. Absent is undefined.
class Run {
  constructor(use) {
    this.use = use;
    this.formula = use.formula;
    this.given = (N.data.steps[use.step] || {}).given || {};
    this.locals = Object.fromEntries(use.formula.locals.map((local) => [local.name, local]));
    this.arrays = {};
    this.memo = new Map(this.formula.locals.map(({ name }) => [name, new Map()])); // local → its indices → value
    this.met = new Map(); // local → the indices that it was asked for
  }

  array(letter) {
    if (!(letter in this.arrays)) this.arrays[letter] = this.find(letter);
    return this.arrays[letter];
  }

  find(letter) {
    const source = this.use.sources[letter];
    if (!source) {
      const given = this.given[letter];
      return given && given.data ? { shape: given.shape, data: given.data } : undefined;
    }
    const [name, which] = source;
    if (which === "ids") return { ...N.data.ids[name], isIds: true };
    const tensor = N.tensor(name);
    const data = tensor && tensor[which];
    return data ? { name, which, shape: tensor.shape, data } : undefined;
  }

  value(node, env) {
    switch (node.kind) {
      case "number":
        return node.value;
      case "constant":
        return Math.PI;
      case "index":
        return env[node.name];
      case "given":
        return this.scalar(node.name);
      case "entry":
        return this.entry(node.array, node.index, env);
      case "local":
        return this.local(node, env);
      case "minus": {
        const of = this.value(node.of, env);
        return of === undefined ? of : -of;
      }
      case "binary":
        return binary(node.sign, this.value(node.left, env), this.value(node.right, env));
      case "call": {
        const of = this.value(node.of, env);
        return of === undefined ? of : FUNCTIONS[node.function][0](of);
      }
      case "choice":
        return this.value(this.holds(node.test, env) ? node.yes : node.no, env);
      case "over":
        return this.over(node, env);
      default:
        throw new Error(`a formula has ${node.kind}`);
    }
  }

  scalar(name) {
    const given = this.given[name];
    return given === undefined ? undefined : Number(given);
  }

  // Where an entry lies in its array; undefined for no array, −1 for no place in it.
  place(array, index, env) {
    if (!array) return undefined;
    const hasLead = index.length && index[0].kind === "index" && index[0].name === "n";
    const own = hasLead ? index.length - 1 : index.length;
    const { shape, data } = array;
    let flat = hasLead ? env.n : 0;
    let end = data.length; // of the places that flat counts so far
    if (hasLead) {
      for (let i = shape.length - own; i < shape.length; i += 1) end /= shape[i];
      if (!(flat >= 0 && flat < end)) return -1;
    }
    for (let i = 0; i < own; i += 1) {
      const at = this.value(index[i + index.length - own], env);
      const n = shape[i + shape.length - own];
      if (!(at >= 0 && at < n)) return -1;
      flat = flat * n + at;
    }
    return flat;
  }

  entry(letter, index, env) {
    const array = this.array(letter);
    const at = this.place(array, index, env);
    if (at === undefined) return undefined;
    if (at < 0) return array.isIds ? -1 : NaN;
    return array.data[at];
  }

  local(node, env) {
    if (node.name in this.given) {
      return node.index.length ? this.entry(node.name, node.index, env) : this.scalar(node.name);
    }
    const at = node.index.map((part) => this.value(part, env));
    const known = this.memo.get(node.name);
    const key = keyOf(at);
    if (!known.has(key)) {
      if (!this.met.has(node.name)) this.met.set(node.name, []);
      this.met.get(node.name).push(at);
      known.set(key, this.value(this.locals[node.name].of, this.inside(node.name, at)));
    }
    return known.get(key);
  }

  // The value of a local that was asked for.
  known(name, at) {
    return this.memo.get(name).get(keyOf(at));
  }

  inside(name, at) {
    return Object.fromEntries(this.locals[name].index.map((index, i) => [index, at[i]]));
  }

  holds(node, env) {
    if (node.kind === "all") return node.of.every((part) => this.holds(part, env));
    const values = node.of.map((part) => this.value(part, env));
    return node.signs.every((sign, i) => COMPARE[sign](values[i], values[i + 1]));
  }

  size([letter, axis, own]) {
    if (letter === "given") return this.scalar(axis);
    const { shape } = this.array(letter);
    return axis === "lead" ? size(shape.slice(0, shape.length - own)) : shape[shape.length + axis];
  }

  // Calls back for each place at which the condition of a reduction holds.
  *places(node, env) {
    const inner = { ...env };
    const n = this.size(node.range);
    for (inner[node.name] = 0; inner[node.name] < n; inner[node.name] += 1) {
      if (!node.where || this.holds(node.where, inner)) yield inner;
    }
  }

  over(node, env) {
    let total = node.reduction === "max" ? -Infinity : 0;
    let count = 0;
    for (const inner of this.places(node, env)) {
      const of = this.value(node.of, inner);
      if (of === undefined) return undefined;
      if (node.reduction !== "max") total += of;
      else if (of > total || Number.isNaN(of)) total = of;
      count += 1;
    }
    return node.reduction === "mean" ? total / count : total;
  }
}

// How a result depends on the entries of arrays: a tree gone through backwards, locals after all that use them.
class Dependence {
  constructor(run) {
    this.run = run;
    this.weights = {}; // letter → Map of place → weight
    this.ofLocals = Object.fromEntries(run.formula.locals.map(({ name }) => [name, new Map()]));
  }

  of(env) {
    const { formula } = this.run;
    this.spread(formula.of, env, 1);
    for (const { name, of } of [...formula.locals].reverse()) {
      for (const { at, weight } of this.ofLocals[name].values()) this.spread(of, this.run.inside(name, at), weight);
    }
    return this.weights;
  }

  spread(node, env, weight) {
    const { run } = this;
    switch (node.kind) {
      case "entry": {
        const array = run.array(node.array);
        const at = run.place(array, node.index, env);
        if (!array || !array.name || at < 0) return;
        const weights = (this.weights[node.array] ||= new Map());
        weights.set(at, (weights.get(at) || 0) + weight);
        return;
      }
      case "local": {
        if (node.name in run.given) return;
        const at = node.index.map((part) => run.value(part, env));
        const known = this.ofLocals[node.name];
        const key = keyOf(at);
        if (!known.has(key)) known.set(key, { at, weight: 0 });
        known.get(key).weight += weight;
        return;
      }
      case "minus":
        this.spread(node.of, env, -weight);
        return;
      case "binary":
        this.binary(node, env, weight);
        return;
      case "call": {
        const of = run.value(node.of, env);
        const [f, slope] = FUNCTIONS[node.function];
        if (of !== undefined) this.spread(node.of, env, weight * slope(of, f(of)));
        return;
      }
      case "choice":
        for (const part of node.test.of) if (part.kind !== "compare") this.spread(part, env, 0); // what it depends on, too
        this.spread(run.holds(node.test, env) ? node.yes : node.no, env, weight);
        return;
      case "over":
        this.over(node, env, weight);
        return;
      default: // what is no array
    }
  }

  binary({ sign, left, right }, env, weight) {
    const [a, b] = [this.run.value(left, env), this.run.value(right, env)];
    if (sign === "//" || sign === "%") return;
    if (a === undefined || b === undefined) {
      if (a !== undefined) this.spread(left, env, weight);
      else if (b !== undefined && sign !== "/") this.spread(right, env, sign === "-" ? -weight : weight);
      return;
    }
    if (sign === "+" || sign === "-") {
      this.spread(left, env, weight);
      this.spread(right, env, sign === "-" ? -weight : weight);
    } else if (sign === "*") {
      this.spread(left, env, weight * b);
      this.spread(right, env, weight * a);
    } else if (sign === "/") {
      this.spread(left, env, weight / b);
      this.spread(right, env, (-weight * a) / (b * b));
    } else {
      this.spread(left, env, weight * b * a ** (b - 1)); // exponents are numbers
    }
  }

  over(node, env, weight) {
    const { run } = this;
    if (node.reduction !== "max") {
      const all = node.reduction === "mean" ? [...run.places(node, env)].length : 1;
      for (const inner of run.places(node, env)) this.spread(node.of, inner, weight / all);
      return;
    }
    let best = null;
    let most; // the value there
    for (const inner of run.places(node, env)) {
      const of = run.value(node.of, inner);
      if (best === null || of > most) [best, most] = [{ ...inner }, of];
      this.spread(node.of, inner, 0);
    }
    if (best !== null) this.spread(node.of, best, weight);
  }
}

N.Run = Run;
N.Dependence = Dependence;

const size = (shape) => shape.reduce((product, n) => product * n, 1);
