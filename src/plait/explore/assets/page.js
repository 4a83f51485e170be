// The page: what is chosen, and which picture shows what.

const SAMPLES = {
  Code: 'def path_entropy(paths):\n    """Entropy of routing paths, in nats."""\n    counts = Counter(paths)\n    total = sum(counts.values())\n    return -sum(n / total * log(n / total) for n in counts.values())\n',
  Prose:
    "A plait is made of strands that cross and come back, each visible for a while and then hidden. In spring the river was wide; in summer the boats lay on the sand, and the children of the town walked across to the island.",
  Repetition:
    "one two three one two three one two three one two three. The cat sat. The cat sat. The cat sat. The cat sat.",
  Scripts: "naïve café, Ελλάδα, Москва, 東京, עברית, العربية, 3.14159, 👩\u200d🔬, a\u202eb",
};

const given = JSON.parse(byId("data").textContent);
const encoder = new TextEncoder();
const state = {
  models: [],
  chosen: [0, null], // index of the model on side A and side B
  readings: [],
  token: null, // the active token, as {side, token, pinned}
  selection: null, // what was clicked, as {side, target, wide}; wide: all depths of the expert's bank
  preview: null,
  colour: "none",
  request: 0,
};
let views = []; // by side: {reading, flow, path}
let lists = []; // by token list: {side, tokens}; one list where both models cut the text alike

// ------------------------------------------------------------------ asking

async function ask(path, body) {
  const options = body
    ? {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      }
    : {};
  const answer = await fetch(path, { ...options, credentials: "omit" }).catch(() => null);
  if (!answer) throw new Error("The server does not answer: is plait explore still running?");
  const found = await answer
    .json()
    .catch(() => ({ error: `The server answered with status ${answer.status}.` }));
  if (!answer.ok)
    throw new Error(found.error ?? `The server answered with status ${answer.status}.`);
  return found;
}

async function trace() {
  const request = ++state.request;
  const text = byId("text").value;
  fail("");
  byId("main").setAttribute("aria-busy", "true");
  try {
    const sides = state.chosen.filter((index) => index !== null);
    const analyses = given
      ? sides.map((index) => given.texts[state.text].analyses[index])
      : await Promise.all(sides.map((model) => ask("api/analyse", { model, text })));
    if (request !== state.request) return;
    state.readings = sides.map((index, side) => new Reading(state.models[index], analyses[side]));
    state.traced = text;
    state.selection = state.preview = null;
    state.token = { side: 0, token: Math.floor(state.readings[0].size / 3), pinned: false };
    if (sides.length < 2 && state.colour === "difference") state.colour = "none";
    draw();
  } catch (error) {
    if (request === state.request) fail(error.message);
  } finally {
    if (request === state.request) byId("main").setAttribute("aria-busy", "false");
    size();
  }
}

function fail(message) {
  byId("error").textContent = message;
}

// ------------------------------------------------------------------ drawing

const alike = () =>
  state.readings.length < 2 ||
  state.readings[0].model.tokenizer === state.readings[1].model.tokenizer;

function draw() {
  const compare = state.readings.length > 1;
  document.documentElement.classList.toggle("compare", compare);
  const own = alike() ? [0] : [0, 1];
  lists = own.map((side) => ({
    side,
    tokens: new Tokens(state.readings[side], `tokens-${side}`, (kind, token) =>
      touch(side, kind, token),
    ),
  }));
  byId("tokens").replaceChildren(
    ...lists.flatMap(({ side, tokens }) =>
      [own.length > 1 ? title(side) : null, tokens.element].filter(Boolean),
    ),
  );
  const notice = byId("notice");
  notice.hidden = alike();
  if (!alike()) {
    const [a, b] = state.readings.map((reading) => whole(reading.size));
    notice.textContent = `The tokenizers differ: ${a} tokens for A, ${b} for B. Both are shown; ${told("pointing at", "tapping")} a token marks those of the other model that overlap it in the text.`;
  }
  colours();
  pictures();
}

function title(side) {
  return html(
    "p",
    { class: "side-title", "data-side": side },
    html("span", { class: "badge" }, "AB"[side]),
    ` tokens of ${state.readings[side].model.name}`,
  );
}

/** Draw both models' columns anew: after another text, or another width. */
function pictures() {
  for (const side of [0, 1]) {
    const place = document.querySelector(`.model[data-side="${side}"]`);
    place.hidden = !state.readings[side];
    if (place.hidden) place.replaceChildren();
  }
  views = state.readings.map((reading, side) => {
    const place = document.querySelector(`.model[data-side="${side}"]`);
    const act = (kind, target) => reach(side, kind, target);
    const path = new Path(reading, act);
    const scroller = html("div", { class: "scroller", tabindex: -1 });
    const about = html("p", { class: "about", "aria-live": "off" });
    const flow = html("div", { class: "card flow-card" }, heading(reading, side), scroller, about);
    place.classList.toggle("many", reading.model.top_k > 2);
    place.replaceChildren(
      flow,
      html("div", { class: "card path-card" }, html("h3", {}, "Path of a token"), path.element),
    );
    const picture = new Flow(reading, scroller.clientWidth - 8, window.innerHeight - 400, act);
    scroller.append(picture.element);
    return { reading, path, flow: picture, about };
  });
  update();
}

