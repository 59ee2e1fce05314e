// Loss by token, and what each block's residual stream would predict by itself: the logit lens.

const tensorOf = (name) => {
  const tensor = N.tensor(name);
  return tensor && tensor.value ? tensor : null;
};

function softmax(logits, from, size) {
  let top = -Infinity;
  for (let v = 0; v < size; v += 1) if (logits[from + v] > top || Number.isNaN(logits[from + v])) top = logits[from + v];
  const probs = new Float64Array(size);
  let sum = 0;
  for (let v = 0; v < size; v += 1) sum += probs[v] = Math.exp(logits[from + v] - top);
  for (let v = 0; v < size; v += 1) probs[v] /= sum;
  return { probs, lse: top + Math.log(sum) };
}

function best(probs, n) {
  return [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, n);
}

// {target, loss, p, best} of each token of the row, from the logits.
let told = null;
N.losses = () => {
  const head = tensorOf("lm_head");
  if (!head) return [];
  const row = N.state.row || 0;
  if (told && told.row === row) return told.list;
  const [T, V] = head.shape.slice(-2);
  const targets = N.targets();
  const list = N.tokens().map((token, t) => {
    const from = (row * T + t) * V;
    const { probs, lse } = softmax(head.value, from, V);
    const target = targets[t];
    const counts = target !== undefined && target >= 0;
    return { token, target: counts ? target : null, loss: counts ? lse - head.value[from + target] : null, p: counts ? probs[target] : null, best: best(probs, 3).map((v) => [v, probs[v]]) };
  });
  told = { row, list };
  return list;
};

function lossTable(panel, state) {
  const list = N.losses();
  const top = Math.max(...list.map((one) => one.loss || 0), 1e-9);
  const rows = list.map((one, t) => {
    const bar = N.el("i", { class: "bar plus" });
    bar.style.setProperty("--share", ((one.loss || 0) / top).toFixed(3));
    const here = N.tensor(state.tensor).axes.indexOf("T");
    return N.el(
      "tr",
      { class: here >= 0 && state.index[here] === t ? "here" : "" },
      N.el("th", { scope: "row" }, N.el("small", { text: String(t) }), " ", N.el("bdi", { text: N.token(one.token) })),
      N.el("td", {}, one.target === null ? "–" : N.el("bdi", { text: N.token(one.target) })),
      N.el("td", { class: "number" }, N.el("span", { class: "barred" }, bar, N.el("b", { text: N.number(one.loss, 4) }))),
      N.el("td", { class: "number", text: one.p === null ? "–" : N.number(one.p, 3) }),
      N.el("td", { class: "guesses" }, ...one.best.map(([v, p]) => N.el("span", { class: v === one.target ? "hit" : "" }, N.el("bdi", { text: N.token(v) }), N.el("small", { text: ` ${(100 * p).toFixed(0)}%` })))),
    );
  });
  const heads = ["token", "target", "loss", "p", "guesses"].map((key) => N.el("th", { scope: "col", class: ["loss", "p"].includes(key) ? "number" : "", text: N.strings(`tokens.${key}`) }));
  panel.append(N.el("h4", { text: N.strings("tokens.by_token") }), N.el("p", { class: "quiet", text: N.strings("tokens.by_token_says") }), N.el("div", { class: "scroll-x" }, N.el("table", { class: "plain losses" }, N.el("thead", {}, N.el("tr", {}, ...heads)), N.el("tbody", {}, ...rows))));
}

// The lens.

function stream() {
  const last = (name) => N.data.steps.ln_f && N.data.steps.ln_f.reads.includes(name);
  const names = ["drop", "wpe", "wte"].filter((name) => tensorOf(name)).slice(0, 1);
  for (let n = 0; tensorOf(`h.${n}`); n += 1) names.push(`h.${n}`);
  return { names, isWhole: names.some(last) };
}

const parameter = (name) => (tensorOf(name) || { value: null }).value;

