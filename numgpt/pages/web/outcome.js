// What became of a changed run: its loss, token by token, and how far each value and gradient moved.

function guess(run, t) {
  const logits = run.value.lm_head;
  const V = N.data.config.vocab_size;
  const row = logits.subarray(t * V, (t + 1) * V);
  const top = row.reduce((most, x) => Math.max(most, x), -Infinity);
  const sum = row.reduce((total, x) => total + Math.exp(x - top), 0);
  const best = row.indexOf(top);
  return { best, p: 1 / sum, loss: (id) => top + Math.log(sum) - row[id] };
}

function guessCell(run, t) {
  const { best, p } = guess(run, t);
  if (best < 0) return N.el("td", { text: "NaN" });
  return N.el(
    "td",
    { class: "guesses" },
    N.el("bdi", { text: N.token(best) }),
    N.el("small", { text: ` ${(100 * p).toFixed(0)} %` }),
  );
}

function tokenTable({ before, after }, { tokens }) {
  const [own, targets] = [N.tokens(), N.lab.targetsOf(tokens)];
  const loss = (run, t, id) => (id === undefined || id < 0 ? null : guess(run, t).loss(id));
  const rows = tokens.map((id, t) => [
    loss(after, t, targets[t]),
    t < own.length ? loss(before, t, N.targets()[t]) : null,
  ]);
  const top = Math.max(...rows.flat().filter(Number.isFinite), 1e-9);
  const bar = (x, series) => N.lab.bar(x, x / top, series);
  const body = tokens.map((id, t) =>
    N.el(
      "tr",
      { class: id === own[t] ? "" : "here" },
      N.el(
        "th",
        { scope: "row" },
        N.el("small", { text: String(t) }),
        " ",
        N.el("bdi", { text: N.token(id) }),
      ),
      bar(rows[t][1], "s0"),
      bar(rows[t][0], "s1"),
      t < own.length ? guessCell(before, t) : N.el("td"),
      guessCell(after, t),
    ),
  );
  return tableOf(
    "prompt.by_token",
    ["token", "loss_before", "loss_after", "guess_before", "guess_after"],
    body,
  );
}

const tableOf = (title, keys, body) =>
  N.lab.table(
    N.strings(title),
    keys.map((key) => N.strings(`prompt.${key}`)),
    body,
  );

function changedTable({ before, after }, { edits }) {
  if (before.value.wte.length !== after.value.wte.length)
    return N.el("p", { class: "quiet", text: N.strings("prompt.other_length") });
  const share = (x, series) => N.lab.bar(x, x, series);
  const body = N.stepNames.map((name) => {
    const apart = (kind) => (before[kind][name] ? N.lab.apart(before[kind][name], after[kind][name]) : null);
    const isEdited = edits.some((edit) => edit.name === name);
    return N.el(
      "tr",
      { class: isEdited ? "here" : "" },
      N.el("th", { scope: "row" }, N.cellLink(name)),
      share(apart("value"), "s0"),
      share(apart("grad"), "s1"),
    );
  });
  return tableOf("prompt.changed", ["op", "value_apart", "grad_apart"], body);
}

function verdict({ before, after }) {
  const rise = after.loss - before.loss;
  const number = (key, x) => [
    N.el("dt", { text: N.strings(key) }),
    N.el("dd", {}, N.el("output", { text: N.number(x) })),
  ];
  return N.el(
    "dl",
    { class: "facts across" },
    ...number("prompt.loss_before", before.loss),
    ...number("prompt.loss_after", after.loss),
    ...number("prompt.rise", rise),
  );
}

/** What became of it. found: the runs {before, after}; change: {tokens, edits}. */
N.outcome = (found, change) => [
  verdict(found),
  N.el(
    "div",
    { class: "columns" },
    N.el("div", {}, N.el("h4", { text: N.strings("prompt.by_token") }), tokenTable(found, change)),
    N.el("div", {}, N.el("h4", { text: N.strings("prompt.changed") }), changedTable(found, change)),
  ),
];
