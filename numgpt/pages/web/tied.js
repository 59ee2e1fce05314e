// The gradient of a parameter that is used in several places, by place: a tied embedding's is head plus look-up.

const split = () => N.data.parameters.filter((name) => N.data.tensors[name].parts);

function norms(array, rows, cols) {
  const found = new Float64Array(rows);
  for (let r = 0; r < rows; r += 1) {
    let sum = 0;
    for (let c = 0; c < cols; c += 1) sum += array[r * cols + c] ** 2;
    found[r] = Math.sqrt(sum);
  }
  return found;
}

function sumOf(name, index, parts) {
  const tensor = N.tensor(name);
  const at = N.at(tensor.shape, index);
  const terms = Object.entries(parts).map(([place, array]) => [place, array[at]]);
  const top = Math.max(...terms.map(([, x]) => Math.abs(x)), 1e-300);
  const rows = terms.map(([place, x], n) => {
    const bar = N.el("i", { class: `bar ${x < 0 ? "minus" : "plus"}` });
    bar.style.setProperty("--share", (Math.abs(x) / top).toFixed(3));
    return N.el("tr", {}, N.el("th", { scope: "row" }, n ? "+ " : "", N.cellLink(place)), N.el("td", { class: "number" }, N.el("span", { class: "barred" }, bar, N.el("b", { text: N.number(x, 8) }))));
  });
  const total = N.el("tr", { class: "total" }, N.el("th", { scope: "row", text: `= ∂${name}[${index.join(", ")}]` }), N.el("td", { class: "number", text: tensor.grad ? N.number(tensor.grad[at], 8) : "–" }));
  return N.el("table", { class: "plain parts" }, N.el("tbody", {}, ...rows, total));
}

function maps(name, parts) {
  const tensor = N.tensor(name);
  const [rows, cols] = tensor.shape.length > 1 ? tensor.shape : [1, tensor.size];
  const top = Math.max(...Object.values(parts).map((array) => N.top(array)));
  const at = (r, c) => r * cols + c;
  return N.el(
    "div",
    { class: "part-maps" },
    ...Object.entries(parts).map(([place, array]) => {
      const canvas = N.el("canvas", { role: "img", "aria-label": N.strings("tied.map", { place, name }) });
      N.paint(canvas, { rows, cols, at }, array, top);
      return N.el("figure", {}, canvas, N.el("figcaption", { text: N.strings("tied.from", { place }) }));
    }),
  );
}

function rowsTable(name, parts) {
  const tensor = N.tensor(name);
  const [rows, cols] = tensor.shape;
  const places = Object.keys(parts);
  const sizes = places.map((place) => norms(parts[place], rows, cols));
  const order = [...Array(rows).keys()].sort((a, b) => sizes[sizes.length - 1][b] - sizes[sizes.length - 1][a]).slice(0, 16);
  const top = Math.max(...sizes.map((array) => N.top(array)), 1e-300);
  const body = order.map((r) =>
    N.el(
      "tr",
      {},
      N.el("th", { scope: "row" }, N.el("button", { type: "button", class: "link", onclick: () => N.jump(name, [r, N.state.index[1] || 0], "grad") }, N.el("bdi", { text: N.label(tensor.axes[0], r) }))),
      ...sizes.map((array, n) => {
        const bar = N.el("i", { class: `bar s${n}` });
        bar.style.setProperty("--share", (array[r] / top).toFixed(3));
        return N.el("td", { class: "number" }, N.el("span", { class: "barred" }, bar, N.el("b", { text: N.number(array[r], 3) })));
      }),
    ),
  );
  const head = N.el("tr", {}, N.el("th", { scope: "col", text: N.strings("tied.row") }), ...places.map((place) => N.el("th", { scope: "col", class: "number", text: `‖ ${place} ‖` })));
  return N.el("div", { class: "scroll-x" }, N.el("table", { class: "plain" }, N.el("thead", {}, head), N.el("tbody", {}, ...body)));
}

N.view({
  id: "tied",
  applies: () => split().length > 0,
  draw(panel, state) {
    const names = split();
    const name = names.includes(state.tensor) ? state.tensor : names[0];
    const tensor = N.tensor(name);
    const { parts } = tensor;
    const index = state.tensor === name ? state.index : tensor.shape.map(() => 0);
    panel.append(N.el("p", { class: "quiet", text: N.strings("tied.says", { name, places: Object.keys(parts).join(", ") }) }));
    if (state.tensor !== name) panel.append(N.el("p", {}, N.el("button", { type: "button", class: "small", text: N.strings("tied.open", { name }), onclick: () => N.jump(name, undefined, "grad") })));
    panel.append(N.el("div", { class: "columns" }, N.el("div", {}, sumOf(name, index, parts), maps(name, parts)), tensor.shape.length === 2 ? rowsTable(name, parts) : null));
  },
});
