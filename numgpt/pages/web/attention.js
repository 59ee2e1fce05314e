// A grid of heads, the text whose tokens show what they read in the chosen one, and that head's map.

const S = (key, values) => N.strings(`attention.${key}`, values);
const T = N.data.tokens.length;
const LISTED = 6; // tokens of the list beside the text
const maps = new Map(); // "layer head" → its T × T shares
for (const { layer, heads, data } of N.data.maps) {
  const numbers = N.floats(data);
  heads.forEach((head, n) => maps.set(`${layer} ${head}`, numbers.subarray(n * T * T, (n + 1) * T * T)));
}
const state = { layer: N.data.maps[0].layer, head: N.data.maps[0].heads[0], token: T - 1, by: 0 };
let pointed = null; // a token under the mouse, which is shown as long as it is there

const share = (t, s) => maps.get(`${state.layer} ${state.head}`)[t * T + s];
const current = () => (pointed === null ? state.token : pointed);

// The share between the current token and another, in the direction that is shown; −1 where there can be none.
function between(other) {
  const t = current();
  if (state.by) return other < t ? 0 : share(other, t);
  return other > t && share(t, other) === 0 ? 0 : share(t, other);
}

// Drawing.

function colours() {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    const text = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((n) => parseInt(text.slice(n, n + 2), 16));
  };
  return { zero: rgb("--zero"), full: rgb("--pos"), ahead: rgb("--line") };
}

function paint(canvas, numbers) {
  canvas.width = canvas.height = T;
  const context = canvas.getContext("2d");
  const image = context.createImageData(T, T);
  const { zero, full, ahead } = colours();
  for (let n = 0; n < T * T; n += 1) {
    const isAhead = n % T > Math.floor(n / T) && numbers[n] === 0;
    const by = Math.min(1, Math.max(0, numbers[n])) ** 0.7; // small shares are seen, too
    for (let c = 0; c < 3; c += 1) image.data[4 * n + c] = isAhead ? ahead[c] : zero[c] + by * (full[c] - zero[c]);
    image.data[4 * n + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function summary(numbers) {
  let [first, previous, itself] = [0, 0, 0];
  for (let t = 0; t < T; t += 1) {
    itself += numbers[t * T + t] / T;
    if (t > 0) {
      first += numbers[t * T] / (T - 1);
      previous += numbers[t * T + t - 1] / (T - 1);
    }
  }
  return { first: N.fixed(first, 2), previous: N.fixed(previous, 2), itself: N.fixed(itself, 2) };
}

// Pixels of a head's picture: few heads have room for large ones.
function side() {
  const most = Math.max(N.data.heads.length, N.data.maps.length);
  if (most <= 4) return 84;
  return most <= 8 ? 60 : 36;
}

const thumbs = [];
function headsGrid() {
  const rows = N.data.maps.map(({ layer, heads }) =>
    N.el(
      "div",
      { class: "heads-row" },
      N.el("span", { class: "heads-name", text: S("layer", { n: layer }) }),
      ...N.data.heads.map((head) => {
        if (!heads.includes(head)) return N.el("span", { class: "thumb none" });
        const label = S("radio", { layer, head, ...summary(maps.get(`${layer} ${head}`)) });
        const canvas = N.el("canvas", { "aria-hidden": "true" });
        const thumb = N.el("button", { type: "button", class: "thumb", role: "radio", "aria-label": label, title: label, onclick: () => go({ layer, head }) }, canvas);
        thumbs.push({ thumb, canvas, layer, head });
        return thumb;
      }),
    ),
  );
  const top = N.el("div", { class: "heads-row heads-top", "aria-hidden": "true" }, N.el("span", { class: "heads-name", text: side() > 40 ? "" : S("heads_short") }), ...N.data.heads.map((head) => N.el("span", { text: side() > 40 ? S("head", { n: head }) : String(head) })));
  const grid = N.el("div", { id: "heads", class: "heads-grid", role: "radiogroup", "aria-label": S("heads") }, top, ...rows);
  grid.addEventListener("keydown", moveHead);
  grid.style.setProperty("--thumb", `${side()}px`);
  return N.el("section", { class: "box heads-box" }, N.el("h2", { text: S("heads") }), N.el("p", { class: "quiet", text: S("heads_says") }), N.el("div", { class: "scroll-x" }, grid));
}

function moveHead(event) {
  const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const layers = N.data.maps.map((one) => one.layer);
  const to = (list, at, step) => list[Math.min(list.length - 1, Math.max(0, list.indexOf(at) + step))];
  const layer = to(layers, state.layer, by[0]);
  const head = to(N.data.heads, state.head, by[1]);
  const found = thumbs.find((one) => one.layer === layer && one.head === head);
  if (!found) return;
  go({ layer, head });
  found.thumb.focus();
}

const tokens = [];
function textBox() {
  const box = N.el("div", { id: "tokens", class: "tokens", role: "toolbar", "aria-label": S("text") });
  N.data.tokens.forEach((text, t) => {
    const button = N.el(
      "button",
      {
        type: "button",
        class: "tok",
        onclick: () => go({ token: t }),
        onfocus: () => go({ token: t }),
        onpointerenter: (event) => event.pointerType === "mouse" && point(t),
        onpointerleave: () => point(null),
      },
      N.el("bdi", { text: N.visible(text) }),
      N.el("small", { "aria-hidden": "true" }),
    );
    tokens.push(button);
    box.append(button);
    if (text.includes("\n")) box.append(N.el("br"));
  });
  N.rove(box, ".tok", { horizontal: true })();
  return box;
}

function point(t) {
  pointed = t;
  show();
}

function directionButtons() {
  const group = N.id("controls");
  const box = N.el("div", { class: "segments", role: "radiogroup", "aria-label": S("direction") });
  ["reads", "read_by"].forEach((key, by) => {
    box.append(N.el("button", { type: "button", role: "radio", text: S(key), "data-by": by, onclick: () => go({ by }) }));
  });
  box.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    go({ by: 1 - state.by });
    box.querySelector('[aria-checked="true"]').focus();
  });
  group.append(box);
}

// State.

function go(change) {
  Object.assign(state, change);
  pointed = null;
  N.toAddress(state);
  show();
  if ("token" in change || "by" in change) N.announce(spoken());
}

function listed() {
  const all = [...tokens.keys()].map((s) => [s, between(s)]).filter(([, p]) => p > 0);
  return all.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, LISTED);
}

