// A formula that is wider than its box is opened there: a fraction becomes a quotient in one line, a root a word before
// brackets, and brackets no longer grow; then a line may be broken before the signs inside, and after all of that scrolls.

const MOST = 12; // rounds of opening
const PRODUCT = "·\u2062";

const sign = (text) => N.mathml("mo", { text, stretchy: "false" });
const isOperator = (part, texts) => part.localName === "mo" && texts.includes(part.textContent);

// In brackets, where it would be read otherwise without: a sum before or after a stroke, a product after it.
function held(element, loose) {
  const parts = N.flatMath(element);
  const isLoose = parts.some((part) => isOperator(part, loose)) || element.textContent.startsWith("−");
  return isLoose ? [sign("("), ...parts, sign(")")] : parts;
}

// What an element is when it is opened; null for what has nothing to open.
function opened(element) {
  const [first, last] = element.children;
  switch (element.localName) {
    case "mfrac":
      return [...held(first, "+−"), sign("/"), ...held(last, `+−${PRODUCT}`)];
    case "msqrt":
      return [sign("√"), sign("("), ...[...element.children].flatMap(N.flatMath), sign(")")];
    case "msup": {
      const base = opened(first);
      return base && [...base.slice(0, -1), N.mathml("msup", null, base.at(-1), last)];
    }
    case "mrow":
      for (const part of element.children) if (part.localName === "mo") part.setAttribute("stretchy", "false");
      return [...element.children].some((part) => isOperator(part, "({")) ? [...element.children].flatMap(N.flatMath) : null;
    default:
      return null;
  }
}

const widthOf = (element) => element.getBoundingClientRect().width;

// Break a piece between its factors, or open the first of its parts that can be; false where there is none.
function open(math, parts) {
  const pieces = N.broken([...math.firstChild.children], true);
  if (pieces.length > 1) {
    math.replaceWith(...pieces);
    return true;
  }
  const [piece] = pieces; // which has taken the parts
  math.replaceWith(piece);
  for (const part of parts) {
    const inside = opened(part);
    if (!inside) continue;
    part.replaceWith(...inside);
    piece.replaceWith(...N.broken([...piece.firstChild.children], true));
    return true;
  }
  return false;
}

// The pieces of lines that are too wide, each with its parts, the widest first.
function tooWide(box, room) {
  return [...box.querySelectorAll(".formula-line")].flatMap((line) => {
    const most = room - parseFloat(getComputedStyle(line).paddingLeft);
    const wide = [...line.children].filter((piece) => piece.localName === "math" && widthOf(piece) > most);
    return wide.map((piece) => [piece, [...piece.firstChild.children].sort((a, b) => widthOf(b) - widthOf(a))]);
  });
}

// Open what is wider than a box, until it fits: all that is too wide at once, as each look lays out the page. Whether
// anything was.
N.narrow = (box) => {
  const { paddingLeft, paddingRight } = getComputedStyle(box);
  const room = box.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  let isOpened = false;
  for (let n = 0; n < MOST; n += 1) {
    const found = tooWide(box, room).filter(([piece, parts]) => open(piece, parts));
    if (!found.length) break;
    isOpened = true;
  }
  return isOpened;
};
