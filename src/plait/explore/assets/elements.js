// Building the page. Text enters as text nodes and attribute values only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function html(tag, attributes, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const fingers = window.matchMedia("(hover: none)");
/** What a reader is to do, in the words of the device: a finger points at nothing and has no keys. */
const told = (mouse, finger) => (fingers.matches ? finger : mouse);

const byId = (id) => document.getElementById(id);
const whole = (value) => value.toLocaleString("en");
const fixed = (value, digits) => (value == null ? "–" : value.toFixed(digits));
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
const range = (count) => Array.from({ length: count }, (_, i) => i);

/** Runs of neighbouring depths: [[first, last]…]. */
function runsOf(depths) {
  const runs = [];
  for (const depth of depths) {
    if (runs.length && depth === runs.at(-1)[1] + 1) runs.at(-1)[1] = depth;
    else runs.push([depth, depth]);
  }
  return runs;
}

/** Depths as text: 2–5, 8. */
function spans(depths) {
  return runsOf(depths)
    .map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`))
    .join(", ");
}

/** A token as text nodes and marks; see explore/visible.py for what marks are. */
function glyphs(shown) {
  return shown.map((piece, i) => {
    if (i % 2 === 0) return piece === "" ? null : document.createTextNode(piece);
    const space = piece.startsWith("·");
    return html("span", { class: space ? "mark space" : "mark" }, piece);
  });
}

/** A token in words, for assistive technology. */
function spoken(shown) {
  return (
    shown
      .map((piece, i) => (i % 2 ? ` ${piece} ` : piece))
      .join("")
      .trim() || "space"
  );
}

/** A row of buttons of which one is pressed. */
function segments(place, options, chosen, choose) {
  place.querySelectorAll("button").forEach((button) => button.remove());
  for (const { value, label, title } of options) {
    place.append(
      html(
        "button",
        {
          type: "button",
          title,
          "aria-pressed": String(value === chosen),
          click: () => choose(value),
        },
        label,
      ),
    );
  }
}
