// Where the reader is: kept in the address, so that a link leads there and Back leads back.

const HEADS = ["H", "K", "KG"]; // letters of an axis of heads
const listeners = [];
const past = []; // of this page itself, where there is no history to go back in
let pending = 0;
let depth = 0; // of entries of ours in the browser's history
let isFramed = false;
let telling = 0; // how many changes are being told, one within the other
const asked = new Set();

N.on = (listener) => listeners.push(listener);
// Ask where things lie, and do what ask gives: once all parts are drawn, as a question amid the drawing would lay out
// the page one more time.
N.whenDrawn = (ask) => {
  if (telling) asked.add(ask);
  else answer([ask]);
};
function answer(asks) {
  const deeds = asks.map((ask) => ask());
  for (const act of deeds) if (act) act();
}
N.headAxis = (tensor) => tensor.axes.findIndex((axis) => HEADS.includes(axis));

function start() {
  const first = "h.0.attn.heads.probs"; // a map that says something at once
  const op = N.stepNames.includes(first) ? first : N.stepNames[0];
  return { op, tensor: op, index: null, which: "value", direction: "fwd", head: 0, view: "formula" };
}

// The same token, channel, head … in another tensor, as far as it has such axes; else the first entry.
function carried(tensor, from, index) {
  const known = {};
  if (from) from.axes.forEach((axis, i) => (known[axis] = index[i]));
  return tensor.shape.map((size, i) => {
    const axis = tensor.axes[i];
    let at = known[axis];
    if (HEADS.includes(axis)) at = N.state.head;
    if (at === undefined && axis === "S") at = known.T;
    if (at === undefined && (axis === "T" || axis === "S")) at = known.P ?? Math.floor(size / 3);
    if (at === undefined && axis === "P") at = known.T;
    return Math.max(0, Math.min(size - 1, at || 0));
  });
}

function fitted(tensor, index) {
  if (!Array.isArray(index) || index.length !== tensor.shape.length) return null;
  const inside = index.every((n, i) => Number.isInteger(n) && n >= 0 && n < tensor.shape[i]);
  return inside ? index : null;
}

// A change as a whole state, or null where it leads nowhere.
function next(change) {
  const to = { ...N.state, ...change };
  if (change.op !== undefined && change.tensor === undefined) to.tensor = change.op;
  if (change.tensor !== undefined && change.op === undefined) to.op = N.opOf(change.tensor);
  const tensor = N.tensor(to.tensor);
  if (!tensor) return null;
  const from = N.state.index ? N.tensor(N.state.tensor) : null;
  if (change.index === undefined && to.tensor === N.state.tensor && N.state.index) to.index = N.state.index;
  else to.index = fitted(tensor, change.index) || carried(tensor, from, N.state.index);
  const axis = N.headAxis(tensor);
  if (axis >= 0 && change.head !== undefined && change.index === undefined) {
    to.index = to.index.map((n, i) => (i === axis ? Math.max(0, Math.min(tensor.shape[i] - 1, to.head)) : n));
  }
  if (axis >= 0) to.head = to.index[axis];
  const batch = tensor.axes.indexOf("B");
  to.row = batch >= 0 ? to.index[batch] : N.state.row || 0;
  if (!["value", "grad"].includes(to.which)) to.which = "value";
  if (!["fwd", "bwd"].includes(to.direction)) to.direction = "fwd";
  return to;
}

function hash() {
  const { op, tensor, index, which, direction, view } = N.state;
  const parts = [`op=${encodeURIComponent(op)}`];
  if (tensor !== op) parts.push(`t=${encodeURIComponent(tensor)}`);
  if (index.length) parts.push(`i=${index.join(",")}`);
  if (which !== "value") parts.push(`w=${which}`);
  parts.push(`dir=${direction}`);
  if (view !== "formula") parts.push(`view=${encodeURIComponent(view)}`);
  return `#${parts.join("&")}`;
}

function parsed(address) {
  const change = {};
  for (const part of address.replace(/^#/, "").split("&")) {
    const [key, raw = ""] = part.split("=");
    let value = raw;
    try {
      value = decodeURIComponent(raw);
    } catch {
      continue;
    }
    if (key === "op" && N.data.tensors[value]) change.op = value;
    if (key === "t" && N.data.tensors[value]) change.tensor = value;
    if (key === "i") change.index = value.split(",").map(Number);
    if (key === "w") change.which = value;
    if (key === "dir") change.direction = value;
    if (key === "view") change.view = value;
  }
  if (change.op && !change.tensor) change.tensor = change.op;
  return change;
}

function write(push) {
  clearTimeout(pending);
  const put = () => {
    try {
      history[push ? "pushState" : "replaceState"]({ depth }, "", hash());
    } catch {
      isFramed = true; // a frame without an address of its own
    }
  };
  if (push) {
    depth += 1;
    put();
  } else pending = setTimeout(put, 200); // browsers refuse an address that changes at every key
}

function tell(before) {
  const changed = new Set(Object.keys(N.state).filter((key) => String(N.state[key]) !== String(before[key])));
  telling += 1;
  try {
    if (changed.size) for (const listener of listeners) listener(N.state, changed);
  } finally {
    telling -= 1;
  }
  if (telling) return;
  const asks = [...asked];
  asked.clear();
  answer(asks);
}

N.go = (change, { push = false } = {}) => {
  const to = next(change);
  if (!to) return;
  const before = N.state;
  const isSame = Object.keys(to).every((key) => String(to[key]) === String(before[key]));
  if (isSame) return;
  if (push) past.push(before);
  N.state = to;
  write(push);
  tell(before);
};

N.jump = (name, index, which = N.state.which) => {
  N.go({ op: N.opOf(name), tensor: name, index, which }, { push: true });
};

N.back = () => {
  if (!past.length) return;
  if (!isFramed) {
    if (depth > 0) history.back();
    return;
  }
  const before = N.state;
  N.state = past.pop();
  tell(before);
};

function arrive(event) {
  clearTimeout(pending);
  if (event.type === "popstate") depth = event.state ? event.state.depth : 0;
  const to = next({ ...start(), index: undefined, ...parsed(location.hash) });
  if (!to) return;
  const before = N.state;
  N.state = to;
  tell(before);
}

N.open = () => {
  N.state = start();
  const to = next(parsed(location.hash)) || next({});
  N.state = to;
  write(false);
  addEventListener("popstate", arrive);
  addEventListener("hashchange", arrive);
};

// The next op in the direction of the walk; the same at its end.
N.step = (by, push = true) => {
  const at = N.stepNames.indexOf(N.rowOf(N.state.op));
  const to = at + (N.state.direction === "bwd" ? -by : by);
  if (to < 0 || to >= N.stepNames.length) return false;
  N.go({ op: N.stepNames[to] }, { push });
  return true;
};

// A button that leads to a cell, or to a tensor where no index is given.
N.cellLink = (name, index, which) => {
  const place = index ? `${name}[${index.join(", ")}]` : name;
  return N.el("button", { class: "link", type: "button", text: which === "grad" ? `∂${place}` : place, onclick: () => N.jump(name, index, which) });
};
N.state = start();