function heading() {
  const t = current();
  return S(state.by ? "read_by_title" : "reads_title", { token: N.quoted(t), t });
}

const spoken = () => {
  const parts = listed().map(([s, p]) => S("token_share", { token: N.quoted(s), t: s, share: N.fixed(p, 2) }));
  return `${heading()} ${parts.join(", ") || S("nothing")}`;
};

function show() {
  for (const { thumb, layer, head } of thumbs) {
    const isHere = layer === state.layer && head === state.head;
    thumb.setAttribute("aria-checked", String(isHere));
    thumb.tabIndex = isHere ? 0 : -1;
  }
  for (const button of document.querySelectorAll("[data-by]")) {
    const isHere = Number(button.dataset.by) === state.by;
    button.setAttribute("aria-checked", String(isHere));
    button.tabIndex = isHere ? 0 : -1;
  }
  N.id("head-name").textContent = S("title", state);
  tokens.forEach((button, s) => {
    const p = between(s);
    button.className = `tok ${N.shade(p, 1)}${s === current() ? " here" : ""}`;
    button.setAttribute("aria-pressed", String(s === state.token));
    button.setAttribute("aria-label", S("token_share", { token: N.quoted(s), t: s, share: N.fixed(p, 2) }));
    button.lastChild.textContent = p >= 0.005 ? N.fixed(p, 2).slice(p < 0.995 ? 1 : 0) : "";
  });
  N.id("list-title").textContent = heading();
  const rows = listed().map(([s, p]) => {
    const bar = N.el("i", { class: "bar plus" });
    bar.style.setProperty("--share", p.toFixed(3));
    return N.el("li", {}, N.el("bdi", { text: N.visible(N.data.tokens[s]) }), N.el("small", { text: String(s) }), N.el("span", { class: "barred" }, bar, N.el("b", { text: N.fixed(p, 4) })));
  });
  N.id("list").replaceChildren(...(rows.length ? rows : [N.el("li", { text: S("nothing") })]));
  paint(N.id("map"), maps.get(`${state.layer} ${state.head}`));
  const mark = N.id("mark");
  mark.style.setProperty("--at", current() / T);
  mark.style.setProperty("--size", 1 / T);
  mark.className = state.by ? "mark column" : "mark";
}

function mapBox() {
  const canvas = N.el("canvas", { id: "map", role: "img", "aria-label": S("map") });
  const frame = N.el("div", { class: "big" }, canvas, N.el("i", { id: "mark", class: "mark", "aria-hidden": "true" }));
  frame.addEventListener("pointermove", (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const at = state.by ? (event.clientX - left) / width : (event.clientY - top) / height;
    point(Math.min(T - 1, Math.max(0, Math.floor(at * T))));
  });
  frame.addEventListener("pointerleave", () => point(null));
  frame.addEventListener("click", () => go({ token: current() }));
  return N.el("figure", {}, frame, N.el("figcaption", { text: S("map") }));
}

N.begin(S("product"));
directionButtons();
const text = N.el(
  "section",
  { class: "box text-box" },
  N.el("h2", { id: "head-name" }),
  N.el("p", { class: "quiet", text: S("text_says") }),
  textBox(),
  N.el("div", { class: "beside" }, N.el("div", {}, N.el("h3", { id: "list-title" }), N.el("ol", { id: "list", class: "shares" })), mapBox()),
);
N.id("room").append(headsGrid(), text);
N.id("room").classList.add("two");
const asked = N.fromAddress();
if (maps.has(`${asked.layer} ${asked.head}`)) Object.assign(state, { layer: asked.layer, head: asked.head });
if (asked.token >= 0 && asked.token < T) state.token = Math.floor(asked.token);
if (asked.by === 1) state.by = 1;
const paintAll = () => thumbs.forEach(({ canvas, layer, head }) => paint(canvas, maps.get(`${layer} ${head}`)));
paintAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paintAll();
  show();
});
show();
tokens.forEach((button, t) => (button.tabIndex = t === state.token ? 0 : -1));
N.state = state;
N.done();
