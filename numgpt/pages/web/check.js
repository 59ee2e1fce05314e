// The check: gradients beside finite differences, how far apart they are, and which op is at fault where they are not equal.

const EPS = 2 ** -52;
const byName = new Map();
for (const raw of N.data.differences) {
  const one = { ...raw, h: Number(raw.h), difference: Number(raw.difference), gradient: Number(raw.gradient) };
  one.key = one.index.join(",");
  if (!byName.has(one.name)) byName.set(one.name, []);
  byName.get(one.name).push(one);
}

// A distance in units of the last place: an integer, as long as one can be read.
const counted = (n) => (n < 1e6 ? n.toLocaleString("en") : N.number(n, 3));

const lossTensor = N.tensor("loss");
const loss = lossTensor && lossTensor.value ? Math.abs(lossTensor.value[0]) : 1;

// What rounding of two losses, and the cubic term, may leave between a gradient and a difference of width h.
function allowed(h, name) {
  const tensor = N.tensor(name);
  const single = N.data.dtype === "float32" && tensor && tensor.grad_norm ? 1e-4 * tensor.grad_norm : 0;
  return (64 * EPS * (loss + 1)) / h + 1000 * h * h + single;
}

// The entries of a name: at each, the widths that were tried, and the one that says most.
function entries(name) {
  const found = new Map();
  for (const one of byName.get(name) || []) {
    if (!found.has(one.key)) found.set(one.key, { name, index: one.index, tried: [] });
    found.get(one.key).tried.push(one);
  }
  return [...found.values()].map(judged);
}

function judged(entry) {
  const limit = (one) => allowed(one.h, entry.name);
  const best = entry.tried.reduce((a, b) => (limit(b) < limit(a) ? b : a));
  const apart = Math.abs(best.difference - best.gradient);
  return { ...entry, best, apart, limit: limit(best), isRight: apart <= limit(best) };
}
const measured = new Map([...byName.keys()].map((name) => [name, entries(name)]));

// "right", "wrong", or undefined where nothing was measured.
N.verdict = (name) => {
  const all = measured.get(name);
  if (!all) return undefined;
  return all.every((entry) => entry.isRight) ? "right" : "wrong";
};

// The ops that turn right gradients into wrong ones: whose own gradient is right, as are all that add to what they write.
function aliases(name) {
  const layers = Object.keys(N.data.steps).filter((other) => N.isLayer(other) && N.rowOf(other) === name);
  return [name, ...layers];
}
function sources(name) {
  const read = aliases(name).flatMap((other) => [...N.readers(other), ...N.users(other)]);
  return [...new Set(read.filter((other) => !N.isLayer(other)))];
}
N.faults = (() => {
  const found = [];
  for (const name of measured.keys()) {
    if (N.verdict(name) !== "wrong" || N.isLayer(name)) continue;
    const from = sources(name);
    if (from.length && from.every((op) => N.verdict(op) !== "wrong")) found.push(...from.filter((op) => !found.includes(op)));
  }
  return found;
})();

N.verdictOf = (name) => {
  if (N.faults.includes(name)) return N.strings("check.fault");
  return N.verdict(name) === "wrong" ? N.strings("check.wrong") : "";
};

N.checkRail = () => {
  for (const name of N.stepNames) {
    const word = N.verdictOf(name);
    const row = N.railRow(name);
    row.dataset.verdict = N.faults.includes(name) ? "fault" : N.verdict(name) || "";
    if (word) row.querySelector(".name").append(N.el("span", { class: "verdict", text: `✗ ${word}` }));
  }
};

function summary() {
  const all = [...measured.values()].flat();
  const wrong = [...measured.keys()].filter((name) => N.verdict(name) === "wrong");
  if (!all.length) return N.el("p", { class: "quiet", text: N.strings("check.none") });
  if (!wrong.length) return N.el("p", { class: "verdict-line right" }, N.el("b", { text: "✓ " }), N.strings("check.all_right", { n: all.length, names: measured.size }));
  const line = N.el("p", { class: "verdict-line wrong" }, N.el("b", { text: "✗ " }), N.strings("check.some_wrong", { n: wrong.length, names: measured.size }));
  if (N.faults.length) line.append(" ", N.strings("check.fault_at"), " ", ...N.faults.flatMap((name) => [N.cellLink(name, undefined, "grad"), " "]));
  return line;
}

const line = (term, ...said) => [N.el("dt", { text: term }), N.el("dd", {}, ...said)];

