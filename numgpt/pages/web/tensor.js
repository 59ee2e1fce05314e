// A tensor as value and gradient side by side: a table of numbers, and beyond 1,500 cells a map with a window of it.

const MOST = 1500; // cells of a whole table
const WINDOW = 16; // rows and columns of a window
const FOLD = 32; // columns of a vector that is folded
const CHUNK = 500; // cells that are written at once; what is more comes in the next moments
const MAP = 256; // cells from which on there is a map
const FINEST = 1024; // rows and columns of a map
const WHICH = ["value", "grad"];

const panel = N.id("tensor");
let shown = ""; // what the tables show: tensor, slice and window
let geometry = null;
let range = null; // {top, left, rows, cols} of the window
const panes = {};

// How a tensor lies on the page: its last two axes as rows and columns, a vector folded.
function lie(tensor, index) {
  const { shape, axes } = tensor;
  const n = shape.length;
  if (n < 2) {
    const size = n ? shape[0] : 1;
    const cols = size > 2 * FOLD ? FOLD : size;
    const rows = Math.ceil(size / cols) || 1;
    const at = (r, c) => (r * cols + c < size ? r * cols + c : -1);
    const place = n ? [Math.floor(index[0] / cols), index[0] % cols] : [0, 0];
    return { rows, cols, at, place, index: (r, c) => (n ? [r * cols + c] : []), row: "", col: n ? axes[0] : "", folded: rows > 1, slices: [] };
  }
  const [rows, cols] = shape.slice(-2);
  const lead = index.slice(0, -2);
  const base = N.at(shape.slice(0, -2), lead) * rows * cols;
  const slices = lead.map((at, axis) => ({ axis, at, letter: axes[axis], size: shape[axis] })).filter((one) => one.size > 1);
  return {
    rows,
    cols,
    at: (r, c) => base + r * cols + c,
    place: index.slice(-2),
    index: (r, c) => [...lead, r, c],
    row: axes[n - 2],
    col: axes[n - 1],
    slices,
  };
}

// The word for a place on an axis: a token, or its number.
N.label = (axis, at) => {
  if (axis === "T" || axis === "S") {
    const tokens = N.tokens();
    return at < tokens.length ? N.token(tokens[at]) : String(at);
  }
  if (axis === "V" && N.data.texts[String(at)] !== undefined) return N.token(at);
  return String(at);
};
const isToken = (axis) => ["T", "S", "V"].includes(axis);

function windowOf({ rows, cols, place }) {
  if (rows * cols <= MOST) return { top: 0, left: 0, rows, cols };
  const begin = (at, size, old, span) => {
    if (old !== undefined && at >= old && at < old + span && old + span <= size) return old;
    return Math.max(0, Math.min(size - span, at - (span >> 1)));
  };
  const height = Math.min(rows, WINDOW);
  const width = Math.min(cols, WINDOW);
  const same = range && range.of === `${rows}x${cols}` ? range : {};
  return { top: begin(place[0], rows, same.top, height), left: begin(place[1], cols, same.left, width), rows: height, cols: width, of: `${rows}x${cols}` };
}

// Tables.

const headRow = () => `<thead><tr><td></td>${"<th scope=col></th>".repeat(range.cols)}</tr></thead><tbody></tbody>`;

function bodyRows(array, top, from, to) {
  const parts = [];
  const isWindow = range.rows * range.cols < geometry.rows * geometry.cols;
  for (let r = from; r < to; r += 1) {
    parts.push(isWindow ? `<tr aria-rowindex=${range.top + r + 2}>` : "<tr>", "<th scope=row></th>");
    for (let c = 0; c < range.cols; c += 1) {
      const at = geometry.at(range.top + r, range.left + c);
      if (at < 0) parts.push('<td class="none"></td>');
      else parts.push(`<td role=gridcell tabindex=-1${isWindow ? ` aria-colindex=${range.left + c + 2}` : ""} class=${N.level(array[at], top)}>${N.short(array[at])}</td>`);
    }
    parts.push("</tr>");
  }
  return parts.join(""); // numbers and names of classes alone
}

// A table made aside, as many rows at once as keep the page at hand, and put in its place when it is whole: a
// table on the page would be laid out anew with each of them.
function* written(pane, array, top) {
  const made = N.el("table", {});
  made.innerHTML = headRow();
  columns(made);
  const span = Math.max(1, Math.floor(CHUNK / range.cols));
  for (let from = 0; from < range.rows; from += span) {
    const to = Math.min(range.rows, from + span);
    made.tBodies[0].insertAdjacentHTML("beforeend", bodyRows(array, top, from, to));
    headings(made, from, to);
    if (to < range.rows) yield;
  }
  pane.table.style.setProperty("--cols", range.cols);
  pane.table.replaceChildren(...made.children);
}

