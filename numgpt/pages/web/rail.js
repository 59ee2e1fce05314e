// The rail: every op in its order, with its shape and the norms of value and gradient, along the residual stream.

const list = N.id("rail");
const blockOf = (name) => (name.match(/^h\.(\d+)\./) || [])[1];
const rows = new Map();

// Which part of the stream an op stands at: on it, or on a branch that leaves it and comes back.
function part(name) {
  if (/\.(attn|mlp)\./.test(name)) return "branch";
  const into = N.readers(name).some((reader) => /\.(attn|mlp)\.|\.(attn|mlp)$/.test(reader));
  if (/\.ln_\d$/.test(name) && into && !N.readers(name).some((reader) => /\.(mid|out)$/.test(reader))) return "leave";
  const step = N.data.steps[name];
  if (step && step.reads.length === 2 && step.op === "add") return "merge";
  return "stream";
}

const PATHS = {
  stream: ["M10 0V30"],
  leave: ["M10 0V30", "M10 3C10 14 24 10 24 20V30"],
  branch: ["M10 0V30", "M24 0V30"],
  merge: ["M10 0V30", "M24 0V4C24 12 18 15 13 15"],
};

function gutter(kind) {
  const svg = N.svg("svg", { class: "gutter", viewBox: "0 0 34 30", "aria-hidden": "true" });
  PATHS[kind].forEach((d, n) => svg.append(N.svg("path", { d, class: n ? "off" : "on" })));
  const x = kind === "branch" || kind === "leave" ? 24 : 10;
  const y = kind === "leave" ? 20 : 15;
  if (kind === "merge") {
    svg.append(N.svg("circle", { cx: x, cy: y, r: 6, class: "sum" }));
    svg.append(N.svg("path", { d: "M7 15H13M10 12V18", class: "plus" }));
  } else svg.append(N.svg("circle", { cx: x, cy: y, r: 3.6, class: "node" }));
  return svg;
}

function scaleOf(key) {
  const sizes = N.stepNames.map((name) => N.tensor(name)[key]).filter((x) => x > 0 && x < Infinity);
  const orders = sizes.map(Math.log10);
  const low = Math.min(...orders, 0);
  const high = Math.max(...orders, low + 1);
  return (x) => (x > 0 && x < Infinity ? 0.06 + (0.94 * (Math.log10(x) - low)) / (high - low) : 0);
}

function norm(x, share, label) {
  const shown = x === null ? "" : N.number(x, 3);
  const bar = N.el("i", { class: "bar" });
  bar.style.setProperty("--share", share(x === null ? 0 : x).toFixed(3));
  return N.el("span", { class: `norm ${label}` }, bar, N.el("b", { text: shown }));
}

// In its block and on its branch, the last part of a name says which op it is.
const short = (name) => (blockOf(name) === undefined ? name : name.split(".").pop());

function row(name, scales) {
  const tensor = N.tensor(name);
  const item = N.el(
    "li",
    { class: `row ${part(name)}`, role: "option", id: `op-${N.data.names.indexOf(name)}`, "data-op": name, "aria-selected": "false", tabindex: -1 },
    gutter(part(name)),
    N.el("span", { class: "name" }, N.el("span", { class: "text", text: short(name), title: name }), N.el("span", { class: "role", "aria-hidden": "true" })),
    N.el("span", { class: "shape", text: tensor.shape.filter((n, i) => n !== 1 || tensor.axes[i] !== "B").join("×") || "1" }),
    norm(tensor.norm, scales.value, "of-value"),
    norm(tensor.grad_norm, scales.grad, "of-grad"),
  );
  rows.set(name, item);
  return item;
}

function build() {
  const scales = { value: scaleOf("norm"), grad: scaleOf("grad_norm") };
  let group = null;
  let block;
  for (const name of N.stepNames) {
    const own = blockOf(name);
    if (!group || own !== block) {
      const label = own === undefined ? N.strings(group ? "rail.end" : "rail.start") : N.strings("rail.block", { n: own });
      group = N.el("ul", { role: "group", "aria-label": label });
      list.append(N.el("li", { role: "presentation", class: "group" }, N.el("span", { class: "title", "aria-hidden": "true", text: label }), group));
      block = own;
    }
    group.append(row(name, scales));
  }
}

