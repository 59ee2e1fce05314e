// The page: its head, its walk through all ops, and all parts put in their places.

const PACE = 1100; // milliseconds that a walk stays at an op

function strip() {
  const holder = N.id("strip");
  const losses = N.losses();
  const top = Math.max(...losses.map((one) => one.loss || 0), 1e-9);
  const tokens = N.tokens();
  const buttons = tokens.map((token, t) => {
    const one = losses[t];
    const bar = N.el("i", { class: "bar" });
    bar.style.setProperty("--share", one && one.loss !== null ? (one.loss / top).toFixed(3) : "0");
    const words = N.strings(one && one.loss !== null ? "head.token_loss" : "head.token", { t, token: N.token(token), loss: one ? N.number(one.loss, 3) : "" });
    return N.el("button", { type: "button", class: "token", "data-t": t, "aria-label": words, title: words, tabindex: -1, onclick: () => toToken(t) }, N.el("bdi", { text: N.token(token) }), bar);
  });
  holder.replaceChildren(...buttons);
  holder.hidden = !tokens.length;
}

function toToken(t) {
  const tensor = N.tensor(N.state.tensor);
  const axis = tensor.axes.indexOf("T");
  if (axis >= 0) {
    N.go({ index: N.state.index.map((at, i) => (i === axis ? t : at)) });
    return;
  }
  const op = [...N.stepNames].reverse().find((name) => N.tensor(name).axes.includes("T")); // the logits
  if (op) {
    N.go({ op }, { push: true });
    toToken(t);
  }
}

function head(state) {
  for (const button of document.querySelectorAll("#direction button")) {
    const isOn = button.dataset.direction === state.direction;
    button.setAttribute("aria-checked", String(isOn));
    button.tabIndex = isOn ? 0 : -1;
  }
  document.body.dataset.direction = state.direction;
  const axis = N.tensor(state.tensor).axes.indexOf("T");
  const here = axis >= 0 ? state.index[axis] : -1;
  const buttons = [...N.id("strip").children];
  buttons.forEach((button, t) => {
    button.classList.toggle("here", t === here);
    button.tabIndex = t === Math.max(0, here) ? 0 : -1;
  });
  const at = N.stepNames.indexOf(N.rowOf(state.op)) + 1;
  N.id("where").textContent = N.strings("head.where", { n: at, of: N.stepNames.length });
}

// The walk: forward to the loss, then backward to the first op.
let walk = 0;
N.isPlaying = () => walk !== 0;

function stop() {
  clearTimeout(walk);
  walk = 0;
  N.id("play").setAttribute("aria-pressed", "false");
  N.id("play").textContent = `▶ ${N.strings("head.play")}`;
}

function onward() {
  if (!N.step(1, false)) {
    if (N.state.direction === "bwd" || !N.tensor(N.state.op).grad) {
      stop();
      return;
    }
    N.turn("bwd");
  }
  walk = setTimeout(onward, PACE);
}

N.play = () => {
  if (walk) {
    stop();
    return;
  }
  N.id("play").setAttribute("aria-pressed", "true");
  N.id("play").textContent = `❚❚ ${N.strings("head.pause")}`;
  walk = setTimeout(onward, 150);
};

N.help = () => N.id("help").showModal();

function helpKeys() {
  const rows = ["←→", "f b", "v g", "arrows", "pages", "enter", "esc", "back", "[ ]", "p", "?"];
  N.id("keys").append(...rows.flatMap((key) => [N.el("dt", {}, ...N.strings(`keys.${key}.0`).split(" ").map((one) => N.el("kbd", { text: one }))), N.el("dd", { text: N.strings(`keys.${key}.1`) })]));
}

function texts() {
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = N.strings(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", N.strings(element.dataset.label));
  N.id("title").textContent = N.data.title;
  N.id("title").dir = "auto";
  N.id("source").textContent = N.data.source;
  const loss = N.tensor("loss");
  N.id("loss").hidden = !loss || !loss.value || loss.size !== 1;
  if (!N.id("loss").hidden) N.id("loss").querySelector("output").textContent = N.number(loss.value[0], 5);
}

function controls() {
  const group = N.id("direction");
  for (const button of group.querySelectorAll("button")) button.addEventListener("click", () => N.turn(button.dataset.direction));
  group.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    N.turn(N.state.direction === "fwd" ? "bwd" : "fwd");
    group.querySelector('[tabindex="0"]').focus();
  });
  N.id("play").addEventListener("click", N.play);
  for (const [id, by] of [["less", -1], ["more", 1]]) N.id(id).addEventListener("click", () => N.step(by));
  N.id("motion").addEventListener("change", (event) => N.setMotion(event.target.checked));
  N.id("help-button").addEventListener("click", N.help);
  const wide = matchMedia("(min-width: 900px)");
  const fold = () => (N.id("rail-box").open = wide.matches);
  wide.addEventListener("change", fold);
  fold();
}

N.open();
texts();
strip();
N.rail();
N.flow();
N.tensorView();
N.detail();
N.checkRail();
N.exports();
N.keys();
helpKeys();
controls();
N.rove(N.id("strip"), "button", { horizontal: true, vertical: false });
head(N.state);
stop();
N.on((state, changed) => {
  if (changed.has("row")) strip();
  head(state);
});
document.documentElement.classList.add("ready");
