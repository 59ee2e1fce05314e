// Two traces beside each other: how far each value and gradient is apart, in order, and the first that parts.

const CELLS = 12; // of the largest differences
const SIDES = ["value", "grad"];

let limit = N.data.dtype === "float32" ? 1e-4 : 1e-9;

const other = (name) => (N.data.beside ? N.tensor(name, N.data.beside) : null);

const isAlike = (one, two) => Boolean(two) && String(one.shape) === String(two.shape);

/** {name, value, grad}: ‖Δ‖/‖·‖ of each op in order; null where one of the traces has no such array. */
let rows = null;
function apart() {
  rows ||= N.stepNames.map((name) => {
    const [one, two] = [N.tensor(name), other(name)];
    const of = (which) =>
      isAlike(one, two) && one[which] && two[which] ? N.lab.apart(one[which], two[which]) : null;
    return { name, value: of("value"), grad: of("grad") };
  });
  return rows;
}

const isFar = (x) => x !== null && !(x <= limit);

/** The first value that parts, and the first gradient: the backward begins at the end. */
function firsts() {
  const all = apart();
  return {
    value: all.find((row) => isFar(row.value)),
    grad: [...all].reverse().find((row) => isFar(row.grad)),
  };
}

function summary(panel, first) {
  const line = (which) => {
    const row = first[which];
    const words = N.el("p", { class: "verdict-line" });
    const known = apart().filter((one) => one[which] !== null).length;
    const counts = { n: known, of: apart().length, limit: N.number(limit, 1) };
    if (!row) words.append(N.strings(`beside.${known < counts.of ? "some" : "same"}_${which}`, counts));
    else
      words.append(
        `${N.strings(`beside.first_${which}`)} `,
        N.cellLink(row.name, undefined, which),
        ` (${N.number(row[which], 3)})`,
      );
    return words;
  };
  panel.append(...SIDES.map(line));
}

function table(first) {
  const least = -17;
  const bar = (x, which, isFirst) => {
    const share = x > 0 ? Math.max(0.02, (Math.log10(x) - least) / -least) : 0; // by orders of magnitude
    const mark = isFirst && N.el("span", { class: "badge parts-here", text: N.strings("beside.parts") });
    return N.lab.bar(x, share, which === "value" ? "s0" : "s1", mark);
  };
  const body = apart().map((row) =>
    N.el(
      "tr",
      { "data-first": row === first.value, class: row.name === N.rowOf(N.state.op) ? "here" : "" },
      N.el("th", { scope: "row" }, N.cellLink(row.name)),
      ...SIDES.map((which) => bar(row[which], which, row === first[which])),
    ),
  );
  const heads = ["op", "value_apart", "grad_apart"].map((key) => N.strings(`prompt.${key}`));
  return N.lab.table(N.strings("beside.table"), heads, body);
}

const link = (name, index, which) =>
  N.el("button", {
    type: "button",
    class: "link",
    "aria-label": `${name}[${index.join(", ")}]`,
    text: `[${index.join(", ")}]`,
    onclick: () => N.jump(name, index, which),
  });

/** The cell that is looked at, and those of its array that are farthest apart. */
function cells({ tensor: name, index, which }) {
  const [one, two] = [N.tensor(name), other(name)];
  if (!isAlike(one, two) || !one[which] || !two[which])
    return [N.el("p", { class: "quiet", text: N.strings("beside.not_there", { name }) })];
  const [a, b] = [one[which], two[which]];
  const here = N.at(one.shape, index);
  const order = [...a.keys()].sort((x, y) => Math.abs(b[y] - a[y]) - Math.abs(b[x] - a[x]) || x - y);
  const chosen = [here, ...order.filter((at) => at !== here && a[at] !== b[at]).slice(0, CELLS)];
  const body = chosen.map((at) => {
    const numbers = [a[at], b[at], b[at] - a[at]].map((x, i) =>
      N.el("td", { class: "number", text: N.number(x, i < 2 ? 8 : 3) }),
    );
    return N.el(
      "tr",
      { class: at === here ? "here" : "" },
      N.el("th", { scope: "row" }, link(name, N.index(one.shape, at), which)),
      ...numbers,
    );
  });
  const heads = ["cell", "this", "that", "difference"].map((key) => N.strings(`beside.${key}`));
  return [N.lab.table(N.strings("beside.farthest"), heads, body, { isLow: false })];
}

/** Names that only one of the two has, or that differ in shape. */
function unmatched() {
  const names = new Set([...N.data.names, ...N.data.beside.names]);
  return [...names].filter((name) => !N.data.tensors[name] || !isAlike(N.tensor(name), other(name)));
}

function draw(panel, state) {
  const first = firsts();
  const limits = [1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 1e-1].map((x) => [x, N.number(x, 1)]);
  const choose = (value) => {
    limit = Number(value);
    N.redraw("beside");
    N.id("view").querySelector("select").focus();
  };
  const losses = [N.tensor("loss"), other("loss")].map((loss) => (loss && loss.value ? loss.value[0] : null));
  const titles = [N.data, N.data.beside].map((data) => `${data.title} · ${data.source}`);
  const sides = titles.flatMap((title, i) => [
    N.el("dt", { text: N.strings(i ? "beside.that" : "beside.this") }),
    N.el(
      "dd",
      {},
      N.el("bdi", { text: title }),
      " ",
      N.el("output", { text: losses[i] === null ? "" : `${N.strings("head.loss")} ${N.number(losses[i])}` }),
    ),
  ]);
  panel.append(N.el("dl", { class: "facts" }, ...sides));
  summary(panel, first);
  const alone = unmatched();
  if (alone.length)
    panel.append(
      N.el("p", {
        class: "quiet",
        text: N.strings("beside.unmatched", { n: alone.length, names: alone.slice(0, 4).join(", ") }),
      }),
    );
  panel.append(
    N.el("div", { class: "fields" }, N.lab.field("beside.limit", N.lab.select(limits, limit, choose))),
    N.el(
      "div",
      { class: "columns" },
      N.el("div", {}, N.el("h4", { text: N.strings("beside.table") }), table(first)),
      N.el(
        "div",
        {},
        N.el("h4", {
          text: N.strings("beside.cells", { which: N.strings(`tensor.${state.which}`), name: state.tensor }),
        }),
        ...cells(state),
      ),
    ),
  );
  const row = panel.querySelector("[data-first]"); // the table begins there, and the page stays where it is
  if (row) row.closest(".scroll-y").scrollTop = row.offsetTop - 3 * row.offsetHeight;
}

N.view({ id: "beside", applies: () => Boolean(N.data.beside), draw });