// What a step reads and writes in the direction of the walk: names of values, and of gradients.
N.traffic = (name, direction) => {
  const step = N.data.steps[name];
  if (!step) return { reads: [], writes: [[name, "value"]] };
  const there = ([other]) => N.data.tensors[other];
  if (direction === "fwd") {
    const reads = [...step.reads, ...step.parameters].map((other) => [other, "value"]);
    return { reads: reads.filter(there), writes: [[name, "value"]] };
  }
  const own = [[name, "grad"]];
  const reads = [...own, ...step.backward_reads.map((other) => [other, "value"])];
  return { reads: reads.filter(there), writes: step.backward_writes.map((other) => [other, "grad"]).filter(there) };
};

// A row in words.
function spoken(name, role) {
  const tensor = N.tensor(name);
  const values = { name, op: N.opName(name), shape: tensor.shape.join(" by "), norm: N.number(tensor.norm, 3), grad: N.number(tensor.grad_norm, 3) };
  const verdict = N.verdictOf ? N.verdictOf(name) : "";
  return [N.strings("rail.spoken", values), role && N.strings(`rail.${role}`), verdict].filter(Boolean).join(", ");
}

function mark(state) {
  const { reads, writes } = N.traffic(state.op, state.direction);
  const here = N.rowOf(state.op);
  const roles = new Map();
  for (const [name] of reads) if (N.rowOf(name) !== here && !N.parameters.has(name)) roles.set(N.rowOf(name), "reads");
  for (const [name] of writes) if (N.rowOf(name) !== here && !N.parameters.has(name)) roles.set(N.rowOf(name), "writes");
  for (const [name, item] of rows) {
    const role = roles.get(name) || "";
    if (item.dataset.role !== role || !item.hasAttribute("aria-label")) item.setAttribute("aria-label", spoken(name, role));
    item.dataset.role = role;
    item.querySelector(".role").textContent = role ? N.strings(`rail.${role}`) : "";
    const isHere = name === here;
    if ((item.getAttribute("aria-selected") === "true") !== isHere) item.setAttribute("aria-selected", String(isHere));
    item.tabIndex = isHere ? 0 : -1;
  }
}

function show() {
  const item = rows.get(N.rowOf(N.state.op));
  if (!item || list.scrollHeight <= list.clientHeight) return null;
  const top = item.getBoundingClientRect().top - list.getBoundingClientRect().top;
  const low = list.clientHeight - 3 * item.offsetHeight;
  if (top >= 2 * item.offsetHeight && top <= low) return null;
  return () => list.scrollBy({ top: top - list.clientHeight / 2, behavior: N.motion() ? "smooth" : "instant" });
}

// A light that travels along the rail to where the walk stands: down with values, up with gradients.
const light = N.el("i", { class: "light", "aria-hidden": "true" });
function travel() {
  const item = rows.get(N.rowOf(N.state.op));
  if (!item) return null;
  const node = item.querySelector("circle").getBoundingClientRect();
  const frame = list.getBoundingClientRect();
  const x = node.left + node.width / 2 - frame.left + list.scrollLeft;
  const y = node.top + node.height / 2 - frame.top + list.scrollTop;
  return () => (light.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`);
}

N.rail = () => {
  build();
  list.append(light);
  list.addEventListener("click", (event) => {
    const item = event.target.closest("[data-op]");
    if (item) N.go({ op: item.dataset.op, which: N.state.direction === "bwd" ? "grad" : N.state.which }, { push: true });
  });
  list.addEventListener("keydown", (event) => {
    const at = N.stepNames.indexOf(N.rowOf(N.state.op));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: N.stepNames.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const name = N.stepNames[Math.max(0, Math.min(N.stepNames.length - 1, to))];
    N.go({ op: name }, { push: true });
    rows.get(name).focus();
  });
  N.on((state, changed) => {
    if (!changed.has("op") && !changed.has("direction")) return;
    mark(state);
    N.whenDrawn(show);
    N.whenDrawn(travel);
  });
  mark(N.state);
  requestAnimationFrame(() => {
    N.whenDrawn(show);
    N.whenDrawn(travel);
  });
  addEventListener("resize", () => N.whenDrawn(travel));
};
N.railRow = (name) => rows.get(name);