let version = 0;
let settling = Promise.resolve();
N.settled = () => settling; // until both tables show what the state says

const moment = () => new Promise((resolve) => setTimeout(resolve));

async function settle(works, mine) {
  const had = WHICH.find((which) => panes[which].table.contains(document.activeElement));
  for (const which of WHICH) panes[which].scroller.setAttribute("aria-busy", "true");
  if (range.rows * range.cols > CHUNK / 2) await moment();
  while (works.length && mine === version) {
    works = works.filter((work) => !work.next().done);
    if (works.length && range.rows * range.cols > CHUNK / 2) await moment();
  }
  if (mine !== version) return;
  for (const which of WHICH) panes[which].scroller.removeAttribute("aria-busy");
  select();
  if (had && document.activeElement === document.body) focus(had);
}

function columns(table) {
  const [head] = table.tHead.rows;
  for (let c = 0; c < range.cols; c += 1) {
    const cell = head.cells[c + 1];
    cell.textContent = geometry.folded ? c : N.label(geometry.col, range.left + c);
    if (isToken(geometry.col)) cell.title = `${geometry.col} ${range.left + c}`;
  }
}

function headings(table, from, to) {
  for (let r = from; r < to; r += 1) {
    const cell = table.tBodies[0].rows[r].cells[0];
    const at = range.top + r;
    if (geometry.folded) cell.textContent = at * geometry.cols;
    else if (geometry.row) {
      cell.append(N.el("bdi", { text: N.label(geometry.row, at) }));
      if (isToken(geometry.row)) cell.append(N.el("small", { text: String(at) }));
    }
  }
}

const tdAt = (table, [r, c]) => {
  const row = table.tBodies.length ? table.tBodies[0].rows[r - range.top] : undefined;
  return row ? row.cells[c - range.left + 1] : null;
};

function named(which, index) {
  const tensor = N.tensor(N.state.tensor);
  const places = tensor.axes.map((axis, i) => (tensor.shape[i] > 1 || axis !== "B" ? N.strings(isToken(axis) ? "tensor.at_token" : "tensor.at", { axis, n: index[i], token: N.label(axis, index[i]) }) : ""));
  const numbers = WHICH.map((one) => `${N.strings(`tensor.${one}`)} ${N.number(N.entry(tensor.name, index, one))}`);
  if (which === "grad") numbers.reverse();
  return [...numbers, ...places.filter(Boolean)].join(", ");
}

function select() {
  for (const which of WHICH) mark(which);
  N.whenDrawn(scroll);
}

// Both tables are measured before either is scrolled.
function scroll() {
  const marked = WHICH.map((which) => [panes[which], tdAt(panes[which].table, geometry.place)]).filter(([, cell]) => cell);
  const seen = marked.map(([{ scroller }, cell]) => scrolled(scroller, cell));
  return () => {
    marked.forEach(([{ scroller }], n) => {
      if (seen[n].left !== scroller.scrollLeft) scroller.scrollLeft = seen[n].left;
      if (seen[n].top !== scroller.scrollTop) scroller.scrollTop = seen[n].top;
    });
    frames();
  };
}

// The cell that is looked at in a table, marked as such.
function mark(which) {
  const { box, table } = panes[which];
  for (const old of table.querySelectorAll(".here, .across")) old.classList.remove("here", "across");
  for (const old of table.querySelectorAll('td[tabindex="0"]')) {
    old.tabIndex = -1;
    old.removeAttribute("aria-label");
    old.removeAttribute("aria-selected");
  }
  box.classList.toggle("active", N.state.which === which);
  const cell = tdAt(table, geometry.place);
  if (!cell) return;
  cell.classList.add("here");
  cell.setAttribute("aria-selected", "true");
  cell.setAttribute("aria-label", named(which, N.state.index));
  cell.tabIndex = 0;
  cell.parentNode.cells[0].classList.add("across");
  table.tHead.rows[0].cells[cell.cellIndex].classList.add("across");
}

