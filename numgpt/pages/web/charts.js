// A chart of lines and dots, linear or by orders of magnitude, drawn in SVG.

const ROOM = { left: 58, right: 14, top: 28, bottom: 40 };

function scale({ log }, numbers, from, to) {
  const usable = numbers.filter((x) => Number.isFinite(x) && (!log || x > 0)).map((x) => (log ? Math.log10(x) : x));
  let low = Math.min(...usable);
  let high = Math.max(...usable);
  if (!usable.length) [low, high] = [0, 1];
  if (high - low < 1e-12) [low, high] = [low - 0.5, high + 0.5];
  const margin = 0.04 * (high - low);
  [low, high] = [low - margin, high + margin];
  const place = (x) => from + (((log ? Math.log10(x) : x) - low) / (high - low)) * (to - from);
  return { place, ticks: ticks(low, high, log) };
}

// A number without the noughts at the end of its fraction.
const trimmed = (text) => text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");

function ticks(low, high, log) {
  if (log) {
    const every = Math.max(1, Math.ceil((high - low) / 6));
    const orders = [];
    for (let n = Math.ceil(low); n <= Math.floor(high); n += 1) if (n % every === 0) orders.push(n);
    if (orders.length > 1) return orders.map((n) => ({ at: 10 ** n, text: `1e${n < 0 ? "−" : ""}${Math.abs(n)}` }));
    return [low, high].map((n) => ({ at: 10 ** n, text: N.number(10 ** n, 2) }));
  }
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / unit); n <= Math.floor(high / unit); n += 1) {
    const at = n * unit + 0; // not −0
    found.push({ at, text: trimmed(N.number(Number(at.toPrecision(6)), 3)) });
  }
  return found;
}

const inside = ([x, y], axes) =>
  Number.isFinite(x) && Number.isFinite(y) && (!axes.x.log || x > 0) && (!axes.y.log || y > 0);

function drawn(one, n, xs, ys, axes) {
  const points = one.points.filter((point) => inside(point, axes)).map(([x, y]) => [xs.place(x), ys.place(y)]);
  const group = N.svg("g", { class: `series s${n}` }, N.svg("title", { text: one.label }));
  if (one.mark !== "dot" && points.length > 1) {
    const path = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    group.append(N.svg("path", { d: path, fill: "none" }));
  }
  if (one.mark === "curve") return group;
  for (const [x, y] of points) group.append(N.svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: one.mark === "dot" ? 4 : 2.5 }));
  return group;
}

N.chart = ({ title, x, y, series, marks = [], bands = [], width = 440, height = 260 }) => {
  const all = series.flatMap((one) => one.points).filter((point) => inside(point, { x, y }));
  const xs = scale(x, [...all.map((p) => p[0]), ...marks.map((m) => m.x)], ROOM.left, width - ROOM.right);
  const ys = scale(y, all.map((p) => p[1]), height - ROOM.bottom, ROOM.top);
  const svg = N.svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const bottom = height - ROOM.bottom;
  for (const { from, to, label } of bands) {
    const [left, right] = [xs.place(from), xs.place(to)];
    const size = { x: left.toFixed(1), y: ROOM.top, width: Math.max(0, right - left).toFixed(1), height: bottom - ROOM.top };
    svg.append(N.svg("rect", { class: "band", ...size }, N.svg("title", { text: label })));
  }
  for (const tick of xs.ticks) {
    const at = xs.place(tick.at).toFixed(1);
    svg.append(N.svg("line", { class: "rule", x1: at, x2: at, y1: ROOM.top, y2: bottom }));
    svg.append(N.svg("text", { x: at, y: bottom + 16, "text-anchor": "middle", text: tick.text }));
  }
  for (const tick of ys.ticks) {
    const at = ys.place(tick.at);
    svg.append(N.svg("line", { class: "rule", x1: ROOM.left, x2: width - ROOM.right, y1: at, y2: at }));
    svg.append(N.svg("text", { x: ROOM.left - 8, y: at + 4, "text-anchor": "end", text: tick.text }));
  }
  for (const mark of marks) {
    const at = xs.place(mark.x).toFixed(1);
    svg.append(N.svg("line", { class: "mark", x1: at, x2: at, y1: ROOM.top, y2: bottom }, N.svg("title", { text: mark.label })));
  }
  series.forEach((one, n) => svg.append(drawn(one, n, xs, ys, { x, y })));
  svg.append(N.svg("text", { class: "label", x: (ROOM.left + width - ROOM.right) / 2, y: height - 6, "text-anchor": "middle", text: x.label }));
  svg.append(N.svg("text", { class: "label", x: 4, y: 14, text: y.label }));
  return svg;
};
