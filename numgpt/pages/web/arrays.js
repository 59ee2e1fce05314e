// The data of the page: arrays that are decoded when they are first asked for, numbers as texts, tokens.

const text = document.getElementById("data").textContent;
N.data = JSON.parse(text);
// Their keys are names and words of others, "constructor" perhaps.
for (const data of [N.data, N.data.beside]) {
  for (const key of data ? ["tensors", "steps", "ops", "ids", "texts", "sizes"] : []) Object.setPrototypeOf(data[key], null);
}

const decoded = new WeakMap();
const KINDS = { f64: Float64Array, f32: Float32Array };

function floats(packed) {
  const characters = atob(packed.data);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = characters.charCodeAt(i);
  const array = new KINDS[packed.stored || packed.dtype](bytes.buffer); // little-endian, as every browser's machine is
  return packed.stored ? KINDS[packed.dtype].from(array) : array; // doubles that are all floats
}

N.decode = (packed, data = N.data) => {
  if (!packed) return null;
  if (packed.same) {
    const [name, which] = packed.same;
    return N.decode(data.tensors[name][which], data);
  }
  if (!decoded.has(packed)) decoded.set(packed, floats(packed));
  return decoded.get(packed);
};

const tensors = new WeakMap();

function every(arrays, data) {
  return Object.fromEntries(Object.entries(arrays || {}).map(([key, packed]) => [key, N.decode(packed, data)]));
}

// {name, axes, shape, value, grad, norm, grad_norm, parts, reference, moments, largest} of a name.
N.tensor = (name, data = N.data) => {
  const raw = data.tensors[name];
  if (!raw) return null;
  if (!tensors.has(raw)) {
    tensors.set(raw, {
      name,
      axes: raw.axes,
      shape: raw.shape,
      size: raw.shape.reduce((product, n) => product * n, 1),
      norm: raw.norm === null ? null : Number(raw.norm),
      grad_norm: raw.grad_norm === null ? null : Number(raw.grad_norm),
      largest: raw.largest || null,
      get value() {
        return N.decode(raw.value, data);
      },
      get grad() {
        return N.decode(raw.grad, data);
      },
      get parts() {
        return every(raw.parts, data);
      },
      get reference() {
        return every(raw.reference, data);
      },
      get moments() {
        return every(raw.moments, data);
      },
    });
  }
  return tensors.get(raw);
};

N.at = (shape, index) => {
  let flat = 0;
  for (let i = 0; i < shape.length; i += 1) flat = flat * shape[i] + index[i];
  return flat;
};

N.index = (shape, flat) => {
  const index = new Array(shape.length);
  for (let i = shape.length - 1; i >= 0; i -= 1) {
    index[i] = flat % shape[i];
    flat = Math.floor(flat / shape[i]);
  }
  return index;
};

// One number of a tensor, or of the largest entries where no array is kept; undefined where it is not here.
N.entry = (name, index, which) => {
  const tensor = N.tensor(name);
  if (!tensor) return undefined;
  const array = tensor[which];
  if (array) return array[N.at(tensor.shape, index)];
  const kept = (tensor.largest || []).find((one) => one.index.join() === index.join());
  return kept && kept[which] !== null ? Number(kept[which]) : undefined;
};

// Numbers.

const signed = (digits) => digits.replace("-", "−").replace(/e\+?(-|−)?0*(\d)/, (_, sign, n) => `e${sign ? "−" : ""}${n}`);

function special(x) {
  if (x === undefined || x === null) return "–";
  if (Number.isNaN(x)) return "NaN";
  if (x === Infinity) return "+∞";
  if (x === -Infinity) return "−∞";
  if (x === 0) return Object.is(x, -0) ? "−0" : "0";
  return null;
}

N.number = (x, digits = 6) => special(x) ?? signed(x.toPrecision(digits));

// All digits that it takes to read the same float again.
N.exact = (x) => special(x) ?? signed(String(x));

