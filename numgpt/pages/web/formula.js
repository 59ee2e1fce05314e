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

const OPERATE = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => a / b,
  "**": (a, b) => (b === 2 ? a * a : a ** b),
  "//": (a, b) => Math.floor(a / b),
  "%": (a, b) => a - b * Math.floor(a / b),
};

// Of an operation whose one side, or both, is an array that is not there.
function withoutOne(sign, a, b) {
  if (b === undefined) return a;
  if (sign === "-") return -b;
  return sign === "+" || sign === "*" ? b : undefined;
}

// Indices as the key of a map; one alone needs no text.
const keyOf = (at) => (at.length === 1 ? at[0] : String(at));

// A formula at work: arrays by letter, what its step gives, and locals that are known already. Absent is undefined.
// A node of the tree is turned once into a function of the indices (env): a sum asks it for each of its terms.
class Run {
  constructor(use) {
    this.use = use;
    this.formula = use.formula;
    this.given = (N.data.steps[use.step] || {}).given || {};
    this.locals = Object.fromEntries(use.formula.locals.map((local) => [local.name, local]));
    this.arrays = {};
    this.memo = new Map(this.formula.locals.map(({ name }) => [name, new Map()])); // local → its indices → value
    this.met = new Map(); // local → the indices that it was asked for
    this.functions = new Map(); // node → its function
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
    return this.function(node)(env);
  }

  function(node) {
    if (!this.functions.has(node)) {
      if (!(node.kind in VALUES)) throw new Error(`a formula has ${node.kind}`);
      this.functions.set(node, VALUES[node.kind](this, node));
    }
    return this.functions.get(node);
  }

  scalar(name) {
    const given = this.given[name];
    return given === undefined ? undefined : Number(given);
  }

  // Where an entry lies in its array, as a function; undefined for no array, −1 for no place in it.
  place(letter, index) {
    const array = this.array(letter);
    if (!array) return () => undefined;
    const hasLead = index.length && index[0].kind === "index" && index[0].name === "n";
    const own = (hasLead ? index.slice(1) : index).map((part) => this.function(part));
    const { shape, data } = array;
    const axes = own.length ? shape.slice(-own.length) : [];
    const rows = data.length / size(axes); // of the leading axes, as one
    return (env) => {
      let flat = hasLead ? env.n : 0;
      if (hasLead && !(flat >= 0 && flat < rows)) return -1;
      for (let i = 0; i < own.length; i += 1) {
        const at = own[i](env);
        if (!(at >= 0 && at < axes[i])) return -1;
        flat = flat * axes[i] + at;
      }
      return flat;
    };
  }

  // The indices of a local that an index stands in, as a function.
  indices({ index }) {
    const parts = index.map((part) => this.function(part));
    return (env) => parts.map((part) => part(env));
  }

  // The value of a local that was asked for.
  known(name, at) {
    return this.memo.get(name).get(keyOf(at));
  }

  inside(name, at) {
    return Object.fromEntries(this.locals[name].index.map((index, i) => [index, at[i]]));
  }

  holds(node, env) {
    return this.test(node)(env);
  }

  test(node) {
    if (node.kind === "all") {
      const parts = node.of.map((part) => this.test(part));
      return (env) => parts.every((part) => part(env));
    }
    const of = node.of.map((part) => this.function(part));
    const compare = node.signs.map((sign) => COMPARE[sign]);
    if (of.length === 2) return (env) => compare[0](of[0](env), of[1](env));
    return (env) => {
      const values = of.map((part) => part(env));
      return compare.every((holds, i) => holds(values[i], values[i + 1]));
    };
  }

  size([letter, axis, own]) {
    if (letter === "given") return this.scalar(axis);
    const { shape } = this.array(letter);
    return axis === "lead" ? size(shape.slice(0, shape.length - own)) : shape[shape.length + axis];
  }

  // A function that calls visit for each place at which the condition of a reduction holds, and returns how many there are.
  each({ name, range, where }) {
    const test = where ? this.test(where) : null;
    return (env, visit) => {
      const inner = { ...env };
      const n = this.size(range);
      let count = 0;
      for (inner[name] = 0; inner[name] < n; inner[name] += 1) {
        if (test && !test(inner)) continue;
        if (visit) visit(inner);
        count += 1;
      }
      return count;
    };
  }

  // Those places in a list.
  places(node, env) {
    const all = [];
    this.each(node)(env, (inner) => all.push({ ...inner }));
    return all;
  }
}

// Each kind of node as a function of the indices.
const VALUES = {
  number: (run, { value }) => () => value,
  constant: () => () => Math.PI,
  index: (run, { name }) => (env) => env[name],
  given(run, { name }) {
    const value = run.scalar(name);
    return () => value;
  },
  entry(run, { array: letter, index }) {
    const { data, isIds } = run.array(letter) || {};
    const place = run.place(letter, index);
    const none = isIds ? -1 : NaN;
    return (env) => {
      const at = place(env);
      if (at === undefined) return undefined;
      return at < 0 ? none : data[at];
    };
  },
  local(run, node) {
    const { name, index } = node;
    if (name in run.given) return run.function(index.length ? { kind: "entry", array: name, index } : { kind: "given", name });
    const known = run.memo.get(name);
    const indices = run.indices(node);
    return (env) => {
      const at = indices(env);
      const key = keyOf(at);
      if (!known.has(key)) {
        if (!run.met.has(name)) run.met.set(name, []);
        run.met.get(name).push(at);
        known.set(key, run.value(run.locals[name].of, run.inside(name, at)));
      }
      return known.get(key);
    };
  },
  minus(run, node) {
    const of = run.function(node.of);
    return (env) => {
      const value = of(env);
      return value === undefined ? value : -value;
    };
  },
  binary(run, { sign, left, right }) {
    const [first, second] = [run.function(left), run.function(right)];
    const operate = OPERATE[sign];
    return (env) => {
      const [a, b] = [first(env), second(env)];
      return a === undefined || b === undefined ? withoutOne(sign, a, b) : operate(a, b);
    };
  },
  call(run, node) {
    const of = run.function(node.of);
    const [f] = FUNCTIONS[node.function];
    return (env) => {
      const value = of(env);
      return value === undefined ? value : f(value);
    };
  },
  choice(run, { test, yes, no }) {
    const [holds, first, second] = [run.test(test), run.function(yes), run.function(no)];
    return (env) => (holds(env) ? first : second)(env);
  },
  over(run, node) {
    const of = run.function(node.of);
    const each = run.each(node);
    const isMax = node.reduction === "max";
    return (env) => {
      let total = isMax ? -Infinity : 0;
      let isAbsent = false;
      const count = each(env, (inner) => {
        const value = of(inner);
        if (value === undefined) isAbsent = true;
        else if (!isMax) total += value;
        else if (value > total || Number.isNaN(value)) total = value;
      });
      if (isAbsent) return undefined;
      return node.reduction === "mean" ? total / count : total;
    };
  },
};

N.Run = Run;
N.formula = { FUNCTIONS, keyOf };

const size = (shape) => shape.reduce((product, n) => product * n, 1);
