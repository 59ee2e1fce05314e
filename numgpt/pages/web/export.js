// What can be taken along: CSV, SVG, PNG, print, and NumPy code.

const numeral = (x) => (Number.isNaN(x) ? "nan" : x === Infinity ? "inf" : x === -Infinity ? "-inf" : Object.is(x, -0) ? "-0.0" : String(x));
const fileName = (name, ending) => `${name.replace(/[^\w.-]+/g, "_")}.${ending}`;

function download(name, blob) {
  const link = N.el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  N.announce(N.strings("export.saved", { name }));
}

// A line an entry: its index, its value, its gradient; every digit that it takes to read the same floats again.
N.csv = (name) => {
  const tensor = N.tensor(name);
  const axes = tensor.axes.map((axis, i) => (axis === String(tensor.shape[i]) ? `axis_${i}` : axis));
  const lines = [[...axes, "value", "gradient"].join(",")];
  for (let at = 0; at < tensor.size; at += 1) {
    const numbers = [tensor.value, tensor.grad].map((array) => (array ? numeral(array[at]) : ""));
    lines.push([...N.index(tensor.shape, at), ...numbers].join(","));
  }
  return `${lines.join("\n")}\n`;
};

// The map of value or gradient as a picture.
function plane() {
  const tensor = N.tensor(N.state.tensor);
  const array = tensor[N.state.which] || tensor.value;
  const n = tensor.shape.length;
  const [rows, cols] = n > 1 ? tensor.shape.slice(-2) : [1, tensor.size];
  const base = n > 2 ? N.at(tensor.shape.slice(0, -2), N.state.index.slice(0, -2)) * rows * cols : 0;
  return { tensor, array, rows, cols, at: (r, c) => base + r * cols + c, top: array ? N.top(array) : 0 };
}
const hex = ([r, g, b]) => `#${[r, g, b].map((x) => Math.round(x).toString(16).padStart(2, "0")).join("")}`;

N.picture = () => {
  const { tensor, array, rows, cols, at, top } = plane();
  const side = Math.max(3, Math.min(16, Math.floor(1200 / cols)));
  const svg = N.svg("svg", { xmlns: "http://www.w3.org/2000/svg", width: cols * side, height: rows * side + 24, viewBox: `0 0 ${cols * side} ${rows * side + 24}` });
  svg.append(N.svg("title", { text: `${tensor.name} ${N.state.which}` }));
  for (let r = 0; r < rows; r += 1) {
    for (let c = 0; c < cols; c += 1) {
      const x = array[at(r, c)];
      svg.append(N.svg("rect", { x: c * side, y: r * side, width: side, height: side, fill: hex(N.colourOf(N.level(x, top))) }, rows * cols <= 4096 ? N.svg("title", { text: `${r}, ${c}: ${numeral(x)}` }) : null));
    }
  }
  svg.append(N.svg("text", { x: 2, y: rows * side + 17, "font-family": "sans-serif", "font-size": 12, text: `${tensor.name}, ${N.state.which}, −${N.number(top, 3)} … +${N.number(top, 3)}` }));
  return new XMLSerializer().serializeToString(svg);
};

function png() {
  const { tensor, array, rows, cols, at, top } = plane();
  const small = N.el("canvas", {});
  N.paint(small, { rows, cols, at }, array, top);
  const side = Math.max(1, Math.floor(1600 / Math.max(small.width, small.height)));
  const large = N.el("canvas", { width: small.width * side, height: small.height * side });
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, large.width, large.height);
  large.toBlob((blob) => download(fileName(`${tensor.name}.${N.state.which}`, "png"), blob));
}

// Code.

const WORDS = { f64: "float64", f32: "float32" };
function dtypeOf(name, which) {
  const packed = N.data.tensors[name][which];
  if (packed && packed.same) return dtypeOf(...packed.same);
  return WORDS[packed ? packed.dtype : "f64"];
}

function array(name, which) {
  const tensor = N.tensor(name);
  const numbers = [...tensor[which]].map(numeral).join(", ").replace(/\b(nan|inf)\b/g, "np.$1");
  return `np.array([${numbers}], "${dtypeOf(name, which)}").reshape(${JSON.stringify(tensor.shape)})`;
}

