// Another prompt, a value switched off, a value taken from another prompt: the run anew, and what became of it.

// What the reader has changed. tokens and other: ids; edits: {kind: "ablate" | "patch", name, head, token}, null for all.
const start = () => ({
  tokens: [...N.tokens()],
  targets: [...N.targets()],
  other: swapped(N.tokens()),
  edits: [],
  ...(N.data.anew && { other: [...N.data.anew.other], edits: [...N.data.anew.edits] }),
});
let change = null;
let place = { tokens: 0, other: 0 }; // the token that is being changed, of each prompt
let form = { kind: "ablate", name: "", head: "", token: "" };
let message = "";
let focus = "";

/** Another prompt to begin with: its middle token is another one. */
function swapped(tokens) {
  const middle = Math.floor(tokens.length / 2);
  const others = tokens.filter((id) => id !== tokens[middle]);
  return tokens.map((id, t) => (t === middle ? (others[0] ?? (id + 1) % N.data.config.vocab_size) : id));
}

let version = 0; // of what the reader has changed

const redraw = (key = "") => {
  version += 1;
  focus = key;
  N.redraw("prompt");
};

// Runs: the page's own, of the changed prompt without edits, with them, and of the other prompt.

const runs = new Map();

function runOf(tokens, targets, patch = {}, edits = "") {
  const key = JSON.stringify([tokens, targets, edits]);
  if (!runs.has(key)) {
    if (runs.size > 40) runs.clear();
    const { config, params } = N.lab().given;
    runs.set(key, N.engine.run({ config, params, tokens, targets, patch }));
  }
  return runs.get(key);
}

N.lab.change = () => (change ||= start());
N.lab.runOf = runOf;

/** Each token's target is the next token; the last one's stays, where the prompt has its length still. */
N.lab.targetsOf = (tokens) => {
  const own = N.tokens();
  if (String(tokens) === String(own)) return [...N.targets()];
  const last = tokens.length === own.length ? N.targets()[own.length - 1] : -1;
  const next = [...tokens.slice(1), last];
  return next.every((id) => id < 0) ? [...tokens.slice(1), tokens[0]] : next;
};

/** The axes of a name in the run of one row. */
N.lab.axes = (name) => N.tensor(name).axes.filter((axis) => axis !== "B");

/** {name: {offsets, values}} of all edits; shapes: those of the run that they change. */
function patches(clean) {
  const found = {};
  for (const { kind, name, head, token } of change.edits) {
    const axes = N.lab.axes(name);
    const places = {};
    if (head !== null) places[axes.find((axis) => ["H", "K", "KG"].includes(axis))] = head;
    if (token !== null) places.T = token;
    const values = kind === "patch" ? otherRun().value[name] : null;
    if (values && values.length !== clean.value[name].length) throw new Error(N.strings("prompt.lengths"));
    const all = (found[name] ||= new Map());
    for (const offset of N.lab.offsets(clean.shape[name], axes, places))
      all.set(offset, values ? values[offset] : 0);
  }
  return Object.fromEntries(
    Object.entries(found).map(([name, all]) => [
      name,
      { offsets: [...all.keys()], values: [...all.values()] },
    ]),
  );
}

const otherRun = () => runOf(change.other, N.lab.targetsOf(change.other));

function results() {
  const before = runOf([...N.tokens()], [...N.targets()], N.lab().given.patch, "the page's");
  const targets = N.lab.targetsOf(change.tokens);
  const clean = runOf(change.tokens, targets);
  if (!change.edits.length) return { before, after: clean, targets, patch: {} };
  const patch = patches(clean);
  return {
    before,
    after: runOf(change.tokens, targets, patch, [change.edits, change.other]),
    targets,
    patch,
  };
}

// A prompt, token by token.

const known = Object.entries(N.data.texts).map(([id, text]) => ({ id: Number(id), text }));
const byText = new Map(known.map(({ id, text }) => [text, id]));
const longest = Math.max(0, ...known.map(({ text }) => text.length));

/** A text in the longest tokens that the page knows. */
function cut(text) {
  const ids = [];
  for (let at = 0; at < text.length;) {
    let n = Math.min(longest, text.length - at);
    while (n > 0 && !byText.has(text.slice(at, at + n))) n -= 1;
    if (n === 0) throw new Error(N.strings("prompt.unknown", { text: N.visible([...text.slice(at)][0]) }));
    ids.push(byText.get(text.slice(at, at + n)));
    at += n;
  }
  if (!ids.length) throw new Error(N.strings("prompt.empty"));
  return ids;
}

