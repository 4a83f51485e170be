"use strict";
// Draws every chart of the page, and lets the key of variants bring one out in all of them.
const views = [];

const opened = new Set();  // folds that had to be opened for their charts to have a width

function draw(source) {
  const options = { renderer: "svg", actions: false, ast: true, tooltip: { theme: "custom" } };
  const place = document.getElementById(source.dataset.figure);
  const fold = place.clientWidth ? null : place.closest("details:not([open])");
  if (fold) { fold.open = true; opened.add(fold); }
  return vegaEmbed(place, JSON.parse(source.textContent), options).then((done) => views.push(done.view));
}

function focus(variant) {
  for (const view of views) {
    try { view.signal("focus", variant).run(); } catch { /* a chart without variants */ }
  }
}

const ready = Promise.all(Array.from(document.querySelectorAll(".chart-spec"), draw));
ready.then(() => {
  for (const fold of opened) fold.open = false;
  document.documentElement.dataset.charts = "drawn";
});

for (const link of document.querySelectorAll(".contents a")) {
  link.addEventListener("click", () => {
    const fold = document.querySelector(`${link.hash} > details`);
    if (fold) fold.open = true;
    const bar = link.closest("details");
    if (bar) bar.open = false;
  });
}

// Paper shows what is folded, in browsers whose styles cannot do it too.
let unfolded = [];
window.addEventListener("beforeprint", () => {
  unfolded = Array.from(document.querySelectorAll("main details:not([open]):not(.screen)"));
  for (const fold of unfolded) fold.open = true;
});
window.addEventListener("afterprint", () => { for (const fold of unfolded) fold.open = false; });

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