// With its sign and at most six characters, as cells show it.
N.short = (x) => {
  const words = special(x);
  if (words !== null) return words;
  const size = Math.abs(x);
  const sign = x < 0 ? "−" : "+";
  if (size >= 99999.5 || size < 0.0005) return sign + signed(size.toExponential(0));
  if (size >= 99.95) return sign + size.toFixed(0);
  if (size >= 9.995) return sign + size.toFixed(1);
  if (size >= 0.9995) return sign + size.toFixed(2);
  return sign + size.toFixed(3).slice(1);
};

// How many floats lie between two numbers, in the dtype of the arrays.
const view = new DataView(new ArrayBuffer(8));
function order(x, single) {
  if (single) {
    view.setFloat32(0, x);
    const bits = BigInt(view.getInt32(0));
    return bits < 0n ? -(bits & 0x7fffffffn) : bits;
  }
  view.setFloat64(0, x);
  const bits = view.getBigInt64(0);
  return bits < 0n ? -(bits & 0x7fffffffffffffffn) : bits;
}
N.ulps = (a, b, single = false) => {
  if (Number.isNaN(a) || Number.isNaN(b)) return NaN;
  const apart = order(a, single) - order(b, single);
  return Number(apart < 0n ? -apart : apart);
};

// The largest size in an array, of its finite numbers.
N.top = (array, from = 0, to = array.length) => {
  let top = 0;
  for (let i = from; i < to; i += 1) {
    const size = Math.abs(array[i]);
    if (size > top && size < Infinity) top = size;
  }
  return top;
};

// The class of a cell's colour: twelve steps a side, by the square root of its share of the largest.
N.LEVELS = 12;
N.level = (x, top) => {
  if (!(Math.abs(x) <= Infinity)) return "nan";
  if (x === 0 || top === 0) return "p0";
  const step = Math.min(N.LEVELS, Math.ceil(N.LEVELS * Math.sqrt(Math.abs(x) / top)));
  return (x < 0 ? "n" : "p") + step;
};

// Names.

N.parameters = new Set(N.data.parameters);
N.isLayer = (name) => {
  const step = N.data.steps[name];
  return Boolean(step) && step.cost === null && !(N.data.ops[step.op] || { line: "" }).line;
};
N.stepNames = Object.keys(N.data.steps).filter((name) => N.data.tensors[name] && !N.isLayer(name));
if (!N.stepNames.length) N.stepNames = N.data.names.filter((name) => !N.parameters.has(name));
if (!N.stepNames.length) N.stepNames = [...N.data.names];

const readers = Object.create(null);
const users = Object.create(null);
for (const [name, step] of Object.entries(N.data.steps)) {
  for (const read of step.reads) (readers[read] ||= []).push(name);
  for (const used of step.parameters) (users[used] ||= []).push(name);
}
N.readers = (name) => readers[name] || [];
N.users = (name) => users[name] || [];

// The op to stand at when a tensor is opened: the one that made it, or uses it.
N.opOf = (name) => {
  if (N.data.steps[name]) return name;
  return N.users(name)[0] || N.readers(name)[0] || N.stepNames[0];
};

// The row of the rail for a step: a layer is the last op in it.
N.rowOf = (name) => {
  if (N.stepNames.includes(name)) return name;
  const inside = N.stepNames.filter((other) => other.startsWith(`${name}.`));
  return inside.length ? inside[inside.length - 1] : N.stepNames[0];
};

N.opName = (name) => (N.data.steps[name] || { op: "" }).op;
N.shapeText = (tensor) => (tensor.shape.length ? tensor.shape.join(" × ") : "()");

// Tokens.

const ids = N.data.ids.tokens;
const goals = N.data.ids.targets;
N.token = (id) => {
  const known = N.data.texts[String(id)];
  return known === undefined ? `#${id}` : N.visible(known);
};
N.row = (given) => {
  if (!given) return [];
  const length = given.shape.length ? given.shape[given.shape.length - 1] : 1;
  const row = N.state && N.state.row ? N.state.row : 0;
  return given.data.slice(row * length, (row + 1) * length);
};
N.tokens = () => N.row(ids);
N.targets = () => N.row(goals);
