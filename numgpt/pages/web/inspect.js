// What both pages share: the data, numbers as texts, colours, and the address that leads back to a place.

N.data = JSON.parse(document.getElementById("data").textContent);

N.floats = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, n) => view.getFloat32(4 * n, true));
};

N.fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");

// One of 12 steps of orange, or below 0 of blue; what is not 0 has a colour.
N.shade = (value, most) => {
  if (!Number.isFinite(value)) return "nan";
  const step = Math.min(12, Math.round((12 * Math.abs(value)) / most));
  if (step === 0) return Math.abs(value) > most / 100 ? (value > 0 ? "p1" : "n1") : "p0";
  return `${value > 0 ? "p" : "n"}${step}`;
};

N.quoted = (t) => `“${N.visible(N.data.tokens[t])}”`;

// What the address says, such as #layer=1&head=0, and the other way round.
N.fromAddress = () => Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].map(([key, value]) => [key, Number(value)]));
N.toAddress = (state) => {
  try {
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
  } catch {
    // a page in a frame of a notebook has no address of its own
  }
};

N.begin = (product) => {
  N.id("brand").textContent = product;
  N.id("title").textContent = N.data.title;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = N.strings(element.dataset.text);
};

N.done = () => document.documentElement.classList.add("ready");