// One entry: what is claimed, what is measured, and what another program says.
function entryCard(tensor, index, entry) {
  const card = N.el("dl", { class: "facts" });
  const single = N.data.dtype === "float32";
  const grad = entry ? entry.best.gradient : N.entry(tensor.name, index, "grad");
  card.append(...line(N.strings("check.analytic"), N.el("output", { text: N.number(grad, 12) })));
  if (entry) {
    const ulps = N.ulps(entry.best.gradient, entry.best.difference, single);
    const mark = entry.isRight ? "✓" : "✗";
    card.append(...line(N.strings("check.difference"), N.el("output", { text: N.number(entry.best.difference, 12) }), N.el("small", { text: ` h = ${N.number(entry.best.h, 2)}` })));
    card.append(...line(N.strings("check.apart"), N.el("span", { class: entry.isRight ? "right" : "wrong", text: `${mark} ${N.number(entry.apart, 2)}` }), N.el("small", { text: ` ${N.strings("check.limit", { limit: N.number(entry.limit, 2), ulps: counted(ulps) })}` })));
  }
  const { reference } = tensor;
  for (const which of ["value", "grad"]) {
    if (!reference[which]) continue;
    const theirs = reference[which][N.at(tensor.shape, index)];
    const ours = N.entry(tensor.name, index, which);
    const name = N.data.reference_source || N.strings("check.reference");
    card.append(...line(`${name}, ${N.strings(`tensor.${which}`)}`, N.el("output", { text: N.number(theirs, 12) }), N.el("small", { text: ` ${N.strings("check.ulps", { n: counted(N.ulps(ours, theirs, single)) })}` })));
  }
  return card;
}

// The distance over h: too wide a step bends, too narrow a one rounds.
function curve(entry) {
  const points = entry.tried.map((one) => [one.h, Math.abs(one.difference - one.gradient)]).sort((a, b) => a[0] - b[0]);
  const label = N.strings("check.curve", { name: `${entry.name}[${entry.index.join(", ")}]` });
  const figure = N.el("figure", {});
  if (points.every(([, apart]) => apart === 0)) return N.el("p", { text: N.strings("check.equal") });
  figure.append(
    N.chart({ title: label, x: { label: "h", log: true }, y: { label: N.strings("check.apart"), log: true }, series: [{ label, points, mark: "line" }], marks: [{ x: 2 ** -17, label: "ε^⅓" }] }),
    N.el("figcaption", { text: N.strings("check.curve_says") }),
  );
  const rows = points.map(([h, apart]) => N.el("tr", {}, N.el("td", { text: N.number(h, 3) }), N.el("td", { text: N.number(apart, 3) })));
  figure.append(
    N.el("details", {}, N.el("summary", { text: N.strings("check.numbers") }), N.el("table", { class: "plain" }, N.el("thead", {}, N.el("tr", {}, N.el("th", { scope: "col", text: "h" }), N.el("th", { scope: "col", text: N.strings("check.apart") }))), N.el("tbody", {}, ...rows))),
  );
  return figure;
}

// A button that measures an entry here and now, where the page can run the model itself.
const WIDTHS = Array.from({ length: 16 }, (_, n) => 2 ** (-3 - 2 * n));
const live = new Map();
const canRun = () => Boolean(N.engine) && N.lab().reason === null;

function measure(name, index) {
  const at = N.at(N.tensor(name).shape, index);
  const gradient = N.entry(name, index, "grad");
  const tried = WIDTHS.map((h) => ({ name, index, h, gradient, difference: (N.lab.moved(name, at, h) - N.lab.moved(name, at, -h)) / (2 * h) }));
  live.set(`${name}|${index}`, judged({ name, index, tried }));
}

function list(tensor, known, index) {
  const rows = known.map((entry) =>
    N.el(
      "tr",
      { class: entry.index.join() === index.join() ? "here" : "" },
      N.el("td", {}, N.el("button", { type: "button", class: "link", text: `[${entry.index.join(", ")}]`, onclick: () => N.jump(tensor.name, entry.index, "grad") })),
      N.el("td", { class: "number", text: N.number(entry.best.gradient, 6) }),
      N.el("td", { class: "number", text: N.number(entry.best.difference, 6) }),
      N.el("td", { class: `number ${entry.isRight ? "right" : "wrong"}`, text: `${entry.isRight ? "✓" : "✗"} ${N.number(entry.apart, 2)}` }),
    ),
  );
  const heads = ["entry", "analytic", "difference", "apart"].map((key) => N.el("th", { scope: "col", class: key === "entry" ? "" : "number", text: N.strings(`check.${key}`) }));
  return N.el("div", { class: "scroll-x" }, N.el("table", { class: "plain" }, N.el("thead", {}, N.el("tr", {}, ...heads)), N.el("tbody", {}, ...rows)));
}

N.view({
  id: "check",
  applies: () => N.data.differences.length > 0 || Boolean(N.data.reference_source) || Boolean(N.engine),
  draw(panel, { tensor: name, index }) {
    const tensor = N.tensor(name);
    const known = measured.get(name) || [];
    const own = live.get(`${name}|${index}`) || known.find((entry) => entry.index.join() === index.join());
    const best = own || known.find((entry) => entry.tried.length > 2) || known[0];
    const columns = N.el("div", { class: "columns" });
    const left = N.el("div", {});
    left.append(N.el("h4", { text: `${name}[${index.join(", ")}]` }), entryCard(tensor, index, own));
    if (!live.has(`${name}|${index}`) && canRun() && N.entry(name, index, "grad") !== undefined) {
      const ask = () => {
        measure(name, index);
        N.redraw("check");
        N.announce(N.strings("check.measured_now"));
      };
      left.append(N.el("p", {}, N.el("button", { type: "button", text: N.strings("check.measure"), onclick: ask })));
    }
    if (known.length) left.append(N.el("h4", { text: N.strings("check.measured") }), list(tensor, known, index));
    columns.append(left);
    if (best && best.tried.length > 2) columns.append(curve(best));
    panel.append(summary(), columns);
  },
});
