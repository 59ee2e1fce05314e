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

// What rounding of two losses may leave between a gradient and a difference of width h.
function rounding(h, name) {
  const tensor = N.tensor(name);
  const single = N.data.dtype === "float32" && tensor && tensor.grad_norm ? 1e-4 * tensor.grad_norm : 0;
  return (64 * EPS * (loss + 1)) / h + single;
}

// What rounding and the cubic term may leave of each difference, the widest first; Infinity where that is not known.
function limits(name, index, tried) {
  const sorted = [...tried].sort((a, b) => b.h - a.h);
  if (sorted.length === 1) return [[sorted[0], rounding(sorted[0].h, name) + cubic(name, index, sorted[0])]];
  return sorted.slice(1).map((one, n) => {
    const wide = sorted[n];
    // The cubic term falls as h², so where h is small enough the next wider step is apart by about that term of its own.
    const apart = Math.abs(wide.difference - one.difference);
    const settled = apart <= 0.1 * Math.abs(one.difference) + rounding(wide.h, name) + rounding(one.h, name);
    return [one, settled ? rounding(one.h, name) + (apart * one.h) / wide.h : Infinity];
  });
}

// The cubic term of the only width. A norm after a short vector bends the loss within the vector's own length, which
// says nothing of parameters: a bias may be 0.
function cubic(name, index, { h, difference }) {
  const { value, shape } = N.tensor(name) || {};
  const bend = 1000 * h * h;
  if (N.parameters.has(name) || !value || !shape.length) return bend;
  const C = shape[shape.length - 1];
  const from = N.at(shape, index) - index[index.length - 1];
  let squares = 0;
  for (let i = from; i < from + C; i += 1) squares += value[i] ** 2;
  return bend + (Math.abs(difference) * h * h * C) / squares;
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

// isRight is null where every width is too wide or too narrow to tell.
function judged(entry) {
  const known = limits(entry.name, entry.index, entry.tried);
  const [best, limit] = known.reduce((a, b) => (b[1] < a[1] ? b : a));
  const apart = Math.abs(best.difference - best.gradient);
  const isTold = limit < Infinity && !Number.isNaN(best.difference);
  return { ...entry, best, apart, limit, isRight: isTold ? apart <= limit : null };
}
const measured = new Map([...byName.keys()].map((name) => [name, entries(name)]));

// "right", "wrong", or undefined where nothing was measured, or nothing told.
N.verdict = (name) => {
  const told = (measured.get(name) || []).filter((entry) => entry.isRight !== null);
  if (!told.length) return undefined;
  return told.every((entry) => entry.isRight) ? "right" : "wrong";
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
// Whether a gradient is right as far as one can tell: so are all that it is made of. What was measured of a wrong one
// may be right by chance, as a fault need not reach each entry.
const cleared = new Map();
function isClear(name) {
  if (!cleared.has(name)) {
    cleared.set(name, true); // steps that read each other, which another program may have written
    cleared.set(name, N.verdict(name) !== "wrong" && sources(name).every(isClear));
  }
  return cleared.get(name);
}
N.faults = (() => {
  const found = [];
  for (const name of measured.keys()) {
    if (N.verdict(name) !== "wrong" || N.isLayer(name)) continue;
    const from = sources(name);
    if (from.length && from.every(isClear)) found.push(...from.filter((op) => !found.includes(op)));
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
  const told = all.filter((entry) => entry.isRight !== null);
  const names = [...measured.keys()].filter((name) => N.verdict(name));
  const wrong = names.filter((name) => N.verdict(name) === "wrong");
  if (!all.length) return N.el("p", { class: "quiet", text: N.strings("check.none") });
  const isRight = !wrong.length;
  const line = N.el("p", { class: `verdict-line ${isRight ? "right" : "wrong"}` }, N.el("b", { text: isRight ? "✓ " : "✗ " }));
  line.append(isRight ? N.strings("check.all_right", { n: told.length, names: names.length }) : N.strings("check.some_wrong", { n: wrong.length, names: names.length }));
  const untold = all.length - told.length;
  if (untold) line.append(" ", N.el("small", { text: N.strings("check.untold", { n: untold }) }));
  const { faults } = N;
  if (faults.length) line.append(" ", N.strings(faults.length > 1 ? "check.faults_at" : "check.fault_at"), " ", ...faults.flatMap((name) => [N.cellLink(name, undefined, "grad"), " "]));
  return line;
}

// How an entry is marked: a sign, and the class of its colour.
function markOf({ isRight }) {
  if (isRight === null) return ["?", "quiet"];
  return isRight ? ["✓", "right"] : ["✗", "wrong"];
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
    const [mark, kind] = markOf(entry);
    const words = entry.isRight === null ? N.strings("check.no_width") : N.strings("check.limit", { limit: N.number(entry.limit, 2), ulps: counted(ulps) });
    card.append(...line(N.strings("check.difference"), N.el("output", { text: N.number(entry.best.difference, 12) }), N.el("small", { text: ` h = ${N.number(entry.best.h, 2)}` })));
    card.append(...line(N.strings("check.apart"), N.el("span", { class: kind, text: `${mark} ${N.number(entry.apart, 2)}` }), N.el("small", { text: ` ${words}` })));
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
      N.el("td", { class: `number ${markOf(entry)[1]}`, text: `${markOf(entry)[0]} ${N.number(entry.apart, 2)}` }),
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