// Where to scroll a table, and never the page, so that a cell can be seen.
function scrolled(scroller, cell) {
  let { scrollLeft: left, scrollTop: top } = scroller;
  const { offsetLeft: x, offsetTop: y, offsetWidth: width, offsetHeight: height } = cell;
  const first = cell.parentNode.cells[0].offsetWidth;
  const head = cell.closest("table").tHead.offsetHeight;
  if (x - left < first) left = x - first;
  else if (x + width > left + scroller.clientWidth) {
    left = Math.ceil((x + width - scroller.clientWidth) / width) * width; // whole columns
  }
  if (y - top < head) top = y - head;
  else if (y + height > top + scroller.clientHeight) top = y + height - scroller.clientHeight;
  return { left, top };
}

// Maps.

const colours = {};
N.colourOf = (level) => {
  if (!colours[level]) {
    const probe = N.el("i", { class: `${level} probe` });
    document.body.append(probe);
    const [r, g, b] = (getComputedStyle(probe).backgroundColor.match(/[\d.]+/g) || [128, 128, 128]).map(Number);
    const isShare = getComputedStyle(probe).backgroundColor.startsWith("color(");
    colours[level] = isShare ? [r, g, b].map((x) => Math.round(255 * x)) : [r, g, b];
    probe.remove();
  }
  return colours[level];
};
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", () => {
    for (const key of Object.keys(colours)) delete colours[key];
    shown = "";
    N.tensorDraw();
  });
}

