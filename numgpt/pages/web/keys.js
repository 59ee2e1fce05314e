// The keyboard: one letter each, and none of them while somebody types.

function head(by) {
  const tensor = N.tensor(N.state.tensor);
  const axis = N.headAxis(tensor);
  const slice = axis >= 0 ? axis : tensor.shape.slice(0, -2).findIndex((size) => size > 1);
  if (slice < 0) return;
  const index = [...N.state.index];
  index[slice] = (index[slice] + by + tensor.shape[slice]) % tensor.shape[slice];
  N.go({ index });
  N.announce(N.strings("tensor.of", { axis: axis >= 0 ? N.strings("tensor.head") : tensor.axes[slice], n: index[slice], size: tensor.shape[slice] }));
}

N.turn = (direction) => {
  const change = { direction };
  if (N.state.tensor === N.state.op) change.which = direction === "bwd" && N.tensor(N.state.op).grad ? "grad" : "value";
  N.go(change);
};

function which(one) {
  N.go({ which: one });
  N.focusGrid(one);
}

const KEYS = {
  ArrowRight: () => N.step(1),
  ArrowLeft: () => N.step(-1),
  f: () => N.turn("fwd"),
  b: () => N.turn("bwd"),
  v: () => which("value"),
  g: () => which("grad"),
  p: () => N.play(),
  "[": () => head(-1),
  "]": () => head(1),
  Enter: () => N.focusGrid(),
  Backspace: () => N.back(),
  "?": () => N.help(),
};

const isTyping = (element) => element.closest("input, textarea, select, [contenteditable]") !== null;
const hasOwn = (element, key) => ["Enter", " "].includes(key) && element.closest("button, a, summary") !== null;

N.keys = () => {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || isTyping(event.target) || hasOwn(event.target, event.key)) return;
    if (event.key.startsWith("Arrow") && event.target.closest('[role="tablist"], .menu, .strip')) return;
    if (event.key === "Escape" && N.id("view").contains(event.target)) {
      N.focusGrid();
      return;
    }
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
};
