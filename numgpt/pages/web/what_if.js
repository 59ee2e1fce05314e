// What if this number were another one? The gradient's prediction g δ beside the loss that the engine finds.

const STEPS = 24; // points of the curve on each side of 0
const SHARE = 0.1; // of the prediction: how far the loss may be from it where it still holds

const kept = new Map(); // cell → its curve, as far as it was looked at

/** {name, index, offset, value, gradient, loss(δ)} of the cell that is looked at. */
function cellAt({ tensor, index }) {
  const { run } = N.lab();
  const offset = N.at(N.tensor(tensor).shape, index);
  const cell = {
    name: tensor,
    index,
    offset,
    value: run.value[tensor][offset],
    gradient: run.grad[tensor][offset],
  };
  cell.rise = (delta) => N.lab.moved(tensor, offset, delta) - run.loss;
  const key = `${tensor}:${offset}`;
  if (!kept.has(key)) kept.set(key, { reach: reachOf(cell), at: 0.5 });
  return { ...cell, memory: kept.get(key) };
}

const isOff = (cell, delta) =>
  Math.abs(cell.rise(delta) - cell.gradient * delta) > SHARE * Math.abs(cell.gradient * delta);

/** A reach at whose end the prediction fails on some side: what there is to be seen. */
function reachOf(cell) {
  const array = N.lab().run.value[cell.name];
  let reach = Math.sqrt(array.reduce((sum, x) => sum + x * x, 0) / array.length) || 1;
  if (!Number.isFinite(reach) || !cell.gradient) return 1;
  for (let n = 0; n < 12 && !isOff(cell, reach / 2) && !isOff(cell, -reach / 2); n += 1) reach *= 2;
  for (let n = 0; n < 12 && isOff(cell, reach / 8) && isOff(cell, -reach / 8); n += 1) reach /= 2;
  return Number(reach.toPrecision(2));
}

/** How far from 0 the prediction holds on one side, by bisection; the whole reach where it does not fail. */
function holds(cell, points, side) {
  const outward = points
    .filter(([delta]) => delta * side > 0)
    .sort((a, b) => Math.abs(a[0]) - Math.abs(b[0]));
  const first = outward.findIndex(
    ([delta, rise]) => !(Math.abs(rise - cell.gradient * delta) <= SHARE * Math.abs(cell.gradient * delta)),
  );
  if (first < 0) return { at: outward[outward.length - 1][0], isEnd: true };
  let [good, bad] = [first ? outward[first - 1][0] : 0, outward[first][0]];
  for (let n = 0; n < 12; n += 1) {
    const middle = (good + bad) / 2;
    if (isOff(cell, middle)) bad = middle;
    else good = middle;
  }
  return { at: good, isEnd: false };
}

function curveOf(cell) {
  const { memory } = cell;
  if (memory.drawn !== memory.reach) {
    const places = [...Array(2 * STEPS + 1).keys()].map((n) => ((n - STEPS) / STEPS) * memory.reach);
    memory.points = places.map((delta) => [delta, delta === 0 ? 0 : cell.rise(delta)]);
    memory.holds = [-1, 1].map((side) => holds(cell, memory.points, side));
    memory.drawn = memory.reach;
  }
  return memory;
}

/** The second derivative of the loss along this number, by differences near 0. */
function curvature(cell) {
  const h = Math.max(1e-4, 1e-3 * Math.abs(cell.value));
  return (cell.rise(h) + cell.rise(-h)) / (h * h);
}

function chart(cell, delta) {
  const { points, reach } = cell.memory;
  const [low, high] = cell.memory.holds;
  const line = [-reach, reach].map((one) => [one, cell.gradient * one]);
  return N.chart({
    title: N.strings("what_if.chart", { name: cell.name, index: cell.index.join(", ") }),
    x: { label: "δ" },
    y: { label: N.strings("what_if.rise") },
    series: [
      { label: N.strings("what_if.actual"), points, mark: "curve" },
      { label: N.strings("what_if.predicted"), points: line, mark: "curve" },
      { label: N.strings("what_if.here"), points: [[delta, cell.rise(delta)]], mark: "dot" },
      { label: N.strings("what_if.here_predicted"), points: [[delta, cell.gradient * delta]], mark: "dot" },
    ],
    bands: [{ from: low.at, to: high.at, label: N.strings("what_if.band") }],
    marks: [{ x: delta, label: `δ = ${N.number(delta, 3)}` }],
  });
}

