// Which value makes the difference between two prompts? For each the gradient's guess beside what a patch of it does.

const PATIENCE = 2e8; // products that are over before anybody minds

// What is patched at once: a label, a name, and where in its axes.
const GROUPS = {
  parts: (blocks, T) =>
    perToken(
      blocks.flatMap((n) => [`h.${n}.attn`, `h.${n}.mlp`]),
      T,
    ),
  stream: (blocks, T) => perToken(["drop", ...blocks.map((n) => `h.${n}`)], T),
  heads: (blocks, T) => blocks.flatMap((n) => perHead(`h.${n}.attn.heads.mix`, T)),
};

let group = "parts";
let asked = false; // whether the reader wants to wait
let measured = { key: "", sites: [] };

function perToken(names, T) {
  return names.flatMap((name) =>
    [...Array(T).keys()].map((t) => ({
      name,
      t,
      label: `${name}, ${N.strings("tensor.at", { axis: "T", n: t })}`,
      places: { T: t },
    })),
  );
}

/** The heads lie side by side in the channels (H D) of their mix. */
function perHead(name, T) {
  const { n_head: H, n_embd: C } = N.data.config;
  const D = C / H;
  const site = (h, t) => ({
    name,
    t,
    label: `${name}, ${N.strings("prompt.at_head", { head: h })}, T ${t}`,
    offsets: [...Array(D).keys()].map((d) => t * C + h * D + d),
  });
  return [...Array(H).keys()].flatMap((h) => [...Array(T).keys()].map((t) => site(h, t)));
}

function sitesOf(clean) {
  const { tokens } = N.lab.change();
  const blocks = [...Array(N.data.config.n_layer).keys()];
  const sites = GROUPS[group](blocks, tokens.length).filter(({ name }) => clean.value[name]);
  return sites.map((site) => ({
    ...site,
    offsets: site.offsets || N.lab.offsets(clean.shape[site.name], N.lab.axes(site.name), site.places),
  }));
}

/** Adds to each site what the gradient guesses, Σ g (other − value), and how the loss moves with the patch. */
function measure(sites, clean, other) {
  const { tokens } = N.lab.change();
  const { config, params } = N.lab().given;
  const targets = N.lab.targetsOf(tokens);
  return sites.map((site) => {
    const { name, offsets } = site;
    const values = offsets.map((offset) => other.value[name][offset]);
    const guess = offsets.reduce(
      (sum, offset, n) => sum + clean.grad[name][offset] * (values[n] - clean.value[name][offset]),
      0,
    );
    const patch = { [name]: { offsets, values } };
    const { loss } = N.engine.run({ config, params, tokens, targets, patch, backward: false });
    return { ...site, guess, actual: loss - clean.loss };
  });
}

/** The rank of each number, equal ones sharing the mean of theirs. */
function ranks(numbers) {
  const order = [...numbers.keys()].sort((a, b) => numbers[a] - numbers[b]);
  const found = new Array(numbers.length);
  for (let from = 0; from < order.length;) {
    let to = from;
    while (to + 1 < order.length && numbers[order[to + 1]] === numbers[order[from]]) to += 1;
    for (let n = from; n <= to; n += 1) found[order[n]] = (from + to) / 2;
    from = to + 1;
  }
  return found;
}

function correlation(a, b) {
  const mean = (x) => x.reduce((sum, y) => sum + y, 0) / x.length;
  const [ma, mb] = [mean(a), mean(b)];
  const sum = (f) => a.reduce((total, _, n) => total + f(a[n] - ma, b[n] - mb), 0);
  return sum((x, y) => x * y) / Math.sqrt(sum((x) => x * x) * sum((_, y) => y * y));
}

/** Spearman's: how alike two lists of numbers are ordered. */
N.lab.rankCorrelation = (a, b) => correlation(ranks(a), ranks(b));

function scatter(sites) {
  const [low, high] = [Math.min, Math.max].map((end) =>
    end(...sites.map(({ guess }) => guess), ...sites.map(({ actual }) => actual)),
  );
  const svg = N.chart({
    title: N.strings("attribution.chart"),
    x: { label: N.strings("attribution.guess") },
    y: { label: N.strings("attribution.actual") },
    series: [
      {
        label: N.strings("attribution.chart"),
        points: sites.map(({ guess, actual }) => [guess, actual]),
        mark: "dot",
      },
      {
        label: N.strings("attribution.equal"),
        points: [
          [low, low],
          [high, high],
        ],
        mark: "curve",
      },
    ],
  });
  svg.classList.add("scatter");
  svg.querySelectorAll(".s0 circle").forEach((dot, n) =>
    dot.append(
      N.svg("title", {
        text: `${sites[n].label}: ${N.number(sites[n].guess, 3)}, ${N.number(sites[n].actual, 3)}`,
      }),
    ),
  );
  return N.el("figure", {}, svg, N.el("figcaption", { text: N.strings("attribution.caption") }));
}

