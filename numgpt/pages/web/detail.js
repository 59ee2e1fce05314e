// The detail pane: tabs of views, the first of which is the formula of one cell.

const views = [];
const tabs = N.id("tabs");
const body = N.id("view");
let open = "";

N.view = (view) => views.push(view);
const usable = () => views.filter((view) => view.applies());

function draw() {
  const known = usable();
  const current = known.find((view) => view.id === N.state.view) || known[0];
  const names = known.map((view) => view.id).join();
  if (tabs.dataset.names !== names) {
    tabs.dataset.names = names;
    tabs.replaceChildren(
      ...known.map((view) =>
        N.el("button", { type: "button", role: "tab", id: `tab-${view.id}`, "data-view": view.id, "aria-controls": "view", text: N.strings(`view.${view.id}`), onclick: () => N.go({ view: view.id }, { push: true }) }),
      ),
    );
  }
  for (const tab of tabs.children) {
    const isOpen = tab.dataset.view === current.id;
    tab.setAttribute("aria-selected", String(isOpen));
    tab.tabIndex = isOpen ? 0 : -1;
  }
  body.setAttribute("aria-labelledby", `tab-${current.id}`);
  body.className = `view view-${current.id}`;
  const had = body.contains(document.activeElement) && document.activeElement.dataset.term;
  body.replaceChildren();
  open = current.id;
  current.draw(body, N.state);
  N.whenDrawn(reachable);
  if (had) (body.querySelector("[data-term]") || tabs.querySelector('[tabindex="0"]')).focus();
}

// What is wider than its box can be scrolled by keys.
function reachable() {
  const boxes = [...body.querySelectorAll(".scroll-x, .formula, .formula-line, pre")];
  const isWide = (box) => box.scrollWidth > box.clientWidth;
  let wide = boxes.filter(isWide);
  return () => {
    const isOpened = wide.filter((box) => box.classList.contains("formula")).filter(N.narrow).length > 0;
    if (isOpened) wide = boxes.filter(isWide);
    for (const box of wide) {
      box.tabIndex = 0;
      if (!box.classList.contains("formula")) continue;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", N.strings("formula.label"));
    }
  };
}

N.redraw = (id) => {
  if (open === id) draw();
};

N.detail = () => {
  N.rove(tabs, '[role="tab"]', { horizontal: true, vertical: false });
  draw();
  N.on(() => draw());
};

// The formula.

const TERMS = 12; // contributors that are listed at once

function fallback(panel, { op, direction }) {
  const text = N.data.ops[N.opName(op)];
  if (!text) {
    panel.append(N.el("p", { class: "quiet", text: N.strings("formula.unknown") }));
    return;
  }
  if (panel.localName !== "details") panel.append(N.el("p", { class: "quiet", text: N.strings("formula.vector") }));
  for (const [key, equations] of [["forward", text.forward], ["backward", text.backward]]) {
    if (!equations) continue;
    const isNow = (key === "forward") === (direction === "fwd");
    panel.append(
      N.el("h4", { text: N.strings(`formula.${key}`) }),
      N.el("pre", { class: `equations${isNow ? " now" : ""}`, tabindex: equations.length > 60 ? 0 : undefined, text: equations }),
    );
  }
}

function contributors(cell) {
  const top = Math.max(...cell.terms.map((term) => Math.abs(term.weight * term.value)).filter(Number.isFinite), 0);
  const list = N.el("ol", { class: "terms", "aria-label": N.strings("formula.terms") });
  const sorted = [...cell.terms].sort((a, b) => Math.abs(b.weight * b.value) - Math.abs(a.weight * a.value));
  const add = (term, n) => {
    const product = term.weight * term.value;
    const place = `${term.which === "grad" ? "∂" : ""}${term.name}[${term.index.join(", ")}]`;
    const bar = N.el("i", { class: `bar ${product < 0 ? "minus" : "plus"}` });
    bar.style.setProperty("--share", top ? (Math.abs(product) / top).toFixed(3) : "0");
    list.append(
      N.el(
        "li",
        {},
        N.el(
          "button",
          { type: "button", class: "term", "data-term": n + 1, tabindex: n ? -1 : 0, onclick: () => N.jump(term.name, term.index, term.which) },
          N.el("span", { class: "place", text: place }),
          N.el("span", { class: "number", text: N.number(term.value, 4) }),
          N.el("span", { class: "times", text: `× ${N.number(term.weight, 4)}` }),
          N.el("span", { class: "product" }, bar, N.el("b", { text: N.number(product, 4) })),
        ),
      ),
    );
  };
  sorted.slice(0, TERMS).forEach(add);
  const rest = sorted.length - TERMS;
  const more = rest > 0 && N.el("button", { type: "button", class: "small", text: N.strings("formula.more", { n: rest }) });
  if (more) {
    more.addEventListener("click", () => {
      sorted.slice(TERMS).forEach((term, n) => add(term, n + TERMS));
      more.remove();
    });
  }
  N.rove(list, ".term");
  return [N.el("h4", { text: N.strings("formula.terms") }), N.el("p", { class: "quiet note", text: N.strings("formula.terms_say") }), list, more || null];
}

function math(given) {
  return given instanceof Node ? given : N.el("code", { text: String(given) });
}

N.view({
  id: "formula",
  applies: () => true,
  draw(panel, state) {
    let cell = null;
    try {
      cell = N.cell ? N.cell(state.tensor, state.index, state.which) : null;
    } catch (error) {
      console.error(error);
    }
    if (!cell) {
      const why = N.why(state.tensor, state.which);
      if (why) panel.append(N.el("p", { text: why }));
      fallback(panel, state);
      return;
    }
    const box = N.el("div", { class: "formula" }, N.el("div", { class: "letters" }, math(cell.text)), N.el("div", { class: "numbers" }, math(cell.numbers)), N.el("div", { class: "result" }, "= ", N.el("output", { text: N.number(cell.result, 8), title: N.exact(cell.result) })));
    const vector = N.el("details", { class: "vector" }, N.el("summary", { text: N.strings("formula.vector") }));
    panel.append(
      box,
      N.el("button", { type: "button", class: "small", text: N.strings("formula.copy"), onclick: () => N.copy(cell.numpy()) }),
      ...(cell.terms.length ? contributors(cell) : []).filter(Boolean),
      vector,
    );
    fallback(vector, state);
  },
});

// Enter on a cell: to what it is made of.
N.enter = () => {
  N.go({ view: "formula" });
  const first = body.querySelector("[data-term]");
  if (first) first.focus();
  else N.announce(N.strings("formula.no_terms"));
};
