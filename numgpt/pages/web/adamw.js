// AdamW for one weight, line by line: what becomes of its gradient until the weight has moved.

// As numgpt's Training has them; clip 0 turns clipping off, and so does null.
const settings = { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, clip: 1, t: 1 };
const walks = new Map(); // cell and settings → the states of its walk

/**
 * One step, in the order of numgpt/training/optim.py: {w, g, m, v} → {factor, g, m, v, mhat, vhat, decayed, w}.
 *
 * norm: of all gradients. isMatrix: whether the weight decays; vectors do not.
 */
N.adamw = ({ w, g, m, v }, { lr, beta1, beta2, eps, weight_decay, clip, t }, norm, isMatrix) => {
  const factor = clip && norm > clip ? clip / norm : 1;
  const clipped = factor === 1 ? g : g * factor;
  const mean = m * beta1 + (1 - beta1) * clipped;
  const square = v * beta2 + (1 - beta2) * clipped * clipped;
  const [mhat, vhat] = [mean / (1 - beta1 ** t), square / (1 - beta2 ** t)];
  const decayed = isMatrix ? w * (1 - lr * weight_decay) : w;
  const moved = (mean / (Math.sqrt(vhat) + eps)) * (lr / (1 - beta1 ** t));
  return { factor, g: clipped, m: mean, v: square, mhat, vhat, decayed, w: decayed - moved };
};

/** √Σ g² over all parameters of the page; null where it does not have all of them. */
let known;
function globalNorm() {
  known ??= { norm: normOf(N.data.parameters.map((name) => N.tensor(name).grad)) };
  return known.norm;
}

function normOf(arrays) {
  if (!arrays.every(Boolean)) return null;
  return Math.sqrt(arrays.reduce((sum, array) => sum + array.reduce((s, x) => s + x * x, 0), 0));
}

/** The weight that is looked at, before the step: a parameter's cell with its gradient and moments. */
function weightAt({ tensor: name, index }) {
  const tensor = N.tensor(name);
  const at = N.at(tensor.shape, index);
  const { m, v } = tensor.moments;
  const before = { w: tensor.value[at], g: tensor.grad[at], m: m ? m[at] : 0, v: v ? v[at] : 0 };
  return { name, index, at, before, hasMoments: Boolean(m && v), isMatrix: tensor.shape.length > 1 };
}

/** {g, norm} where this weight alone is w: anew, by the engine, where that runs the model; else as they were. */
function gradientAt(weight, w, norm) {
  if (!N.engine || N.lab().reason) return { g: weight.before.g, norm };
  const { given } = N.lab();
  const array = given.params[weight.name].slice();
  array[weight.at] = w;
  const { grad } = N.engine.run({ ...given, params: { ...given.params, [weight.name]: array } });
  return { g: grad[weight.name][weight.at], norm: normOf(N.data.parameters.map((name) => grad[name])) };
}

// What is shown.

// Five digits, without the noughts behind them.
const n = (x) =>
  N.number(x, 5)
    .replace(/(\.\d*?)0+(?=e|$)/, "$1")
    .replace(/\.(?=e|$)/, "");