const textOf = (ids) => ids.map((id) => N.data.texts[String(id)] ?? "").join("");

function put(which, ids, key) {
  const most = N.data.config.block_size;
  message = ids.length > most ? N.strings("engine.long", { T: ids.length, most }) : "";
  if (!message && ids.length) {
    change[which] = ids;
    change.edits = change.edits.filter(({ token }) => token === null || token < change.tokens.length);
    place[which] = Math.min(place[which], ids.length - 1);
  }
  redraw(key);
}

function typed(which) {
  const input = N.el("input", {
    type: "text",
    value: textOf(change[which]),
    "data-key": `${which}-text`,
    spellcheck: "false",
    dir: "auto",
  });
  input.addEventListener("change", () => {
    try {
      put(which, cut(input.value), `${which}-text`);
    } catch (error) {
      message = error.message;
      redraw(`${which}-text`);
    }
  });
  return N.lab.field(`prompt.${which}`, input);
}

function tokenStrip(which) {
  const own = N.tokens();
  const strip = N.el("div", { class: "strip", role: "toolbar", "aria-label": N.strings(`prompt.${which}`) });
  change[which].forEach((id, t) => {
    const isHere = t === place[which];
    const props = {
      type: "button",
      class: `token${isHere ? " here" : ""}${id === own[t] ? "" : " other"}`,
      tabindex: isHere ? 0 : -1,
      "aria-pressed": String(isHere),
      "data-key": `${which}-${t}`,
      "aria-label": N.strings("head.token", { t, token: N.token(id) }),
    };
    const choose = () => {
      place[which] = t;
      redraw(`${which}-${t}`);
    };
    strip.append(N.el("button", { ...props, onclick: choose }, N.el("bdi", { text: N.token(id) })));
  });
  N.rove(strip, "button", { horizontal: true, vertical: false });
  return strip;
}

function tokenTools(which) {
  const at = place[which];
  const ids = change[which];
  const choices = known.length
    ? known.map(({ id }) => [id, `${N.token(id)}`])
    : [...Array(N.data.config.vocab_size).keys()].map((id) => [id, `#${id}`]);
  const replace = (id) =>
    put(
      which,
      ids.map((old, t) => (t === at ? Number(id) : old)),
      `${which}-choice`,
    );
  const button = (key, act, isOff) =>
    N.el("button", {
      type: "button",
      class: "small",
      "data-key": `${which}-${key}`,
      text: N.strings(`prompt.${key}`),
      onclick: act,
      disabled: isOff,
    });
  return N.el(
    "div",
    { class: "fields" },
    N.lab.field(
      "prompt.token_at",
      N.lab.select(choices, ids[at], replace, { "data-key": `${which}-choice` }),
      { t: at },
    ),
    button(
      "insert",
      () => put(which, [...ids.slice(0, at), ids[at], ...ids.slice(at)], `${which}-insert`),
      ids.length >= N.data.config.block_size,
    ),
    button(
      "remove",
      () =>
        put(
          which,
          ids.filter((_, t) => t !== at),
          `${which}-remove`,
        ),
      ids.length < 2,
    ),
  );
}

const editor = (which) =>
  N.el("div", { class: "editor" }, known.length ? typed(which) : null, tokenStrip(which), tokenTools(which));

// What is switched off or patched.

function editable() {
  return Object.keys(N.data.steps).filter((name) => name !== "loss" && N.tensor(name));
}

