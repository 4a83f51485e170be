"use strict";
// Draws every chart of the page, and lets the key of variants bring one out in all of them.
const views = [];

function draw(source) {
  const options = { renderer: "svg", actions: false, ast: true, tooltip: { theme: "custom" } };
  const place = document.getElementById(source.dataset.figure);
  return vegaEmbed(place, JSON.parse(source.textContent), options).then((done) => views.push(done.view));
}

function focus(variant) {
  for (const view of views) {
    try { view.signal("focus", variant).run(); } catch { /* a chart without variants */ }
  }
}

const ready = Promise.all(Array.from(document.querySelectorAll(".chart-spec"), draw));
ready.then(() => { document.documentElement.dataset.charts = "drawn"; });

let pinned = "";
const keys = document.querySelectorAll(".key button");
for (const button of keys) {
  const variant = button.dataset.variant;
  button.addEventListener("pointerenter", () => focus(variant));
  button.addEventListener("pointerleave", () => focus(pinned));
  button.addEventListener("click", () => {
    pinned = pinned === variant ? "" : variant;
    for (const other of keys) other.setAttribute("aria-pressed", String(other.dataset.variant === pinned && pinned !== ""));
    focus(pinned);
  });
}
