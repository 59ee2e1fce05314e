// A map of patches as a table: what each cell brings back is said where one points, or walks by keys.

const S = (key, values) => N.strings(`patching.${key}`, values);
const { axes, shape, at, clean, corrupted, tokens } = N.data;
const share = N.floats(N.data.share);
const hasHeads = axes.includes("head");
const byToken = axes.includes("position");
const finite = [...share].filter(Number.isFinite).map(Math.abs);
const most = Math.max(...finite, 0) || 1;

// The rows from the bottom: layers, or each head of each; and the columns: tokens, heads, or one for all.
const rows = [];
for (let layer = 0; layer < shape[0]; layer += 1) {
  if (hasHeads && byToken) for (let head = 0; head < shape[2]; head += 1) rows.push({ layer, head, name: S("layer_head", { n: layer, head }) });
  else rows.push({ layer, name: S("layer", { n: layer }) });
}
const token = (t) => S("token", { token: N.quoted(t), t });
let columns = [{ name: S("all"), text: S("all") }];
if (byToken) columns = tokens.map((text, t) => ({ name: token(t), text: N.visible(text) }));
else if (hasHeads) columns = [...Array(shape[1]).keys()].map((n) => ({ name: S("head", { n }), text: String(n) }));

const value = ({ layer, head }, column) => (hasHeads && byToken ? share[(layer * shape[1] + column) * shape[2] + head] : share[layer * shape[1] + column]);
const state = { row: 0, column: 0 };
let largest = -1;
rows.forEach((row, r) =>
  columns.forEach((_, c) => {
    if (Math.abs(value(row, c)) > largest) {
      largest = Math.abs(value(row, c));
      Object.assign(state, { row: r, column: c });
    }
  }),
);
const asked = N.fromAddress();
if (rows[asked.row] && columns[asked.column]) Object.assign(state, { row: asked.row, column: asked.column });
let pointed = null;

// What a cell has room for; of nearly nothing, nothing.
function short(v) {
  if (!Number.isFinite(v)) return "–";
  return Math.abs(v) < 0.005 ? "" : N.fixed(v, 2).replace(/^(−?)0\./, "$1.");
}
const cells = rows.map((row, r) =>
  columns.map((column, c) => {
    const v = value(row, c);
    const label = S("cell", { row: row.name, column: column.name, share: Number.isFinite(v) ? N.fixed(v) : S("none") });
    return N.el("td", {
      role: "gridcell",
      class: N.shade(v, most),
      "aria-label": label,
      tabindex: -1,
      text: short(v),
      onclick: () => go(r, c),
      onfocus: () => go(r, c),
      onpointerenter: () => show([r, c]),
      onpointerleave: () => show(null),
    });
  }),
);

function table() {
  const top = N.el("tr", {}, N.el("td", {}), ...columns.map(({ text }, c) => N.el("th", { scope: "col", title: columns[c].name }, N.el("bdi", { text }))));
  const lines = rows.map(({ name }, r) => N.el("tr", {}, N.el("th", { scope: "row", text: name }), ...cells[r])).reverse();
  const grid = N.el("table", { id: "grid", class: "patches", role: "grid", "aria-label": S("grid") }, N.el("tbody", {}, ...lines), N.el("tfoot", {}, top));
  grid.addEventListener("keydown", move);
  return N.el("div", { class: "scroll-x" }, grid);
}

function move(event) {
  const by = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const ends = { Home: 0, End: columns.length - 1 }[event.key];
  if ((!by && ends === undefined) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const within = (n, size) => Math.min(size - 1, Math.max(0, n));
  const row = by ? within(state.row + by[0], rows.length) : state.row;
  const column = by ? within(state.column + by[1], columns.length) : ends;
  cells[row][column].focus();
}

function go(row, column) {
  Object.assign(state, { row, column });
  N.toAddress(state);
  show(null);
}

function show(at) {
  pointed = at;
  const [r, c] = pointed || [state.row, state.column];
  const v = value(rows[r], c);
  for (const cell of document.querySelectorAll("td.here")) cell.classList.remove("here");
  cells[r][c].classList.add("here");
  cells.flat().forEach((cell) => (cell.tabIndex = -1));
  cells[state.row][state.column].tabIndex = 0;
  N.id("where").textContent = `${rows[r].name}, ${columns[c].name}`;
  N.id("share").textContent = Number.isFinite(v) ? N.fixed(v, 4) : S("none");
  N.id("metric").textContent = Number.isFinite(v) ? N.fixed(corrupted + v * (clean - corrupted), 4) : S("none");
}

const fact = (key, id, text) => [N.el("dt", { text: S(key) }), N.el("dd", {}, N.el("output", { id, text }))];
N.begin(S("product"));
N.id("room").append(
  N.el(
    "section",
    { class: "box" },
    N.el("h2", { text: S(`title.${at}`) }),
    N.el("p", { class: "quiet", text: S("says") }),
    N.el("div", { class: "found" }, table(), N.el("dl", { class: "facts readings" }, ...fact("where", "where"), ...fact("share", "share"), ...fact("metric", "metric"), ...fact("clean", "clean", N.fixed(clean, 4)), ...fact("corrupted", "corrupted", N.fixed(corrupted, 4)))),
  ),
);
show(null);
N.state = state;
N.done();
