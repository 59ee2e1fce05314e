// Elements, texts and links: what every other file draws with. Nothing from the data becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const MATH = "http://www.w3.org/1998/Math/MathML";
const strings = JSON.parse(document.getElementById("strings").textContent);

function made(element, props, children) {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.setAttribute("class", value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

N.el = (tag, props, ...children) => made(document.createElement(tag), props, children);
N.svg = (tag, props, ...children) => made(document.createElementNS(SVG, tag), props, children);
N.mathml = (tag, props, ...children) => made(document.createElementNS(MATH, tag), props, children);
N.id = (id) => document.getElementById(id);

// The text of a key such as "rail.title"; {n} in it is values.n.
N.strings = (key, values = {}) => {
  let text = strings;
  for (const part of key.split(".")) text = text === undefined ? undefined : text[part];
  if (typeof text !== "string") return key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
};

N.announce = (text) => {
  const live = N.id("live");
  live.textContent = live.textContent === text ? `${text} ` : text; // the same words are said again
};

// Whether things may move: the reader's system, and the switch of this page.
const still = matchMedia("(prefers-reduced-motion: reduce)");
let switched = true;
N.motion = () => switched && !still.matches;
N.setMotion = (on) => {
  switched = on;
  document.documentElement.classList.toggle("still", !on);
};

// What cannot be seen of a text as signs.
const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
N.visible = (text) =>
  [...text]
    .map((c) => {
      if (SIGNS[c]) return SIGNS[c];
      const unseen = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Zs}\p{Co}\p{Cn}\p{Cs}]/u.test(c);
      return unseen ? `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` : c;
    })
    .join("")
    .replace(/^\p{M}/u, "◌$&"); // a mark needs something to stand on

// A list of which one item is a tab stop, and arrows move among the others.
N.rove = (container, selector, { horizontal = false, vertical = true } = {}) => {
  const items = () => [...container.querySelectorAll(selector)].filter((item) => item.offsetParent !== null);
  const stop = (item) => {
    for (const other of container.querySelectorAll(selector)) other.tabIndex = -1;
    if (item) item.tabIndex = 0;
  };
  const first = () => stop(container.querySelector(selector));
  if (container.dataset.roves) return first; // its items are new, its hands are not
  container.dataset.roves = "true";
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item && container.contains(item)) stop(item);
  });
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const all = items();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const to = {
      ArrowDown: vertical ? at + 1 : undefined,
      ArrowUp: vertical ? at - 1 : undefined,
      ArrowRight: horizontal ? at + 1 : undefined,
      ArrowLeft: horizontal ? at - 1 : undefined,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const item = all[Math.max(0, Math.min(all.length - 1, to))];
    stop(item);
    item.focus();
  });
  return first;
};