function editForm() {
  const names = editable();
  if (!names.includes(form.name)) form.name = names.includes("h.0.attn") ? "h.0.attn" : names[0];
  const axes = N.lab.axes(form.name);
  const { shape } = N.lab().run;
  const own = shape[form.name].slice(-axes.length || undefined);
  const heads = axes.findIndex((axis) => ["H", "K", "KG"].includes(axis));
  const set = (key) => (value) => {
    form[key] = value;
    redraw(`form-${key}`);
  };
  const all = [["", N.strings("prompt.all")]];
  const pick = (key, options, isThere) =>
    isThere &&
    N.lab.field(`prompt.${key}`, N.lab.select(options, form[key], set(key), { "data-key": `form-${key}` }));
  const kinds = ["ablate", "patch"].map((kind) => [kind, N.strings(`prompt.${kind}`)]);
  const add = () => {
    const at = (key, isThere) => (isThere && form[key] !== "" ? Number(form[key]) : null);
    change.edits.push({
      kind: form.kind,
      name: form.name,
      head: at("head", heads >= 0),
      token: at("token", axes.includes("T")),
    });
    redraw("form-add");
  };
  return N.el(
    "div",
    { class: "fields" },
    pick("kind", kinds, true),
    pick(
      "name",
      names.map((name) => [name, name]),
      true,
    ),
    pick(
      "head",
      [...all, ...[...Array(heads >= 0 ? own[heads] : 0).keys()].map((h) => [h, String(h)])],
      heads >= 0,
    ),
    pick("token", [...all, ...change.tokens.map((id, t) => [t, `${t} ${N.token(id)}`])], axes.includes("T")),
    N.el("button", { type: "button", text: N.strings("prompt.add"), "data-key": "form-add", onclick: add }),
  );
}

function editText({ kind, name, head, token }) {
  const where = [
    head === null ? "" : N.strings("prompt.at_head", { head }),
    token === null ? "" : N.strings("prompt.at_token", { token }),
  ];
  return `${N.strings(`prompt.did_${kind}`)} ${[name, ...where.filter(Boolean)].join(", ")}`;
}

function editList() {
  const items = change.edits.map((edit, n) => {
    const drop = () => {
      change.edits.splice(n, 1);
      redraw("form-add");
    };
    return N.el(
      "li",
      {},
      N.el("span", { text: editText(edit) }),
      N.el("button", {
        type: "button",
        class: "small",
        "aria-label": N.strings("prompt.drop", { edit: editText(edit) }),
        text: "×",
        onclick: drop,
      }),
    );
  });
  return N.el("ul", { class: "edits" }, ...items);
}

/** What follows the last token, which the title of the page has and the prompt has not; and how a text is cut. */
function notes() {
  const last = N.targets()[N.tokens().length - 1];
  const words = [];
  if (last >= 0 && change.tokens.length === N.tokens().length)
    words.push(N.strings("prompt.last", { token: N.token(last) }));
  if (longest > 1) words.push(N.strings("prompt.cut"));
  return words.length ? [N.el("p", { class: "quiet note", text: words.join(" ") })] : [];
}

function fill(panel) {
  if (!N.lab.isReady(panel)) return;
  N.lab.change();
  const reset = () => {
    change = start();
    message = "";
    redraw("reset");
  };
  const needsOther = form.kind === "patch" || change.edits.some(({ kind }) => kind === "patch");
  panel.append(
    N.el("p", { class: "quiet", text: N.strings("prompt.says") }),
    editor("tokens"),
    ...notes(),
    N.el("h4", { text: N.strings("prompt.edit") }),
    editForm(),
    ...(needsOther
      ? [N.el("p", { class: "quiet", text: N.strings("prompt.other_says") }), editor("other")]
      : []),
    editList(),
  );
  let found = null;
  try {
    found = results();
  } catch (error) {
    message = error.message;
  }
  if (message) panel.append(N.el("p", { class: "wrong", role: "alert", text: message }));
  const button = (key, act) => {
    const props = { type: "button", class: "small", "data-key": key, onclick: act };
    return N.el("button", { ...props, text: N.strings(`prompt.${key}`) });
  };
  const { tokens, other, edits } = change;
  const everywhere = () => N.anew({ tokens, targets: found.targets, patch: found.patch, edits, other });
  panel.append(
    N.el(
      "div",
      { class: "buttons" },
      button("reset", reset),
      found && button("everywhere", everywhere),
      N.data.anew && button("original", () => location.reload()),
    ),
  );
  if (found) {
    panel.append(...N.outcome(found, change));
    const [loss, rise] = [N.number(found.after.loss, 4), N.number(found.after.loss - found.before.loss, 3)];
    if (focus) N.announce(N.strings("prompt.said", { loss, rise }));
  }
  message = "";
  const again = focus && panel.querySelector(`[data-key="${focus}"]`);
  focus = "";
  if (again) again.focus();
}

const draw = (panel) => N.lab.keep("prompt", version, panel, fill);

N.view({ id: "prompt", applies: () => Boolean(N.engine), draw });
N.on((state, changed) => {
  if (!changed.has("row")) return;
  change = null;
  version += 1;
});
