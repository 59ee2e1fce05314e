// GPT-2 in float64, forwards and backwards by hand, so that a page can ask "what if" without Python.
//
// The text mirrors numgpt/layers/transformer.py and heads.py, line against line, so every name is the
// Record's. tests/test_pages_engine.py holds values and gradients to Python's: to 1e-12, since exp and log may
// differ by an ulp.

N.engine = (() => {
  const { size, last, plus } = N.ops.arrays;
  const { embedding, positions, dropout, add, linear, unembedding, layernorm, ACTIVATIONS } = N.ops;
  const { headsOf, scores, probs, mix, crossEntropy } = N.ops;

  // The Record: names what is computed, edits it in flight, and adds up gradients of shared parameters.

  class Record {
    constructor(config, params, edits) {
      Object.assign(this, { config, params, edits, scope: "", shapes: shapes(config) });
      Object.assign(this, { value: {}, grad: {}, shape: {}, parts: {}, filed: {} });
    }

    /** The same record, with name. before every name. */
    below(name) {
      return Object.assign(Object.create(this), { scope: `${this.scope}${name}.` });
    }

    /** Run an op's or a layer's forward, file it under name and return its value. op null: an absent step. */
    run(name, op, inputs, options = {}) {
      const full = this.scope + name;
      if (op === null) {
        this.filed[full] = null;
        return inputs[0];
      }
      const names = (op.parameters ?? []).map((part) => `${options.shares ?? full}.${part}`);
      const parameters = names.map((n) => this.params[n] && { shape: this.shapes[n], data: this.params[n] });
      const [made, saved] = op.isLayer
        ? [op.forward(this.below(name), ...inputs), []]
        : op.forward(...inputs, ...parameters, options);
      const edit = this.edits[full];
      const value = edit ? { shape: made.shape, data: edit.forward(made.data.slice()) } : made;
      const present = names.map((n) => (this.params[n] ? n : null));
      this.filed[full] = { op, saved, names: present, inputs: inputs.length, edit };
      this.value[full] = value.data;
      this.shape[full] = value.shape;
      return value;
    }

    /** Undo what was filed under name: gradients of parameters go home, those of the inputs are returned. */
    back(name, dy) {
      const full = this.scope + name;
      const entry = this.filed[full];
      if (entry === null) return dy;
      this.grad[full] = dy.data;
      const arrived = entry.edit ? { shape: dy.shape, data: entry.edit.backward(dy.data.slice()) } : dy;
      if (entry.op.isLayer) return entry.op.backward(this.below(name), arrived);
      const gradients = entry.op.backward(arrived, entry.saved);
      entry.names.forEach((parameter, n) => {
        if (parameter) this.bringHome(parameter, full, gradients[entry.inputs + n].data);
      });
      const dx = gradients.slice(0, entry.inputs).filter((gradient) => gradient !== null);
      return dx.length > 1 ? dx : dx[0];
    }

    bringHome(parameter, place, gradient) {
      const before = this.grad[parameter];
      this.grad[parameter] = before ? before.map((number, n) => number + gradient[n]) : gradient;
      (this.parts[parameter] ??= {})[place] = gradient;
    }
  }

  // Layers, written out in both directions.

  const layer = (forward, backward) => ({ isLayer: true, forward, backward });

  const norm = (r, name, x) => r.run(name, layernorm, [x], { eps: r.config.layer_norm_epsilon });

  const heads = layer(
    (r, qkv) => {
      const q = r.run("q", headsOf(0), [qkv], r.config);
      const k = r.run("k", headsOf(1), [qkv], r.config);
      const v = r.run("v", headsOf(2), [qkv], r.config);
      const s = r.run("scores", scores, [q, k]);
      const P = r.run("probs", probs, [s]);
      return r.run("mix", mix, [P, v]);
    },
    (r, dy) => {
      const [dP, dv] = r.back("mix", dy);
      const ds = r.back("probs", dP);
      const [dq, dk] = r.back("scores", ds);
      return plus(plus(r.back("q", dq), r.back("k", dk)), r.back("v", dv));
    },
  );

  const attention = layer(
    (r, x) => {
      const qkv = r.run("c_attn", linear, [x]);
      const y = r.run("heads", heads, [qkv]);
      return r.run("resid_dropout", dropout, [r.run("c_proj", linear, [y])]);
    },
    (r, dy) => {
      const dheads = r.back("c_proj", r.back("resid_dropout", dy));
      const dqkv = r.back("heads", dheads);
      return r.back("c_attn", dqkv);
    },
  );

  const ffn = layer(
    (r, x) => {
      const h = r.run("c_fc", linear, [x]);
      const a = r.run("act", ACTIVATIONS[r.config.activation], [h]);
      return r.run("dropout", dropout, [r.run("c_proj", linear, [a])]);
    },
    (r, dy) => {
      const da = r.back("c_proj", r.back("dropout", dy));
      const dh = r.back("act", da);
      return r.back("c_fc", dh);
    },
  );

  const preNormBlock = layer(
    (r, x) => {
      const mid = r.run("mid", add, [x, r.run("attn", attention, [norm(r, "ln_1", x)])]);
      return r.run("out", add, [mid, r.run("mlp", ffn, [norm(r, "ln_2", mid)])]);
    },
    (r, dy) => {
      const [dout, dmlp] = r.back("out", dy);
      const [dmid, dattn] = r.back("mid", plus(dout, r.back("ln_2", r.back("mlp", dmlp))));
      return plus(dmid, r.back("ln_1", r.back("attn", dattn)));
    },
  );

  const postNormBlock = layer(
    (r, x) => {
      const mid = norm(r, "ln_1", r.run("mid", add, [x, r.run("attn", attention, [x])]));
      return norm(r, "ln_2", r.run("out", add, [mid, r.run("mlp", ffn, [mid])]));
    },
    (r, dy) => {
      const [dout, dmlp] = r.back("out", r.back("ln_2", dy));
      const [dmid, dattn] = r.back("mid", r.back("ln_1", plus(dout, r.back("mlp", dmlp))));
      return plus(dmid, r.back("attn", dattn));
    },
  );

  const BLOCKS = { pre: preNormBlock, post: postNormBlock };

  function forward(r, tokens, targets) {
    let x = r.run("wte", embedding, [tokens]);
    x = r.run("wpe", positions, [x]);
    x = r.run("drop", dropout, [x]);
    for (let i = 0; i < r.config.n_layer; i++) x = r.run(`h.${i}`, BLOCKS[r.config.norm_position], [x]);
    if (r.config.norm_position === "pre") x = norm(r, "ln_f", x);
    else r.run("ln_f", null, [x]);
    const logits = r.run("lm_head", unembedding, [x], { shares: r.config.tied ? "wte" : undefined });
    return targets && r.run("loss", crossEntropy, [logits, targets]);
  }

  function backward(r) {
    let dx = r.back("lm_head", r.back("loss", { shape: [], data: Float64Array.of(1) }));
    dx = r.back("ln_f", dx);
    for (let i = r.config.n_layer - 1; i >= 0; i--) dx = r.back(`h.${i}`, dx);
    r.back("wte", r.back("wpe", r.back("drop", dx)));
  }

  // What a page asks for.

  // Fields of a Config that have to be there, with any value; others that may have any; and those that have one
  // of these. Any other has to be null.
  const NEEDED = "vocab_size block_size n_layer n_head n_embd bias tied layer_norm_epsilon".split(" ");
  const ANY = [...NEEDED, "n_inner", "biases", "dropout", "rotary_base", "alibi_scale", "n_expert_active", "router"];
  const ALONE = {
    activation: Object.keys(ACTIVATIONS),
    norm_position: Object.keys(BLOCKS),
    norm: ["layernorm"],
    positions: ["learned"],
    embed_norm: [false],
    qk_norm: ["none"],
    sink: [false],
    n_expert: [0],
    embed_scale: [1],
    residual_scale: [1],
    logit_scale: [1],
  };

  /** Why the engine cannot run a Config: the first field that it does not know; null where it can. */
  function supports(config) {
    for (const [field, value] of Object.entries(config)) {
      const isOfHead = field === "biases" && String(value).split(" ").includes("head");
      if ((ANY.includes(field) && !isOfHead) || ALONE[field]?.includes(value)) continue;
      if (field in ALONE || (value !== null && value !== undefined)) {
        const known = (ALONE[field] ?? ["null"]).join(", ");
        return N.strings("engine.field", { field, value: JSON.stringify(value), known });
      }
    }
    const absent = [...NEEDED, "activation", "norm_position"].find((field) => !(field in config));
    return absent ? N.strings("engine.absent", { field: absent }) : null;
  }

  /** Name → shape of every parameter of a Config, as in numgpt/architecture/parameters.py. */
  function shapes(config) {
    const { vocab_size: V, block_size: P, n_embd: C, biases = null } = config;
    const F = config.n_inner ?? 4 * C;
    const hasBias = (place) => (biases === null ? config.bias : biases.split(" ").includes(place));
    const named = { "wte.weight": [V, C], "wpe.weight": [P, C] };
    const part = (name, place, shape) => {
      named[`${name}.weight`] = shape;
      if (hasBias(place)) named[`${name}.bias`] = shape.slice(-1);
    };
    for (let i = 0; i < config.n_layer; i++) {
      part(`h.${i}.ln_1`, "norm", [C]);
      part(`h.${i}.attn.c_attn`, "qkv", [C, 3 * C]);
      part(`h.${i}.attn.c_proj`, "out", [C, C]);
      part(`h.${i}.ln_2`, "norm", [C]);
      part(`h.${i}.mlp.c_fc`, "mlp", [C, F]);
      part(`h.${i}.mlp.c_proj`, "mlp", [F, C]);
    }
    if (config.norm_position === "pre") part("ln_f", "norm", [C]);
    return config.tied ? named : { ...named, "lm_head.weight": [V, C] };
  }

  /** The parameters of a page in float64: {name: Float64Array}; an Error names one whose numbers it lacks. */
  function params(data) {
    const named = {};
    for (const name of data.parameters) {
      const { value } = N.tensor(name);
      if (!value) refuse("engine.cut", { name });
      named[name] = Float64Array.from(value);
    }
    return named;
  }

  /**
   * Values and gradients of every name, and the loss; without targets, or with backward: false, values alone.
   *
   * tokens, targets: integers, nested as (..., T), or {shape, data} as a page has them. ablate: names whose
   * value becomes 0. patch: name → what goes on instead of its value: an array for all of it,
   * {offsets, values} for some entries, or a pair [function, transpose] of arrays, as in numgpt's edits; a
   * function alone, through which no gradient passes back, with backward: false. An edited value is what the
   * result has, and the gradient with respect to that.
   */
  function run({ config, params, tokens, targets = null, patch = {}, ablate = [], backward: both = true }) {
    const reason = supports(config);
    if (reason) throw new Error(reason);
    const [ids, aims] = idsOf(config, tokens, targets);
    expectParameters(config, params);
    const r = new Record(config, params, editsOf(patch, ablate));
    const loss = forward(r, ids, aims);
    const unknown = Object.keys(r.edits).find((name) => !r.filed[name]);
    if (unknown !== undefined) {
      refuse("engine.name", { name: unknown, such: Object.keys(r.value).slice(0, 4).join(", ") });
    }
    if (aims && both) backward(r);
    const { grad, parts } = r;
    const [value, shape] = [
      { ...r.value, ...params },
      { ...r.shape, ...r.shapes },
    ];
    return { value, grad, shape, parts, loss: loss ? loss.data[0] : null };
  }

  /** Name → a pair of functions of arrays. */
  function editsOf(patch, ablate) {
    const edits = Object.entries(patch).map(([name, given]) => [name, editOf(name, given)]);
    const to0 = (array) => array.fill(0);
    return Object.fromEntries([...edits, ...ablate.map((name) => [name, { forward: to0, backward: to0 }])]);
  }

  /** An edit as a pair of functions of arrays. */
  function editOf(name, given) {
    if (Array.isArray(given) && given.length === 2 && given.every((f) => typeof f === "function")) {
      return { forward: given[0], backward: given[1] };
    }
    if (typeof given === "function") {
      return { forward: given, backward: () => refuse("engine.function", { name }) };
    }
    if (ArrayBuffer.isView(given)) return replaced(name, null, given);
    if (given?.offsets && given?.values) return replaced(name, given.offsets, given.values);
    return refuse("engine.patch", { name });
  }

  /** The entries at some offsets, or all, are given, and so no gradient passes back to what they were. */
  function replaced(name, offsets, values) {
    const put = (array, number) => {
      const at = offsets ?? [...array.keys()];
      if (at.length !== values.length || at.some((offset) => !(offset in array))) {
        refuse("engine.shape", { name, given: values.length, expected: offsets?.length ?? array.length });
      }
      at.forEach((offset, n) => (array[offset] = number(n)));
      return array;
    };
    return { forward: (array) => put(array, (n) => values[n]), backward: (dy) => put(dy, () => 0) };
  }

  /** Tokens and targets as arrays, checked against the Config and each other. */
  function idsOf(config, tokens, targets) {
    const ids = idArray("tokens", tokens, config, 0);
    if (last(ids) > config.block_size) refuse("engine.long", { T: last(ids), most: config.block_size });
    if (targets === null) return [ids, null];
    const aims = idArray("targets", targets, config, -Infinity);
    if (String(aims.shape) !== String(ids.shape)) {
      refuse("engine.unequal", { tokens: ids.shape, targets: aims.shape });
    }
    return [ids, aims];
  }

  /** Integers below V as an array. */
  function idArray(what, given, config, least) {
    const shape = given.shape ? [...given.shape] : [];
    for (let part = given; Array.isArray(part); part = part[0]) shape.push(part.length);
    const data = given.data ?? given.flat(Infinity);
    if (!data.length || data.length !== size(shape)) refuse("engine.empty", { what });
    const wrong = data.find((id) => !Number.isInteger(id) || id < least || id >= config.vocab_size);
    if (wrong !== undefined) refuse("engine.id", { what, id: wrong, V: config.vocab_size });
    return { shape, data };
  }

  function expectParameters(config, params) {
    const expected = shapes(config);
    for (const name of new Set([...Object.keys(expected), ...Object.keys(params)])) {
      const [given, shape] = [params[name]?.length ?? 0, expected[name] ?? [0]];
      if (given !== size(shape)) refuse("engine.parameter", { name, given, shape });
    }
  }

  function refuse(key, values = {}) {
    throw new Error(N.strings(key, values));
  }

  return { supports, params, run };
})();
