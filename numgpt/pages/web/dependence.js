// What a number of a formula is made of: the weight of each entry of an array, by the tree gone through backwards.

const { FUNCTIONS, keyOf } = N.formula;

// How a result depends on the entries of arrays: locals come after all that use them. As in a Run, each node is turned
// once into a function.
class Dependence {
  constructor(run) {
    this.run = run;
    this.weights = {}; // letter → Map of place → weight
    this.ofLocals = Object.fromEntries(run.formula.locals.map(({ name }) => [name, new Map()]));
    this.functions = new Map(); // node → what spreads a weight over what it is made of
  }

  of(env) {
    const { formula } = this.run;
    this.function(formula.of)(env, 1);
    for (const { name, of } of [...formula.locals].reverse()) {
      for (const { at, weight } of this.ofLocals[name].values()) this.function(of)(this.run.inside(name, at), weight);
    }
    return this.weights;
  }

  function(node) {
    if (!this.functions.has(node)) this.functions.set(node, (SPREADS[node.kind] || nowhere)(this, node));
    return this.functions.get(node);
  }
}

const nowhere = () => () => {}; // what is no array

// Each kind of node as a function of the indices and of the weight of its value.
const SPREADS = {
  entry(dependence, { array: letter, index }) {
    const { run, weights } = dependence;
    const array = run.array(letter);
    if (!array || !array.name) return () => {};
    const place = run.place(letter, index);
    return (env, weight) => {
      const at = place(env);
      if (at < 0) return;
      const known = (weights[letter] ||= new Map());
      known.set(at, (known.get(at) || 0) + weight);
    };
  },
  local(dependence, node) {
    if (node.name in dependence.run.given) return () => {};
    const known = dependence.ofLocals[node.name];
    const indices = dependence.run.indices(node);
    return (env, weight) => {
      const at = indices(env);
      const key = keyOf(at);
      if (!known.has(key)) known.set(key, { at, weight: 0 });
      known.get(key).weight += weight;
    };
  },
  minus(dependence, node) {
    const of = dependence.function(node.of);
    return (env, weight) => of(env, -weight);
  },
  binary(dependence, { sign, left, right }) {
    if (sign === "//" || sign === "%") return () => {};
    const [first, second] = [left, right].map((node) => dependence.run.function(node));
    const [toFirst, toSecond] = [left, right].map((node) => dependence.function(node));
    const weigh = WEIGHTS[sign];
    return (env, weight) => {
      const [a, b] = [first(env), second(env)];
      if (a === undefined || b === undefined) {
        if (a !== undefined) toFirst(env, weight);
        else if (b !== undefined && sign !== "/") toSecond(env, sign === "-" ? -weight : weight);
        return;
      }
      const [ofFirst, ofSecond] = weigh(a, b, weight);
      toFirst(env, ofFirst);
      if (ofSecond !== undefined) toSecond(env, ofSecond);
    };
  },
  call(dependence, node) {
    const argument = dependence.run.function(node.of);
    const of = dependence.function(node.of);
    const [f, slope] = FUNCTIONS[node.function];
    return (env, weight) => {
      const value = argument(env);
      if (value !== undefined) of(env, weight * slope(value, f(value)));
    };
  },
  choice(dependence, { test, yes, no }) {
    const holds = dependence.run.test(test);
    const asked = test.of.filter((part) => part.kind !== "compare").map((part) => dependence.function(part));
    const [first, second] = [dependence.function(yes), dependence.function(no)];
    return (env, weight) => {
      for (const part of asked) part(env, 0); // what it depends on, too
      (holds(env) ? first : second)(env, weight);
    };
  },
  over(dependence, node) {
    const { run } = dependence;
    const [each, value, of] = [run.each(node), run.function(node.of), dependence.function(node.of)];
    if (node.reduction === "max") {
      return (env, weight) => {
        let best = null;
        let most; // the value there
        each(env, (inner) => {
          const here = value(inner);
          if (best === null || here > most) [best, most] = [{ ...inner }, here];
          of(inner, 0);
        });
        if (best !== null) of(best, weight);
      };
    }
    return (env, weight) => {
      const all = node.reduction === "mean" ? each(env) : 1;
      each(env, (inner) => of(inner, weight / all));
    };
  },
};

// The weights of both sides of an operation.
const WEIGHTS = {
  "+": (a, b, weight) => [weight, weight],
  "-": (a, b, weight) => [weight, -weight],
  "*": (a, b, weight) => [weight * b, weight * a],
  "/": (a, b, weight) => [weight / b, (-weight * a) / (b * b)],
  "**": (a, b, weight) => [weight * b * a ** (b - 1)], // exponents are numbers
};

N.Dependence = Dependence;
