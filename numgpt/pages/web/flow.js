// The flow card: what goes into an op and what comes out, in the direction of the walk, with its equations.

const card = N.id("flow");

function chip([name, which], kind) {
  const tensor = N.tensor(name);
  const size = which === "grad" ? tensor.grad_norm : tensor.norm;
  const isShown = N.state.tensor === name && N.state.which === which;
  return N.el(
    "button",
    {
      class: `chip ${kind} ${which}${N.parameters.has(name) ? " parameter" : ""}`,
      type: "button",
      "aria-pressed": String(isShown),
      title: N.strings("flow.open", { name }),
      onclick: () => N.go({ op: N.state.op, tensor: name, which }, { push: true }),
    },
    N.el("span", { class: "name", text: which === "grad" ? `∂ ${name}` : name }),
    N.el("span", { class: "meta", text: `${N.shapeText(tensor)}${size === null ? "" : ` · ‖ ‖ ${N.number(size, 3)}`}` }),
  );
}

function ids(name) {
  const step = N.data.steps[name];
  if (!step) return [];
  return step.reads.filter((read) => N.data.ids[read]).map((read) => N.el("span", { class: "chip ids" }, N.el("span", { class: "name", text: read }), N.el("span", { class: "meta", text: N.strings("flow.ids") })));
}

function equations(name, direction) {
  const text = N.data.ops[N.opName(name)] || { forward: "", backward: "" };
  const lines = (direction === "fwd" ? text.forward : text.backward).split("\n").slice(0, 6);
  return N.el(
    "div",
    { class: "equations" },
    ...lines.map((line) => {
      const parts = line.split(/\s{3,}/).filter(Boolean); // equations, and words about them
      const isEquation = (part, n) => n === 0 || (part.includes("=") && !/^(because|and|over|the) /.test(part));
      return N.el("div", { class: "equation" }, ...parts.map((part, n) => N.el(isEquation(part, n) ? "code" : "small", { text: part })));
    }),
  );
}

function side(names, kind, extra) {
  const label = N.strings(`flow.${kind}`);
  return N.el("div", { class: `side ${kind}`, role: "group", "aria-label": label }, N.el("span", { class: "caption", text: label }), ...names.map((one) => chip(one, kind)), ...extra);
}

function animate(direction) {
  if (!N.motion()) return;
  const from = direction === "fwd" ? -14 : 14;
  const order = [".side.reads .chip", ".op", ".side.writes .chip"];
  order.forEach((selector, n) => {
    card.querySelectorAll(selector).forEach((element, i) => {
      element.animate(
        [{ opacity: 0.15, transform: `translateX(${from}px)` }, { opacity: 1, transform: "none" }],
        { duration: 260, delay: 90 * n + 25 * i, easing: "cubic-bezier(.2,.7,.2,1)", fill: "backwards" },
      );
    });
  });
}

function draw(state) {
  const { op, direction } = state;
  const { reads, writes } = N.traffic(op, direction);
  const name = N.opName(op);
  const step = N.data.steps[op];
  const options = Object.entries((step && step.options) || {}).map(([key, value]) => `${key} ${value}`);
  const cost = step && step.cost && step.cost[direction === "fwd" ? 0 : 1];
  if (cost) options.push(N.strings("flow.flops", { n: cost.toLocaleString("en") }));
  const line = (N.data.ops[name] || { line: "" }).line;
  card.dataset.direction = direction;
  card.replaceChildren(
    side(reads, "reads", direction === "fwd" ? ids(op) : []),
    N.el(
      "div",
      { class: "op" },
      N.el("h2", { text: op }),
      N.el("p", { class: "kind" }, N.el("b", { text: name || N.strings("flow.unknown") }), line ? N.el("code", { text: line }) : null, ...options.map((text) => N.el("span", { text }))),
      equations(op, direction),
    ),
    side(writes, "writes", []),
  );
  N.rove(card, ".chip:not(.ids)", { horizontal: true })();
}

function said({ op, direction }) {
  const tensor = N.tensor(op);
  const key = direction === "fwd" ? "flow.said_forward" : "flow.said_backward";
  return N.strings(key, { name: op, op: N.opName(op), shape: tensor.shape.join(" by "), norm: N.number(tensor.norm, 3), grad: N.number(tensor.grad_norm, 3) });
}

N.flow = () => {
  draw(N.state);
  N.on((state, changed) => {
    if (!["op", "direction", "tensor", "which"].some((key) => changed.has(key))) return;
    draw(state);
    if (changed.has("op") || changed.has("direction")) {
      animate(state.direction);
      N.announce(said(state));
    }
  });
};