function table(sites) {
  const sorted = [...sites].sort((a, b) => Math.abs(b.actual) - Math.abs(a.actual));
  const top = Math.max(
    ...sites.flatMap(({ guess, actual }) => [Math.abs(guess), Math.abs(actual)]).filter(Number.isFinite),
    1e-300,
  );
  const bar = (x, series) => N.lab.bar(x, Math.abs(x) / top, series);
  const { tokens } = N.lab.change();
  const rows = sorted.map((site) =>
    N.el(
      "tr",
      {},
      N.el(
        "th",
        { scope: "row" },
        N.cellLink(site.name),
        " ",
        N.el("bdi", { text: `${site.t} ${N.token(tokens[site.t])}` }),
        site.label.includes("head") ? N.el("small", { text: ` ${site.label.split(", ")[1]}` }) : null,
      ),
      bar(site.guess, "s1"),
      bar(site.actual, "s0"),
    ),
  );
  const heads = ["site", "guess", "actual"].map((key) => N.strings(`attribution.${key}`));
  return N.lab.table(N.strings("attribution.sites"), heads, rows);
}

function results(panel, clean, other) {
  const { tokens, other: others } = N.lab.change();
  const key = JSON.stringify([tokens, others, group]);
  if (measured.key !== key) {
    const sites = sitesOf(clean);
    const isLong = sites.length * tokens.length * N.lab.size() > PATIENCE;
    if (isLong && !asked) {
      const wait = () => {
        asked = true;
        N.redraw("attribution");
      };
      panel.append(
        N.el("button", {
          type: "button",
          text: N.strings("attribution.wait", { n: sites.length }),
          onclick: wait,
        }),
      );
      return;
    }
    measured = { key, sites: measure(sites, clean, other) };
  }
  const { sites } = measured;
  const rho = N.lab.rankCorrelation(...["guess", "actual"].map((kind) => sites.map((site) => site[kind])));
  panel.append(
    N.el(
      "p",
      { class: "verdict-line" },
      N.strings("attribution.rho"),
      " ",
      N.el("output", { class: "agreement", text: N.number(rho, 3) }),
      ` (${N.strings("attribution.of", { n: sites.length })})`,
    ),
    N.el("div", { class: "columns" }, N.el("div", {}, scatter(sites)), N.el("div", {}, table(sites))),
  );
}

function fill(panel) {
  if (!N.lab.isReady(panel)) return;
  const { tokens, other } = N.lab.change();
  const choose = (value) => {
    group = value;
    asked = false;
    N.redraw("attribution");
    N.id("view").querySelector("select").focus();
  };
  const prompts = [
    ["prompt.tokens", tokens],
    ["prompt.other", other],
  ].map(([key, ids]) => [
    N.el("dt", { text: N.strings(key) }),
    N.el("dd", {}, N.el("bdi", { text: ids.map(N.token).join("") })),
  ]);
  panel.append(
    N.el("p", { class: "quiet", text: N.strings("attribution.says") }),
    N.el("dl", { class: "facts" }, ...prompts.flat()),
    N.el(
      "div",
      { class: "fields" },
      N.lab.field(
        "attribution.group",
        N.lab.select(
          Object.keys(GROUPS).map((one) => [one, N.strings(`attribution.${one}`)]),
          group,
          choose,
        ),
      ),
      N.el("button", {
        type: "button",
        text: N.strings("attribution.edit"),
        onclick: () => N.go({ view: "prompt" }, { push: true }),
      }),
    ),
  );
  if (tokens.length !== other.length) {
    panel.append(N.el("p", { class: "wrong", role: "alert", text: N.strings("prompt.lengths") }));
    return;
  }
  results(panel, N.lab.runOf(tokens, N.lab.targetsOf(tokens)), N.lab.runOf(other, N.lab.targetsOf(other)));
}

function draw(panel) {
  const asks = N.lab().reason ? "" : JSON.stringify([N.lab.change(), group, asked]);
  N.lab.keep("attribution", asks, panel, fill);
}

N.view({ id: "attribution", applies: () => Boolean(N.engine), draw });