const squared = (x) => (x < 0 ? `(${n(x)})²` : `${n(x)}²`);
const power = (t) => [...String(t)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");

function lines(before, after, norm, isMatrix) {
  const { lr, beta1, beta2, eps, weight_decay: decay, clip, t } = settings;
  const clipping =
    norm === null
      ? N.strings("adamw.no_norm")
      : N.strings(after.factor === 1 ? "adamw.not_clipped" : "adamw.clipped", {
          norm: n(norm),
          clip: n(clip),
          factor: n(after.factor),
        });
  const rest = (beta) => n(Number((1 - beta).toPrecision(12)));
  return [
    ["g", "g · min(1, clip / ‖g‖)", clipping, after.g],
    ["m", "β₁ m + (1 − β₁) g", `${n(beta1)} · ${n(before.m)} + ${rest(beta1)} · ${n(after.g)}`, after.m],
    [
      "v",
      "β₂ v + (1 − β₂) g²",
      `${n(beta2)} · ${n(before.v)} + ${rest(beta2)} · ${squared(after.g)}`,
      after.v,
    ],
    ["m̂", "m / (1 − β₁ᵗ)", `${n(after.m)} / (1 − ${n(beta1)}${power(t)})`, after.mhat],
    ["v̂", "v / (1 − β₂ᵗ)", `${n(after.v)} / (1 − ${n(beta2)}${power(t)})`, after.vhat],
    [
      "w",
      "w − lr λ w",
      isMatrix ? `${n(before.w)} − ${n(lr)} · ${n(decay)} · ${n(before.w)}` : N.strings("adamw.no_decay"),
      after.decayed,
    ],
    [
      "w",
      "w − lr m̂ / (√v̂ + ε)",
      `${n(after.decayed)} − ${n(lr)} · ${n(after.mhat)} / (√${n(after.vhat)} + ${n(eps)})`,
      after.w,
    ],
  ];
}

function lineTable(rows) {
  const heads = ["becomes", "equation", "numbers", "result"].map((key) => N.strings(`adamw.${key}`));
  const body = rows.map(([letter, equation, numbers, result], i) =>
    N.el(
      "tr",
      { class: i === rows.length - 1 ? "total" : "" },
      N.el("th", { scope: "row" }, N.el("b", { text: letter }), " ←"),
      N.el("td", { text: equation }),
      N.el("td", { text: numbers }),
      N.el("td", { class: "number", text: N.number(result, 8) }),
    ),
  );
  return N.lab.table(N.strings("adamw.lines"), heads, body, { name: "adamw-lines", isLow: false });
}

const LABELS = { lr: "lr", beta1: "β₁", beta2: "β₂", eps: "ε", weight_decay: "λ", clip: "clip", t: "t" };
const RANGES = { beta1: [0, 0.999999], beta2: [0, 0.999999], t: [1, 1e6], eps: [1e-30, 1] };

function field(key) {
  const [min, max] = RANGES[key] || [0, 1e6];
  const input = N.el("input", {
    type: "number",
    min,
    max,
    step: key === "t" ? 1 : "any",
    value: settings[key],
    "data-key": key,
  });
  input.addEventListener("change", () => {
    const given = Number(input.value);
    if (input.value !== "" && given >= min && given <= max && (key !== "t" || Number.isInteger(given)))
      settings[key] = given;
    N.redraw("adamw");
    N.id("view").querySelector(`[data-key="${key}"]`).focus();
  });
  return N.el(
    "label",
    { class: "field" },
    N.el("span", { text: `${LABELS[key]}  ${N.strings(`adamw.${key}`)}` }),
    input,
  );
}

/** The states of this weight after more steps, with the gradient where it then is. */
function walkOf(weight, norm) {
  const key = JSON.stringify([weight.name, weight.at, settings]);
  if (!walks.has(key)) walks.set(key, [{ ...weight.before, t: settings.t - 1 }]);
  const states = walks.get(key);
  const onward = (count) => {
    for (let i = 0; i < count; i += 1) {
      const last = states[states.length - 1];
      const isFirst = states.length === 1;
      const now = isFirst ? { g: weight.before.g, norm } : gradientAt(weight, last.w, norm);
      const { w, m, v } = N.adamw(
        { ...last, g: now.g },
        { ...settings, t: last.t + 1 },
        now.norm ?? 0,
        weight.isMatrix,
      );
      states.push({ w, m, v, t: last.t + 1 });
    }
  };
  return { states, onward, restart: () => walks.delete(key) };
}

function walk(weight, norm) {
  const { states, onward, restart } = walkOf(weight, norm);
  const button = (key, act) =>
    N.el("button", {
      type: "button",
      class: "small",
      "data-key": key,
      text: N.strings(`adamw.${key}`),
      onclick: () => {
        act();
        N.redraw("adamw");
        N.id("view").querySelector(`[data-key="${key}"]`).focus();
      },
    });
  const figure = N.chart({
    title: N.strings("adamw.path", { n: states.length - 1 }),
    x: { label: "t" },
    y: { label: "w" },
    series: [{ label: "w", points: states.map(({ t, w }) => [t, w]), mark: "line" }],
    height: 200,
  });
  const anew = N.engine && !N.lab().reason;
  return N.el(
    "div",
    { class: "walk" },
    N.el("h4", { text: N.strings("adamw.walk") }),
    N.el("p", { class: "quiet", text: N.strings(anew ? "adamw.walk_anew" : "adamw.walk_same") }),
    N.el(
      "div",
      { class: "buttons" },
      button("one", () => onward(1)),
      button("ten", () => onward(10)),
      button("restart", restart),
    ),
    states.length > 1 ? figure : null,
  );
}

/** Where the tensor is no parameter: a way to one that the op uses. */
function lead(panel, { op }) {
  const names = (N.data.steps[op] || { parameters: [] }).parameters.filter((name) => N.tensor(name)?.grad);
  panel.append(N.el("p", { class: "quiet", text: N.strings("adamw.choose") }));
  const target = names.length ? names : N.data.parameters.filter((name) => N.tensor(name).grad).slice(0, 3);
  panel.append(
    N.el(
      "div",
      { class: "buttons" },
      ...target.map((name) =>
        N.el("button", {
          type: "button",
          class: "small",
          text: name,
          onclick: () => N.go({ tensor: name }, { push: true }),
        }),
      ),
    ),
  );
}

function draw(panel, state) {
  const tensor = N.tensor(state.tensor);
  if (!N.parameters.has(state.tensor) || !tensor.value || !tensor.grad) {
    lead(panel, state);
    return;
  }
  const weight = weightAt(state);
  const norm = globalNorm();
  const after = N.adamw(weight.before, settings, norm ?? 0, weight.isMatrix);
  panel.append(
    N.el("h4", {
      text: N.strings("adamw.title", { name: weight.name, index: weight.index.join(", "), t: settings.t }),
    }),
    N.el("p", {
      class: "quiet",
      text: N.strings(weight.hasMoments ? "adamw.with_moments" : "adamw.without_moments"),
    }),
    N.el("div", { class: "fields narrow" }, ...Object.keys(settings).map(field)),
    lineTable(lines(weight.before, after, norm, weight.isMatrix)),
    N.el(
      "dl",
      { class: "facts across" },
      N.el("dt", { text: N.strings("adamw.moves") }),
      N.el("dd", {}, N.el("output", { text: n(after.w - weight.before.w) })),
      N.el("dt", { text: N.strings("adamw.in_rates") }),
      N.el(
        "dd",
        {},
        N.el("output", { text: settings.lr ? n((after.w - after.decayed) / settings.lr) : "–" }),
      ),
    ),
    walk(weight, norm),
  );
}

N.view({ id: "adamw", applies: () => N.data.parameters.some((name) => N.data.tensors[name].grad), draw });