const CELLS = 20000; // numbers of all arrays of a piece of code
const identifier = (name) => name.replace(/\W/g, "_").replace(/^(?=\d)/, "_");

// What made the tensor, as it would be typed: arrays that it reads, the op, the entry that is selected.
N.numpy = () => {
  const { op, tensor: name, index, which } = N.state;
  const step = N.data.steps[name];
  const lines = ["import numpy as np"];
  const given = step ? [...step.reads, ...step.parameters] : [];
  const known = given.filter((other) => N.data.tensors[other] && N.tensor(other).value);
  const size = [name, ...known].reduce((sum, other) => sum + N.tensor(other).size, 0);
  const whole = which === "value" && step && given.length && size <= CELLS && known.length === given.filter((other) => !N.data.ids[other]).length && !N.isLayer(name);
  if (size > CELLS) {
    lines.push("import numgpt", "", 'trace = numgpt.Trace.read("trace.safetensors")');
    lines.push(`${identifier(name)} = trace.${which}["${name}"]`);
  } else if (whole) {
    lines.push("import numgpt", "", `# ${name}, made by ${step.op}`);
    for (const other of known) lines.push(`${identifier(other)} = ${array(other, "value")}`);
    const ids = given.filter((other) => N.data.ids[other]);
    for (const other of ids) lines.push(`${identifier(other)} = np.array([${N.data.ids[other].data.join(", ")}]).reshape(${JSON.stringify(N.data.ids[other].shape)})`);
    const { seed, drawn, ...own } = step.options || {}; // of a mask, which is written out
    const keep = drawn && step.given.keep;
    const mask = keep ? `, keep=np.array([${keep.data.join(", ")}]).reshape(${JSON.stringify(keep.shape)})` : "";
    const options = Object.entries(own).map(([key, value]) => `, ${key}=${typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value)}`);
    lines.push(`${identifier(name)} = numgpt.ops.${step.op}(${given.map(identifier).join(", ")}${options.join("")}${mask})`);
  } else if (N.tensor(name)[which]) {
    lines.push("", `# ${name}, its ${which === "grad" ? "gradient" : "value"}`);
    lines.push(`${identifier(name)} = ${array(name, which)}`);
  }
  lines.push(`print(${identifier(name)}[${index.length ? index.join(", ") : "()"}])  # ${numeral(N.entry(name, index, which))}`);
  return `${lines.join("\n")}\n`;
};

N.copy = copy;
async function copy(text) {
  const box = N.id("code");
  box.querySelector("textarea").value = text;
  try {
    await navigator.clipboard.writeText(text);
    N.announce(N.strings("export.copied"));
    box.querySelector("p").textContent = N.strings("export.copied");
  } catch {
    box.querySelector("p").textContent = N.strings("export.copy_yourself");
  }
  box.showModal();
  box.querySelector("textarea").select();
}

const ACTIONS = {
  numpy: () => copy(N.numpy()),
  link: () => copy(location.href),
  csv: () => download(fileName(N.state.tensor, "csv"), new Blob([N.csv(N.state.tensor)], { type: "text/csv" })),
  svg: () => download(fileName(`${N.state.tensor}.${N.state.which}`, "svg"), new Blob([N.picture()], { type: "image/svg+xml" })),
  png,
  print: () => print(),
};

N.exports = () => {
  const menu = N.id("export");
  const hasAddress = location.protocol !== "about:"; // the frame of a notebook has none
  const buttons = Object.entries(ACTIONS).filter(([key]) => key !== "link" || hasAddress).map(([key, run]) =>
    N.el("button", { type: "button", "data-export": key, text: N.strings(`export.${key}`), onclick: () => {
      const tensor = N.tensor(N.state.tensor);
      if (["csv", "svg", "png"].includes(key) && !tensor.value && !tensor.grad) {
        N.announce(N.strings("export.nothing"));
        return;
      }
      run();
      menu.open = false;
    } }),
  );
  const list = N.el("div", { class: "menu" }, ...buttons);
  menu.append(list);
  N.rove(list, "button", { horizontal: true })();
  addEventListener("click", (event) => {
    if (menu.open && !menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
};
