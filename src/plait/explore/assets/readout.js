// The active token and the selection in a line, for small screens and for assistive technology.

/** The active token's path in one line, for screens where its table is out of sight. */
function readout() {
  const place = byId("readout");
  if (!state.token) {
    const words = told("Point at a token to see its path.", "Tap a token to see its path.");
    return place.replaceChildren(html("span", { class: "quiet" }, words));
  }
  const { side, token } = state.token;
  const { tokens } = state.readings[side];
  const lines = views.map(({ reading }, other) => {
    const [own] = following(other);
    return html(
      "span",
      { class: "line", "data-side": other },
      views.length > 1 ? html("span", { class: "badge" }, "AB"[other]) : null,
      own === undefined ? "–" : reading.path(own).join(" → "),
    );
  });
  place.replaceChildren(
    html("span", { class: "token" }, ...glyphs(tokens.shown[token])),
    html("span", { class: "quiet" }, `${fixed(tokens.loss[token], 2)} nats`),
    html("span", { class: "lines" }, ...lines),
  );
}

let saying = 0;
function say(words) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const parts = [];
    if (state.token) {
      const { side, token, pinned } = state.token;
      const { tokens } = state.readings[side];
      parts.push(
        `${spoken(tokens.shown[token])}, loss ${fixed(tokens.loss[token], 2)} nats, path ${state.readings[side].path(token).join(" ")}${pinned ? ", pinned" : ""}.`,
      );
    }
    if (words) parts.push(words);
    byId("live").textContent = parts.join(" ");
  }, 250);
}