function heading(reading, side) {
  const { model, summary } = reading;
  const count = new Set(model.experts.filter(Boolean));
  const facts = [
    ["loss", `${fixed(summary.loss, 3)} nats`],
    ["bits per byte", fixed(summary.bits_per_byte, 3)],
    ["paths", `${whole(summary.paths)} for ${whole(reading.size)} tokens`],
    ["experts", `${[...count].join(", ")}, top ${model.top_k}`],
    ["parameters", millions(model.parameters)],
  ];
  return html(
    "div",
    { class: "head" },
    html("h2", {}, html("span", { class: "badge" }, "AB"[side]), model.name),
    html(
      "dl",
      {},
      ...facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))),
    ),
  );
}

const millions = (count) =>
  count < 1e6 ? `${(count / 1e3).toFixed(0)} k` : `${(count / 1e6).toFixed(1)} M`;

/** Show the active token and what is selected in every picture. */
function update(scroll = false) {
  const shown = state.preview ?? state.selection;
  const found = shown && meaning(shown);
  for (const { side, tokens } of lists) {
    const reading = state.readings[side];
    tokens.light(
      found && reading.across(state.readings[shown.side], found.tokens),
      shown?.side ?? 0,
    );
    tokens.activate(
      following(side),
      state.token?.pinned ?? false,
      scroll && state.token.side === side,
    );
  }
  views.forEach(({ reading, flow, path, about }, side) => {
    const lit = found && reading.across(state.readings[shown.side], found.tokens);
    const places = found && shown.side === side ? found.places : [];
    flow.light(lit);
    flow.mark(places);
    path.mark(places);
    const [token = null] = following(side);
    flow.follow(token);
    if (path.token !== token || path.pinned !== state.token?.pinned)
      path.show(token, state.token?.pinned ?? false);
    path.pinned = state.token?.pinned;
    about.textContent =
      found && shown.side === side
        ? found.words
        : lit
          ? `The same ${whole(lit.size)} tokens, here.`
          : "Banks by depth, joined where depths share one; ribbons as wide as the tokens that go from one first choice to the next. Of a token: ● first choice, ○ further experts, as large as their gates.";
  });
  say(found?.words);
  scope();
  readout();
}

// ------------------------------------------------------------------ text, models, theme

function size() {
  const bytes = encoder.encode(byId("text").value).length;
  const limit = state.models[0]?.max_bytes ?? 0;
  const fits = bytes <= limit;
  const tokens =
    state.readings[0] && state.traced === byId("text").value
      ? ` · ${whole(state.readings[0].size)} tokens of at most ${whole(state.readings[0].model.max_tokens)}`
      : "";
  byId("size").textContent = fits
    ? `${whole(bytes)} bytes${tokens}`
    : `${whole(bytes)} bytes, at most ${whole(limit)} are read: shorten the text`;
  const button = byId("form").querySelector(".primary");
  button.disabled = !fits || bytes === 0;
  button.classList.toggle("fresh", state.traced === byId("text").value);
}

function choose() {
  const other = byId("model-1").value;
  state.chosen = [Number(byId("model-0").value), other === "" ? null : Number(other)];
  trace();
}

function texts() {
  const place = byId("texts");
  const labels = given.texts.map(({ text }, i) => ({
    value: i,
    label: `${i + 1}`,
    title: text.slice(0, 80),
  }));
  const show = (i) => {
    state.text = i;
    byId("text").value = given.texts[i].text;
    segments(place, labels, i, (next) => {
      show(next);
      trace();
    });
  };
  show(0);
  place.hidden = given.texts.length < 2;
  place.prepend(html("span", { class: "quiet" }, "Texts"));
  byId("form").hidden = true; // it would take text that nobody answers
  byId("given").hidden = false;
}

async function start() {
  theme();
  try {
    state.models = (given ?? (await ask("api/models"))).models;
  } catch (error) {
    return fail(error.message);
  }
  const names = state.models.map(({ name }, i) => html("option", { value: i }, name));
  byId("model-0").append(...names);
  byId("model-1").append(
    html("option", { value: "" }, "nothing"),
    ...names.map((option) => option.cloneNode(true)),
  );
  document.querySelector('.pick[data-side="1"]').hidden = state.models.length < 2;
  if (state.models.length < 2) byId("model-0").replaceWith(state.models[0].name); // no choice
  else byId("model-0").addEventListener("change", choose);
  byId("model-1").addEventListener("change", choose);
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    trace();
  });
  byId("text").addEventListener("input", size);
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      trace();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target !== byId("text")) clear();
  });
  if (given) texts();
  else {
    for (const [name, text] of Object.entries(SAMPLES)) {
      byId("samples").append(
        html(
          "button",
          {
            type: "button",
            class: "plain",
            click: () => {
              byId("text").value = text;
              trace();
            },
          },
          name,
        ),
      );
    }
    byId("text").value = SAMPLES.Code;
  }
  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(pictures, 120);
  });
  await trace();
  document.documentElement.dataset.ready = "true";
}

start();