function normed(x, from, C, isRms, eps, weight, bias) {
  let mean = 0;
  if (!isRms) {
    for (let c = 0; c < C; c += 1) mean += x[from + c];
    mean /= C;
  }
  let variance = 0;
  for (let c = 0; c < C; c += 1) variance += (x[from + c] - mean) ** 2;
  const scale = 1 / Math.sqrt(variance / C + eps);
  const y = new Float64Array(C);
  for (let c = 0; c < C; c += 1) y[c] = (x[from + c] - mean) * scale * weight[c] + (bias ? bias[c] : 0);
  return y;
}

const lens = new Map();
function through(name, row) {
  const key = `${name}|${row}`;
  if (lens.has(key)) return lens.get(key);
  const tensor = tensorOf(name);
  const [T, C] = tensor.shape.slice(-2);
  const weight = parameter("ln_f.weight");
  const bias = parameter("ln_f.bias");
  const head = tensorOf("lm_head.weight") || tensorOf("wte.weight");
  const V = head.shape[0];
  const step = N.data.steps.ln_f;
  const eps = Number((step.options || {}).eps ?? 1e-5);
  const answers = [];
  for (let t = 0; t < T; t += 1) {
    const y = normed(tensor.value, (row * T + t) * C, C, step.op.includes("rms"), eps, weight, bias);
    const logits = new Float64Array(V);
    for (let v = 0; v < V; v += 1) {
      let sum = 0;
      for (let c = 0; c < C; c += 1) sum += y[c] * head.value[v * C + c];
      logits[v] = sum;
    }
    answers.push({ logits, ...softmax(logits, 0, V) });
  }
  lens.set(key, answers);
  return answers;
}
N.lens = (name, row = 0) => through(name, row);

function hasLens() {
  const head = tensorOf("lm_head.weight") || tensorOf("wte.weight");
  return Boolean(N.data.steps.ln_f && parameter("ln_f.weight") && head && head.value && stream().isWhole);
}

function lensTable(panel) {
  const row = N.state.row || 0;
  const targets = N.targets();
  const tokens = N.tokens();
  const rows = stream().names.map((name) => {
    const answers = through(name, row);
    return N.el(
      "tr",
      {},
      N.el("th", { scope: "row" }, N.cellLink(name)),
      ...answers.map(({ probs }, t) => {
        const [v] = best(probs, 1);
        const isHit = v === targets[t];
        const words = N.strings("tokens.lens_cell", { token: N.token(v), p: N.number(probs[v], 3), target: targets[t] >= 0 ? N.token(targets[t]) : "–", q: targets[t] >= 0 ? N.number(probs[targets[t]], 3) : "–" });
        return N.el("td", { class: `${N.level(probs[v], 1)}${isHit ? " hit" : ""}`, title: words }, N.el("bdi", { text: N.token(v) }), N.el("small", { text: `${(100 * probs[v]).toFixed(0)}` }));
      }),
    );
  });
  const top = N.el("tr", {}, N.el("th", { scope: "row", text: N.strings("tokens.token") }), ...tokens.map((token) => N.el("th", { scope: "col" }, N.el("bdi", { text: N.token(token) }))));
  const goal = N.el("tr", { class: "goal" }, N.el("th", { scope: "row", text: N.strings("tokens.target") }), ...tokens.map((_, t) => N.el("td", {}, targets[t] >= 0 ? N.el("bdi", { text: N.token(targets[t]) }) : "–")));
  panel.append(
    N.el("h4", { text: N.strings("tokens.lens") }),
    N.el("p", { class: "quiet", text: N.strings("tokens.lens_says") }),
    N.el("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-label": N.strings("tokens.lens") }, N.el("table", { class: "plain lens" }, N.el("thead", {}, top), N.el("tbody", {}, ...rows, goal))),
  );
}

N.view({
  id: "tokens",
  applies: () => N.losses().length > 0,
  draw(panel, state) {
    if (hasLens()) lensTable(panel);
    lossTable(panel, state);
  },
});