function facts(cell, delta) {
  const [predicted, actual] = [cell.gradient * delta, cell.rise(delta)];
  const row = (key, text) => [N.el("dt", { text: N.strings(key) }), N.el("dd", {}, N.el("output", { text }))];
  return [
    ...row("what_if.number", `${N.number(cell.value)} → ${N.number(cell.value + delta)}`),
    ...row("what_if.predicted_rise", N.number(predicted)),
    ...row("what_if.actual_rise", N.number(actual)),
    ...row("what_if.ratio", predicted === 0 ? "–" : N.number(actual / predicted, 4)),
  ];
}

function sentence(cell) {
  const [low, high] = cell.memory.holds;
  if (!Number.isFinite(cell.gradient) || !Number.isFinite(cell.value)) return N.strings("what_if.no_number");
  if (cell.gradient === 0) return N.strings("what_if.no_slope");
  const values = { low: N.number(low.at, 2), high: N.number(high.at, 2), bend: N.number(curvature(cell), 3) };
  return N.strings(low.isEnd && high.isEnd ? "what_if.holds_all" : "what_if.holds", values);
}

function numbers(cell) {
  const rows = cell.memory.points
    .filter((_, n) => n % 6 === 0)
    .map(([delta, rise]) =>
      N.el(
        "tr",
        {},
        ...[delta, cell.gradient * delta, rise].map((x) =>
          N.el("td", { class: "number", text: N.number(x, 4) }),
        ),
      ),
    );
  const heads = ["δ", N.strings("what_if.predicted"), N.strings("what_if.actual")];
  const head = N.el("tr", {}, ...heads.map((text) => N.el("th", { scope: "col", text })));
  const table = N.el("table", { class: "plain" }, N.el("thead", {}, head), N.el("tbody", {}, ...rows));
  return N.el("details", {}, N.el("summary", { text: N.strings("check.numbers") }), table);
}

function legend() {
  const line = (series, key) =>
    N.el(
      "span",
      {},
      N.svg(
        "svg",
        { class: `chart key`, viewBox: "0 0 28 10", "aria-hidden": "true" },
        N.svg("g", { class: `series ${series}` }, N.svg("path", { d: "M1 5H27" })),
      ),
      N.strings(key),
    );
  return N.el(
    "figcaption",
    { class: "legend-lines" },
    line("s0", "what_if.actual"),
    line("s1", "what_if.predicted"),
  );
}

function slider(cell, update) {
  const { memory } = cell;
  const input = N.el("input", {
    type: "range",
    min: -STEPS,
    max: STEPS,
    step: 1,
    value: Math.round(memory.at * STEPS),
    class: "slider",
    "data-reach": memory.reach,
  });
  const say = () => input.setAttribute("aria-valuetext", `δ = ${N.number(memory.at * memory.reach, 3)}`);
  input.addEventListener("input", () => {
    memory.at = Number(input.value) / STEPS;
    say();
    update();
  });
  say();
  return input;
}

function draw(panel, state) {
  if (!N.lab.isReady(panel)) return;
  if (state.tensor === "loss" || !N.lab().run.grad[state.tensor]) {
    panel.append(N.el("p", { class: "quiet", text: N.strings("what_if.choose") }));
    return;
  }
  const holder = N.el("div", { class: "columns" });
  panel.append(
    N.el("h4", { text: N.strings("what_if.title", { name: state.tensor, index: state.index.join(", ") }) }),
    N.el("p", { class: "quiet", text: N.strings("what_if.says") }),
    holder,
  );
  N.lab.soon(holder, () => fill(holder, cellAt(state)));
}

/** The curve, its slider and what they say. */
function fill(holder, cell) {
  const { memory } = cell;
  curveOf(cell);
  const figure = N.el("figure", {});
  const list = N.el("dl", { class: "facts" });
  const update = () => {
    const delta = memory.at * memory.reach;
    figure.replaceChildren(chart(cell, delta), legend());
    list.replaceChildren(...facts(cell, delta));
  };
  const button = (factor, key) => {
    const scale = () => {
      memory.reach = Number((memory.reach * factor).toPrecision(3));
      fill(holder, cell);
      holder.querySelector(`[data-factor="${factor}"]`).focus();
    };
    const props = { type: "button", class: "small", "data-factor": factor, onclick: scale };
    return N.el("button", { ...props, text: N.strings(key) });
  };
  update();
  holder.replaceChildren(
    N.el("div", {}, figure, numbers(cell)),
    N.el(
      "div",
      {},
      N.lab.field("what_if.delta", slider(cell, update)),
      N.el("div", { class: "buttons" }, button(0.5, "what_if.closer"), button(2, "what_if.further")),
      list,
      N.el("p", { class: "verdict-line", text: sentence(cell) }),
    ),
  );
}

N.view({ id: "what_if", applies: () => Boolean(N.engine), draw });
