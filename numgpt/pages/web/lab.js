// What the views that compute have in common: the page's own run again, by the engine, and the reader's changes to it.

const NEAR = { float64: 1e-9, float32: 1e-3 }; // of the loss: how far the engine may be from what the page has

let cached;

/** The page's run as the engine takes it: {config, params, tokens, targets, patch}. */
function setting() {
  const { tokens, targets = null } = N.data.ids;
  const patch = N.data.anew ? N.data.anew.patch : {};
  return { config: N.data.config, params: N.engine.params(N.data), tokens, targets, patch };
}

function found() {
  if (N.data.edited.length && !N.data.anew)
    throw new Error(N.strings("lab.edited", { names: N.data.edited.join(", ") }));
  if (!N.data.ids.targets || !N.tensor("loss")) throw new Error(N.strings("lab.no_loss"));
  const given = setting();
  const run = N.engine.run(given);
  const [page, engine] = [N.tensor("loss").value[0], run.loss];
  const isNear = Math.abs(page - engine) <= (NEAR[N.data.dtype] || 1e-3) * Math.max(1, Math.abs(page));
  if (!isNear && !(Number.isNaN(page) && Number.isNaN(engine))) {
    throw new Error(N.strings("lab.differs", { page: N.number(page), engine: N.number(engine) }));
  }
  return { given, run, reason: null };
}

/** {given, run, reason}: reason says why the engine cannot run what the page shows, null where it can. */
N.lab = () => {
  if (!cached) {
    try {
      cached = found();
    } catch (error) {
      cached = { given: null, run: null, reason: error.message };
    }
  }
  return cached;
};

/** The page's own patches, and more entries of one name. */
N.lab.patched = (name, offsets, values) => {
  const { patch } = N.lab().given;
  const old = patch[name] || { offsets: [], values: [] };
  const kept = old.offsets
    .map((offset, n) => [offset, old.values[n]])
    .filter(([offset]) => !offsets.includes(offset));
  const both = [...kept, ...offsets.map((offset, n) => [offset, values[n]])];
  return {
    ...patch,
    [name]: { offsets: both.map(([offset]) => offset), values: both.map(([, value]) => value) },
  };
};

/** The loss alone, of the page's run with changes. */
N.lab.loss = (changes) => N.engine.run({ ...N.lab().given, ...changes, backward: false }).loss;

/** How many numbers the parameters have: what a run costs for each token. */
N.lab.size = () => Object.values(N.lab().given.params).reduce((sum, array) => sum + array.length, 0);

/** The loss where one number of a parameter or a value is another by δ. */
N.lab.moved = (name, offset, delta) => {
  const { given, run } = N.lab();
  if (!N.parameters.has(name)) {
    return N.lab.loss({ patch: N.lab.patched(name, [offset], [run.value[name][offset] + delta]) });
  }
  const array = given.params[name].slice();
  array[offset] += delta;
  return N.lab.loss({ params: { ...given.params, [name]: array } });
};

const PAUSE = 40; // milliseconds: who walks on meanwhile does not wait for what takes many runs

/** Do something when the reader has stopped here, unless the element is gone by then. */
N.lab.soon = (element, act) => setTimeout(() => element.isConnected && act(), PAUSE);

const kept = new Map();

/** Fill a panel, or give it what it was filled with before, where the key is the same: a walk asks at each step. */
N.lab.keep = (view, key, panel, fill) => {
  if (kept.get(view)?.key !== key) {
    fill(panel);
    kept.set(view, { key, nodes: [...panel.childNodes] });
  } else panel.append(...kept.get(view).nodes);
};

/** Whether the engine runs the page; where it does not, the panel says why. */
N.lab.isReady = (panel) => {
  const { reason } = N.lab();
  if (reason)
    panel.append(N.el("p", { class: "quiet", text: N.strings("lab.cannot") }), N.el("p", { text: reason }));
  return !reason;
};

/** The offsets of an array at which some axes have a place: {T: 3} is all that belongs to token 3. */
N.lab.offsets = (shape, axes, places) => {
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((product, n) => product * n, 1));
  const wanted = Object.entries(places).map(([axis, at]) => [axes.indexOf(axis), at]);
  const size = shape.reduce((product, n) => product * n, 1);
  return [...Array(size).keys()].filter((offset) =>
    wanted.every(([axis, at]) => axis < 0 || Math.floor(offset / strides[axis]) % shape[axis] === at),
  );
};

/** ‖a − b‖/‖a‖; 0 where both are 0. */
N.lab.apart = (a, b) => {
  let [difference, size] = [0, 0];
  for (let i = 0; i < a.length; i += 1) {
    difference += (a[i] - b[i]) ** 2;
    size += a[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
};

/** A table that scrolls, with one tab stop for all its links: arrows move among them. */
N.lab.table = (title, heads, body, { name = "", isLow = true } = {}) => {
  const head = N.el("tr", {}, ...heads.map((text) => N.el("th", { scope: "col", text })));
  const parts = [N.el("thead", {}, head), N.el("tbody", {}, ...body)];
  const table = N.el("table", { class: `plain wide ${name}` }, ...parts);
  table.querySelectorAll(".link").forEach((link, n) => (link.tabIndex = n ? -1 : 0));
  N.rove(table, ".link");
  const props = { class: isLow ? "scroll-y" : "scroll-x", tabindex: 0, role: "region" };
  return N.el("div", { ...props, "aria-label": title }, table);
};

/** A cell with a number, and a bar behind it that fills a share of the cell. */
N.lab.bar = (x, share, series, mark = null) => {
  const line = N.el("i", { class: `bar ${series}` });
  line.style.setProperty("--share", (share > 0 ? Math.min(1, share) : 0).toFixed(3));
  return N.el(
    "td",
    { class: "number" },
    mark,
    N.el("span", { class: "barred" }, line, N.el("b", { text: N.number(x, 3) })),
  );
};

/** A labelled control. */
N.lab.field = (key, control, values) =>
  N.el("label", { class: "field" }, N.el("span", { text: N.strings(key, values) }), control);

/** A choice among [value, text] pairs. */
N.lab.select = (options, value, onchange, props = {}) => {
  const select = N.el(
    "select",
    props,
    ...options.map(([one, words]) =>
      N.el("option", { value: one, selected: String(one) === String(value), text: words }),
    ),
  );
  select.addEventListener("change", () => onchange(select.value));
  return select;
};
