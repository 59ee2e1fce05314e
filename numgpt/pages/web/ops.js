// The ops of GPT-2 in float64, each a pair as in numgpt/ops:
//
//     forward(inputs…, parameters…, options) → [y, saved]
//     backward(dy, saved) → a gradient for each input, then for each parameter
//
// with the equations of the pair in Python, whose docstrings derive them. An array is {shape, data}, data a
// Float64Array; inputs may have any leading axes. Letters as everywhere: C channels, V words, I → O of a map, H
// heads of size D, T queries. exp and log may differ by an ulp from NumPy's, and from another browser's.

N.ops = (() => {
  // Arrays.

  const size = (shape) => shape.reduce((product, n) => product * n, 1);
  const zeros = (shape) => ({ shape, data: new Float64Array(size(shape)) });
  const like = (x) => zeros(x.shape);
  const last = (x) => x.shape[x.shape.length - 1];
  const rows = (x) => x.data.length / last(x);
  const plus = (x, y) => ({ shape: x.shape, data: x.data.map((number, n) => number + y.data[n]) });
  const each = (x, f) => ({ shape: x.shape, data: x.data.map(f) });

  // A matrix in an array: its data, where it begins, and how far apart its rows and its columns are.
  const matrix = (x, width, start = 0) => [x.data, start, width, 1];
  const transposed = ([data, start, row, column]) => [data, start, column, row];

  /** y[i, j] += f Σ_k a[i, k] b[k, j] */
  function multiply([I, K, J], a, b, y, f = 1) {
    const [A, a0, ai, ak] = a;
    const [B, b0, bk, bj] = b;
    const [Y, y0, yi, yj] = y;
    for (let i = 0; i < I; i++) {
      for (let j = 0; j < J; j++) {
        let [sum, p, q] = [0, a0 + i * ai, b0 + j * bj];
        for (let k = 0; k < K; k++, p += ak, q += bk) sum += A[p] * B[q];
        Y[y0 + i * yi + j * yj] += f * sum;
      }
    }
  }

  /** Σ_n x[n, :] of an array's rows. */
  function sumRows(x) {
    const C = last(x);
    const sum = zeros([C]);
    for (let n = 0; n < x.data.length; n++) sum.data[n % C] += x.data[n];
    return sum;
  }

  // Ops.

  /** y_n = W[ids_n];  dW_v = Σ_{n: ids_n = v} dy_n */
  const embedding = {
    parameters: ["weight"],
    forward(ids, W) {
      const C = last(W);
      const y = zeros([...ids.shape, C]);
      ids.data.forEach((id, n) => y.data.set(W.data.subarray(id * C, (id + 1) * C), n * C));
      return [y, [ids, W]];
    },
    backward(dy, [ids, W]) {
      const C = last(W);
      const dW = like(W);
      for (let n = 0; n < dy.data.length; n++) {
        dW.data[ids.data[Math.floor(n / C)] * C + (n % C)] += dy.data[n];
      }
      return [null, dW];
    },
  };

  /** y_t = x_t + W[t];  dx = dy, dW[t] = Σ over the batch of dy_t */
  const positions = {
    parameters: ["weight"],
    forward(x, W) {
      const used = x.shape.slice(-2).reduce((T, C) => T * C);
      return [each(x, (number, n) => number + W.data[n % used]), [W, used]];
    },
    backward(dy, [W, used]) {
      const dW = like(W);
      dy.data.forEach((number, n) => (dW.data[n % used] += number));
      return [dy, dW];
    },
  };

  /** Nothing is dropped in a page: y = x, dx = dy */
  const dropout = { forward: (x) => [x, []], backward: (dy) => [dy] };

  /** z = x + y;  dx = dz, dy = dz */
  const add = { forward: (x, y) => [plus(x, y), []], backward: (dz) => [dz, dz] };

  /** y = x W + b;  dx = dy Wᵀ, dW = xᵀ dy, db = Σ_n dy_n */
  const linear = {
    parameters: ["weight", "bias"],
    forward(x, W, b) {
      const [I, O] = W.shape;
      const y = zeros([...x.shape.slice(0, -1), O]);
      multiply([rows(x), I, O], matrix(x, I), matrix(W, O), matrix(y, O));
      return [b ? each(y, (number, n) => number + b.data[n % O]) : y, [x, W, b]];
    },
    backward(dy, [x, W, b]) {
      const [I, O] = W.shape;
      const [dx, dW] = [like(x), like(W)];
      multiply([rows(x), O, I], matrix(dy, O), transposed(matrix(W, O)), matrix(dx, I));
      multiply([I, rows(x), O], transposed(matrix(x, I)), matrix(dy, O), matrix(dW, O));
      return [dx, dW, b && sumRows(dy)];
    },
  };

  /** y = x Wᵀ with W as in the embedding;  dx = dy W, dW = dyᵀ x */
  const unembedding = {
    parameters: ["weight"],
    forward(x, W) {
      const [V, C] = W.shape;
      const y = zeros([...x.shape.slice(0, -1), V]);
      multiply([rows(x), C, V], matrix(x, C), transposed(matrix(W, C)), matrix(y, V));
      return [y, [x, W]];
    },
    backward(dy, [x, W]) {
      const [V, C] = W.shape;
      const [dx, dW] = [like(x), like(W)];
      multiply([rows(x), V, C], matrix(dy, V), matrix(W, C), matrix(dx, C));
      multiply([V, rows(x), C], transposed(matrix(dy, V)), matrix(x, C), matrix(dW, C));
      return [dx, dW];
    },
  };

  /** x̂ = (x − μ) r, y = x̂ w + b;  with g = dy w: dx = r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), dw = Σ dy x̂, db = Σ dy */
  const layernorm = {
    parameters: ["weight", "bias"],
    forward(x, w, b, { eps }) {
      const C = last(x);
      const xhat = like(x);
      const rstd = new Float64Array(rows(x));
      for (let n = 0; n < rows(x); n++) {
        const [row, s] = withinRange(x.data.subarray(n * C, (n + 1) * C));
        const mean = row.reduce((sum, number) => sum + number, 0) / C;
        const centred = row.map((number) => number - mean);
        const variance = centred.reduce((sum, c) => sum + c * c, 0) / C;
        const r = 1 / Math.sqrt(variance + eps / s / s);
        xhat.data.set(
          centred.map((c) => c * r),
          n * C,
        );
        rstd[n] = r / s;
      }
      const y = each(xhat, (number, n) => number * w.data[n % C] + (b ? b.data[n % C] : 0));
      return [y, [xhat, rstd, w, b]];
    },
    backward(dy, [xhat, rstd, w, b]) {
      const C = last(dy);
      const g = each(dy, (number, n) => number * w.data[n % C]);
      const dx = like(dy);
      for (let n = 0; n < rows(dy); n++) {
        let [mean, along] = [0, 0];
        for (let i = n * C; i < (n + 1) * C; i++) {
          mean += g.data[i] / C;
          along += (g.data[i] * xhat.data[i]) / C;
        }
        for (let i = n * C; i < (n + 1) * C; i++) {
          dx.data[i] = rstd[n] * (g.data[i] - mean - xhat.data[i] * along);
        }
      }
      return [dx, sumRows(each(dy, (number, n) => number * xhat.data[n])), b && sumRows(dy)];
    },
  };

  /** A vector whose Σ x² might overflow is divided by a power of two s, which costs no digit. */
  function withinRange(row) {
    const largest = row.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
    if (!(largest > 0.25 * Math.sqrt(Number.MAX_VALUE / row.length))) return [row, 1];
    const s = 2 ** Math.min(1023, Math.floor(Math.log2(largest)));
    return [row.map((number) => number / s), s];
  }

  // Activations, which act on each number by itself: y = f(x), dx = dy f'(x).

  const elementwise = (f, slope) => ({
    forward: (x) => [each(x, f), [x]],
    backward: (dy, [x]) => [each(dy, (number, n) => number * slope(x.data[n]))],
  });

  /** Cut to ±most, where the gates have been 0 or 1 for long: x² would overflow, and 0 · ∞ is no number. */
  const bounded = (x, most = 64) => (Math.abs(x) > most ? Math.sign(x) * most : x);

  /** σ = ½ (1 + tanh u) = 1/(1 + exp(−2u)), u = √(2/π) (x + 0.044715 x³) */
  function gate(x) {
    const near = bounded(x);
    return 1 / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (near + 0.044715 * near * near * near)));
  }

  /** Φ(x) = ½ erfc(−x/√2) */
  const normal = (x) => 0.5 * erfc(bounded(x, 2 ** 14) * -Math.SQRT1_2);

  const ACTIVATIONS = {
    gelu_tanh: elementwise(
      (x) => x * gate(x),
      (x) => {
        const [s, near] = [gate(x), bounded(x)];
        return s + 2 * near * s * (1 - s) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * near * near);
      },
    ),
    gelu: elementwise(
      (x) => x * normal(x),
      (x) => normal(x) + bounded(x) * Math.exp(-0.5 * bounded(x) ** 2) * (1 / Math.sqrt(2 * Math.PI)),
    ),
    relu: elementwise(
      (x) => (x > 0 || Number.isNaN(x) ? x : 0),
      (x) => (x > 0 ? 1 : 0),
    ),
  };

  // Cody's rational functions, as in numgpt/ops/erf.py, the coefficient of the highest power first.
  const NEAR_ZERO = [
    [
      1.85777706184603153e-1, 3.1611237438705656, 1.13864154151050156e2, 3.77485237685302021e2,
      3.20937758913846947e3,
    ],
    [1, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3],
  ];
  const MIDDLE = [
    [
      2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
      2.98635138197400131e2, 8.8195222124176909e2, 1.71204761263407058e3, 2.05107837782607147e3,
      1.23033935479799725e3,
    ],
    [
      1, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
      3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
    ],
  ];
  const LARGE = [
    [
      1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
      1.60837851487422766e-2, 6.58749161529837803e-4,
    ],
    [
      1, 2.56852019228982242, 1.87295284992346047, 5.27905102951428412e-1, 6.05183413124413191e-2,
      2.33520497626869185e-3,
    ],
  ];

  /** erfc(x) = 1 − erf(x), accurate in the right tail too. */
  function erfc(x) {
    const far = Math.abs(x);
    if (!(far > 0.46875)) return 1 - x * ratio(NEAR_ZERO, x * x);
    const tail = far > 4 ? erfcLarge(far) : expMinusSquare(far) * ratio(MIDDLE, far);
    return x < 0 ? 2 - tail : tail;
  }

  function erfcLarge(x) {
    const u = 1 / (x * x);
    return (expMinusSquare(x) / x) * (1 / Math.sqrt(Math.PI) - u * ratio(LARGE, u));
  }

  /** exp(−x²) = exp(−s²) exp(−(x − s)(x + s)) with s so short that s² is exact. */
  function expMinusSquare(x) {
    const s = Math.floor(Math.min(x, 64) * 16) / 16;
    return Math.exp(-s * s) * Math.exp(-(x - s) * (x + s));
  }

  const horner = (coefficients, x) => coefficients.reduce((sum, a) => sum * x + a, 0);
  const ratio = ([numerator, denominator], x) => horner(numerator, x) / horner(denominator, x);

  // The steps of attention. An array (..., H, T, ·) is a pile of matrices, one a head and sequence.

  /** Part 0 (q), 1 (k) or 2 (v) of packed qkv (..., T, 3HD) → (..., H, T, D); dqkv is dy there, else 0 */
  const headsOf = (part) => ({
    forward(qkv, { n_head: H }) {
      const [T, D] = [qkv.shape.at(-2), last(qkv) / 3 / H];
      const y = zeros([...qkv.shape.slice(0, -2), H, T, D]);
      return [each(y, (_, n) => qkv.data[packed(n, part, H, T, D)]), [qkv.shape]];
    },
    backward(dy, [shape]) {
      const dqkv = zeros(shape);
      dy.data.forEach((number, n) => (dqkv.data[packed(n, part, ...dy.shape.slice(-3))] = number));
      return [dqkv];
    },
  });

  /** Where in qkv the number n of a part lies. */
  function packed(n, part, H, T, D) {
    const [d, t, h, b] = [n % D, Math.floor(n / D) % T, Math.floor(n / D / T) % H, Math.floor(n / D / T / H)];
    return ((b * T + t) * 3 + part) * H * D + h * D + d;
  }

  /** s_ts = ⟨q_t, k_s⟩/√D;  dq = ds k/√D, dk = dsᵀ q/√D */
  const scores = {
    forward(q, k) {
      const [T, D] = q.shape.slice(-2);
      const s = zeros([...q.shape.slice(0, -1), T]);
      for (let m = 0; m * T * D < q.data.length; m++) {
        const [qs, ks] = [matrix(q, D, m * T * D), matrix(k, D, m * T * D)];
        multiply([T, D, T], qs, transposed(ks), matrix(s, T, m * T * T), 1 / Math.sqrt(D));
      }
      return [s, [q, k]];
    },
    backward(ds, [q, k]) {
      const [T, D] = q.shape.slice(-2);
      const [dq, dk] = [like(q), like(k)];
      for (let m = 0; m * T * D < q.data.length; m++) {
        const [one, at] = [matrix(ds, T, m * T * T), m * T * D];
        multiply([T, T, D], one, matrix(k, D, at), matrix(dq, D, at), 1 / Math.sqrt(D));
        multiply([T, T, D], transposed(one), matrix(q, D, at), matrix(dk, D, at), 1 / Math.sqrt(D));
      }
      return [dq, dk];
    },
  };

  /** P_ts = exp(s_ts − m)/Σ over the keys s ≤ t, else 0;  ds = P (dP − Σ_s P dP) */
  const probs = {
    forward(s) {
      const T = last(s);
      const P = like(s);
      for (let n = 0; n < rows(s); n++) {
        const row = s.data.subarray(n * T, (n + 1) * T);
        P.data.set(softmax(row.map((number, key) => (key <= n % T ? number : -Infinity)))[0], n * T);
      }
      return [P, [P]];
    },
    backward(dP, [P]) {
      const T = last(P);
      const mean = new Float64Array(rows(P));
      dP.data.forEach((number, n) => (mean[Math.floor(n / T)] += P.data[n] * number));
      return [each(dP, (number, n) => P.data[n] * (number - mean[Math.floor(n / T)]))];
    },
  };

  /** [exp(x − m)/Σ, m, Σ] with m = max x */
  function softmax(x) {
    const m = x.reduce((most, number) => Math.max(most, number), -Infinity);
    const exps = x.map((number) => Math.exp(number - m));
    const sum = exps.reduce((total, number) => total + number, 0);
    return [exps.map((number) => number / sum), m, sum];
  }

  /** y_t = Σ_s P_ts v_s, the heads side by side;  dP = dy vᵀ, dv = Pᵀ dy */
  const mix = {
    forward(P, v) {
      const [H, T, D] = v.shape.slice(-3);
      const y = zeros([...v.shape.slice(0, -3), T, H * D]);
      for (let m = 0; m * T * D < v.data.length; m++) {
        multiply([T, T, D], matrix(P, T, m * T * T), matrix(v, D, m * T * D), oneHead(y, m, v));
      }
      return [y, [P, v]];
    },
    backward(dy, [P, v]) {
      const [T, D] = v.shape.slice(-2);
      const [dP, dv] = [like(P), like(v)];
      for (let m = 0; m * T * D < v.data.length; m++) {
        multiply([T, D, T], oneHead(dy, m, v), transposed(matrix(v, D, m * T * D)), matrix(dP, T, m * T * T));
        multiply([T, T, D], transposed(matrix(P, T, m * T * T)), oneHead(dy, m, v), matrix(dv, D, m * T * D));
      }
      return [dP, dv];
    },
  };

  /** The matrix (T, D) of the m-th head in an array that has the heads of v side by side. */
  function oneHead(y, m, v) {
    const [H, T, D] = v.shape.slice(-3);
    return matrix(y, H * D, Math.floor(m / H) * T * H * D + (m % H) * D);
  }

  /** Σ_n (ln Σ_v exp(z_nv) − z_n,target)/N;  dz = (softmax − onehot)/N. A negative target does not count. */
  const crossEntropy = {
    forward(logits, targets) {
      const V = last(logits);
      const count = targets.data.filter((id) => id >= 0).length;
      if (count === 0) throw new Error(N.strings("engine.no_target"));
      const predicted = like(logits);
      let loss = 0;
      targets.data.forEach((id, n) => {
        const row = logits.data.subarray(n * V, (n + 1) * V);
        const [p, m, sum] = softmax(row);
        predicted.data.set(p, n * V);
        if (id >= 0) loss += Math.log(sum) - (row[id] - m);
      });
      return [{ shape: [], data: Float64Array.of(loss * (1 / count)) }, [predicted, targets, count]];
    },
    backward(dy, [predicted, targets, count]) {
      const V = last(predicted);
      const dlogits = each(predicted, (p, n) => {
        const id = targets.data[Math.floor(n / V)];
        return id < 0 ? 0 : (p - (n % V === id ? 1 : 0)) * (dy.data[0] * (1 / count));
      });
      return [dlogits, null];
    },
  };

  return {
    arrays: { size, last, plus },
    embedding,
    positions,
    dropout,
    add,
    linear,
    unembedding,
    layernorm,
    ACTIVATIONS,
    headsOf,
    scores,
    probs,
    mix,
    crossEntropy,
  };
})();