N.paint = (canvas, { rows, cols, at }, array, top) => {
  const stepR = Math.ceil(rows / FINEST);
  const stepC = Math.ceil(cols / FINEST);
  canvas.width = Math.ceil(cols / stepC);
  canvas.height = Math.ceil(rows / stepR);
  const image = new ImageData(canvas.width, canvas.height);
  for (let r = 0, i = 0; r < rows; r += stepR) {
    for (let c = 0; c < cols; c += stepC, i += 4) {
      let x = 0;
      for (let y = r; y < Math.min(rows, r + stepR); y += 1) {
        for (let z = c; z < Math.min(cols, c + stepC); z += 1) {
          const place = at(y, z);
          if (place >= 0 && !(Math.abs(array[place]) <= Math.abs(x))) x = array[place]; // the largest, or NaN
        }
      }
      const [red, green, blue] = N.colourOf(N.level(x, top));
      image.data.set([red, green, blue, 255], i);
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
};

// The parts of both maps that the tables show: measured, then drawn.
function frames() {
  const parts = WHICH.map((which) => [panes[which].map, part(panes[which])]);
  for (const [map, seen] of parts) if (seen) frame(map, seen);
}

function part({ map, scroller, table }) {
  if (map.hidden) return null;
  const { rows, cols } = geometry;
  let [top, left, height, width] = [range.top, range.left, range.rows, range.cols];
  if (range.rows === rows && range.cols === cols && table.tBodies.length) {
    const cell = table.tBodies[0].rows[0].cells[1];
    if (!cell.offsetWidth) return null;
    top = scroller.scrollTop / cell.offsetHeight;
    left = scroller.scrollLeft / cell.offsetWidth;
    height = Math.min(rows, (scroller.clientHeight - table.tHead.offsetHeight) / cell.offsetHeight);
    width = Math.min(cols, (scroller.clientWidth - cell.parentNode.cells[0].offsetWidth) / cell.offsetWidth);
  }
  return [top, left, height, width];
}

function frame(map, [top, left, height, width]) {
  const { rows, cols } = geometry;
  const mark = map.querySelector(".frame");
  const share = (x, of) => `${((100 * x) / of).toFixed(2)}%`;
  Object.assign(mark.style, { top: share(top, rows), left: share(left, cols), height: share(height, rows), width: share(width, cols) });
  mark.hidden = height >= rows && width >= cols;
  const here = map.querySelector(".dot");
  Object.assign(here.style, { top: share(geometry.place[0] + 0.5, rows), left: share(geometry.place[1] + 0.5, cols) });
}

// Drawing.

function fill(which, tensor) {
  const pane = panes[which];
  const array = tensor[which];
  const size = which === "grad" ? tensor.grad_norm : tensor.norm;
  pane.norm.textContent = size === null ? "" : `‖ ‖ ${N.number(size, 4)}`;
  pane.scroller.hidden = !array;
  pane.legend.hidden = !array;
  pane.map.hidden = !array || geometry.rows * geometry.cols < MAP;
  pane.absent.hidden = Boolean(array);
  if (!array) {
    pane.table.replaceChildren();
    pane.absent.replaceChildren(...absent(tensor, which));
    return null;
  }
  const top = N.top(array);
  pane.table.setAttribute("aria-rowcount", geometry.rows + 1);
  pane.table.setAttribute("aria-colcount", geometry.cols + 1);
  pane.table.setAttribute("aria-label", N.strings("tensor.grid", { which: N.strings(`tensor.${which}`), name: tensor.name }));
  pane.table.classList.toggle("window", range.rows * range.cols < geometry.rows * geometry.cols);
  pane.legendText[0].textContent = top ? `−${N.number(top, 3)}` : "";
  pane.legendText[1].textContent = top ? `+${N.number(top, 3)}` : "";
  if (!pane.map.hidden) {
    N.paint(pane.canvas, geometry, array, top);
    pane.map.style.aspectRatio = `${geometry.cols} / ${Math.max(geometry.rows, geometry.cols / 14)}`;
  }
  return written(pane, array, top);
}

// What stands in the place of an array that is not here: its largest entries, or that there is none.
function absent(tensor, which) {
  const known = (tensor.largest || []).filter((one) => one[which] !== null);
  if (!known.length) return [N.el("p", { text: N.strings(which === "grad" ? "tensor.no_grad" : "tensor.no_value") })];
  known.sort((a, b) => Math.abs(Number(b[which])) - Math.abs(Number(a[which])));
  const rows = known.map((one) => {
    const open = () => N.jump(tensor.name, one.index, which);
    const link = N.el("button", { type: "button", class: "link", text: `[${one.index.join(", ")}]`, onclick: open });
    return N.el("li", {}, link, N.el("span", { class: "number", text: N.number(Number(one[which])) }));
  });
  const list = N.el("ol", { class: "largest" }, ...rows);
  N.rove(list, ".link")();
  return [N.el("p", { text: N.strings("tensor.largest", { n: known.length }) }), list];
}

function slices(tensor) {
  const holder = N.id("slices");
  holder.replaceChildren(
    ...geometry.slices.map(({ axis, at, letter, size }) => {
      const isHead = N.headAxis(tensor) === axis;
      const word = isHead ? N.strings("tensor.head") : letter;
      const by = (step) => () => {
        const index = [...N.state.index];
        index[axis] = (at + step + size) % size;
        N.go({ index });
      };
      return N.el(
        "span",
        { class: "slice", role: "group", "aria-label": word },
        N.el("button", { type: "button", class: "small", text: "‹", "aria-label": N.strings("tensor.less", { axis: word }), onclick: by(-1) }),
        N.el("span", { text: N.strings("tensor.of", { axis: word, n: at, size }) }),
        N.el("button", { type: "button", class: "small", text: "›", "aria-label": N.strings("tensor.more", { axis: word }), onclick: by(1) }),
        isHead ? N.el("kbd", { text: "[ ]", "aria-hidden": "true" }) : null,
      );
    }),
  );
}

function readout(tensor, index) {
  const places = tensor.axes.map((axis, i) => {
    if (axis === "B" && tensor.shape[i] === 1) return null;
    return N.el("span", { class: "place" }, N.el("i", { text: axis }), ` ${index[i]} `, isToken(axis) ? N.el("bdi", { text: N.label(axis, index[i]) }) : null);
  });
  N.id("place").replaceChildren(N.el("code", { text: `${tensor.name}[${index.join(", ")}]` }), ...places.filter(Boolean));
  for (const which of WHICH) {
    const x = N.entry(tensor.name, index, which);
    const array = tensor[which];
    const level = x === undefined || !array ? "p0" : N.level(x, N.top(array));
    const box = N.id(`read-${which}`);
    box.querySelector(".swatch").className = `swatch ${level}`;
    box.querySelector("output").textContent = N.number(x, 8);
    box.querySelector("output").title = N.exact(x);
  }
}

N.tensorDraw = () => {
  const { index } = N.state;
  const tensor = N.tensor(N.state.tensor);
  geometry = lie(tensor, index);
  range = windowOf(geometry);
  const key = [tensor.name, geometry.slices.map((one) => one.at), range.top, range.left].join("|");
  if (key !== shown) {
    shown = key;
    N.id("tensor-name").textContent = tensor.name;
    N.id("tensor-axes").replaceChildren(
      ...tensor.axes.map((axis, i) => N.el("span", { class: "axis" }, N.el("i", { text: axis === String(tensor.shape[i]) ? "" : axis }), String(tensor.shape[i]))),
    );
    N.id("edited").hidden = !N.data.edited.includes(tensor.name);
    slices(tensor);
    version += 1;
    settling = settle(WHICH.map((which) => fill(which, tensor)).filter(Boolean), version);
  }
  readout(tensor, index);
  if (!panes.value.scroller.hasAttribute("aria-busy")) select();
};

// Hands.

function pick(which, r, c, isFocused) {
  if (r < 0 || c < 0 || r >= geometry.rows || c >= geometry.cols || geometry.at(r, c) < 0) return;
  N.go({ index: geometry.index(r, c), which });
  if (isFocused) focus(which);
}

function focus(which) {
  const cell = tdAt(panes[which].table, geometry.place);
  if (cell) cell.focus({ preventScroll: true });
}
N.focusGrid = (which = N.state.which) => focus(panes[which].scroller.hidden ? "value" : which);

function keys(event, which) {
  if (event.altKey || event.metaKey) return;
  const [r, c] = geometry.place;
  const page = Math.min(WINDOW, geometry.rows);
  const far = event.ctrlKey;
  const to = {
    ArrowLeft: [r, c - 1],
    ArrowRight: [r, c + 1],
    ArrowUp: [r - 1, c],
    ArrowDown: [r + 1, c],
    Home: [far ? 0 : r, 0],
    End: [far ? geometry.rows - 1 : r, geometry.cols - 1],
    PageUp: [Math.max(0, r - page), c],
    PageDown: [Math.min(geometry.rows - 1, r + page), c],
  }[event.key];
  if (to) {
    event.preventDefault();
    event.stopPropagation();
    pick(which, to[0], to[1], true);
  } else if (event.key === "Enter") {
    event.preventDefault();
    N.enter();
  }
}

function make(which) {
  const box = N.el("section", { class: `pane of-${which}`, "aria-label": N.strings(`tensor.${which}`) });
  const table = N.el("table", { role: "grid", class: "cells" });
  const scroller = N.el("div", { class: "scroller" }, table);
  const canvas = N.el("canvas", { "aria-hidden": "true" });
  const map = N.el("div", { class: "map", hidden: true }, canvas, N.el("i", { class: "frame" }), N.el("i", { class: "dot" }));
  const norm = N.el("span", { class: "norm-text" });
  const legendText = [N.el("span", {}), N.el("span", {})];
  const steps = [];
  for (let n = N.LEVELS; n > 0; n -= 2) steps.push(`n${n}`);
  steps.push("p0");
  for (let n = 2; n <= N.LEVELS; n += 2) steps.push(`p${n}`);
  const legend = N.el("div", { class: "legend", "aria-hidden": "true" }, legendText[0], N.el("span", { class: "bar" }, ...steps.map((level) => N.el("i", { class: level }))), legendText[1]);
  const none = N.el("div", { class: "absent", hidden: true });
  box.append(N.el("header", {}, N.el("h3", { text: N.strings(`tensor.${which}`) }), norm, legend), map, scroller, none);
  panes[which] = { box, table, scroller, canvas, map, norm, legend, legendText, absent: none };
  table.addEventListener("keydown", (event) => keys(event, which));
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td[role]");
    if (cell) pick(which, cell.parentNode.sectionRowIndex + range.top, cell.cellIndex - 1 + range.left, true);
  });
  table.addEventListener("focusin", () => N.go({ which }));
  map.addEventListener("pointerdown", (event) => {
    const at = map.getBoundingClientRect();
    const share = (x, from, size, n) => Math.max(0, Math.min(n - 1, Math.floor(((x - from) / size) * n)));
    pick(which, share(event.clientY, at.top, at.height, geometry.rows), share(event.clientX, at.left, at.width, geometry.cols), true);
  });
  return box;
}

// Both tables show the same place.
let leader = null;
function together(from, to) {
  from.scroller.addEventListener("scroll", () => {
    if (leader && leader !== from) return;
    leader = from;
    to.scroller.scrollLeft = from.scroller.scrollLeft;
    to.scroller.scrollTop = from.scroller.scrollTop;
    requestAnimationFrame(() => {
      frames();
      leader = null;
    });
  });
}

N.tensorView = () => {
  N.id("panes").append(make("value"), make("grad"));
  together(panes.value, panes.grad);
  together(panes.grad, panes.value);
  N.tensorDraw();
  N.on((state, changed) => {
    if (["tensor", "index", "which", "row"].some((key) => changed.has(key))) N.tensorDraw();
  });
  new ResizeObserver(frames).observe(panel);
};
