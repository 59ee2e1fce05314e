// The whole page anew, with a run of the reader's for its data: every view then shows that run.

const source = document.documentElement.cloneNode(true); // as the file has it: nothing was drawn yet

/** An array as the data have it. */
function packed(array) {
  const bytes = new Uint8Array(Float64Array.from(array).buffer);
  const parts = [];
  for (let i = 0; i < bytes.length; i += 8192)
    parts.push(String.fromCharCode(...bytes.subarray(i, i + 8192)));
  return { dtype: "f64", data: btoa(parts.join("")) };
}

const plain = (x) => (Number.isFinite(x) ? x : String(x));
const norm = (array) => (array ? plain(Math.sqrt(array.reduce((sum, x) => sum + x * x, 0))) : null);

function tensorOf(name, run) {
  const [value, grad] = [run.value[name], run.grad[name]];
  const tensor = {
    axes: N.data.tensors[name].axes,
    shape: run.shape[name],
    norm: norm(value),
    grad_norm: norm(grad),
  };
  for (const [key, array] of Object.entries({ value, grad })) tensor[key] = array ? packed(array) : null;
  const parts = Object.entries(run.parts[name] || {});
  if (parts.length > 1)
    tensor.parts = Object.fromEntries(parts.map(([place, array]) => [place, packed(array)]));
  return tensor;
}

/** A row of ids with the axes that the page's own have: one row of a batch is a batch of one. */
function idsOf(row) {
  const { shape } = N.data.ids.tokens;
  return { shape: [...shape.slice(0, -1).map(() => 1), row.length], data: [...row] };
}

/** What the page is called: the text of its tokens. */
function titleOf(tokens) {
  const text = tokens.map((id) => N.data.texts[String(id)] ?? "").join("");
  return N.strings("anew.title", { text: text.length > 60 ? `${text.slice(0, 60)}…` : text || N.data.title });
}

/**
 * The data of the page with another run: {tokens, targets, patch}, where patch is what was edited, {name: {offsets, values}};
 * the rest is what the view of prompts needs to go on: {edits, other}.
 */
function dataOf({ tokens, targets, patch, ...rest }) {
  const ids = { tokens: idsOf(tokens), targets: idsOf(targets) };
  const { config, params } = N.lab().given;
  const run = N.engine.run({ config, params, ...ids, patch });
  const names = N.data.names.filter((name) => run.value[name]);
  const T = tokens.length;
  return {
    ...N.data,
    dtype: "float64",
    title: titleOf(tokens),
    source: N.data.anew ? N.data.source : `${N.data.source}, ${N.strings("anew.source")}`,
    names,
    edited: Object.keys(patch),
    tensors: Object.fromEntries(names.map((name) => [name, tensorOf(name, run)])),
    sizes: { ...N.data.sizes, T, S: T, ...("B" in N.data.sizes ? { B: 1 } : {}) },
    ids,
    differences: [],
    reference_source: null,
    beside: null,
    anew: { patch, ...rest },
  };
}

/** Open the page of another run in place of this one; the browser's reload brings this one back. */
N.anew = (run) => {
  const page = source.cloneNode(true);
  const json = JSON.stringify(dataOf(run)).replaceAll("<", "\\u003c");
  page.querySelector("#data").textContent = json;
  document.open();
  document.write(`<!doctype html>\n${page.outerHTML}`);
  document.close();
};
