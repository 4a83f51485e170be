// The page: what is chosen, and which picture shows what.

const SAMPLES = {
  Code: 'def path_entropy(paths):\n    """Entropy of routing paths, in nats."""\n    counts = Counter(paths)\n    total = sum(counts.values())\n    return -sum(n / total * log(n / total) for n in counts.values())\n',
  Prose: "A plait is made of strands that cross and come back, each visible for a while and then hidden. In spring the river was wide; in summer the boats lay on the sand, and the children of the town walked across to the island.",
  Repetition: "one two three one two three one two three one two three. The cat sat. The cat sat. The cat sat. The cat sat.",
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
  const options = body ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
  const answer = await fetch(path, { ...options, credentials: "omit" }).catch(() => null);
  if (!answer) throw new Error("The server does not answer: is plait explore still running?");
  const found = await answer.json().catch(() => ({ error: `The server answered with status ${answer.status}.` }));
  if (!answer.ok) throw new Error(found.error ?? `The server answered with status ${answer.status}.`);
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

const alike = () => state.readings.length < 2 || state.readings[0].model.tokenizer === state.readings[1].model.tokenizer;

function draw() {
  const compare = state.readings.length > 1;
  document.documentElement.classList.toggle("compare", compare);
  const own = alike() ? [0] : [0, 1];
  lists = own.map((side) => ({ side, tokens: new Tokens(state.readings[side], `tokens-${side}`, (kind, token) => touch(side, kind, token)) }));
  byId("tokens").replaceChildren(...lists.flatMap(({ side, tokens }) => [own.length > 1 ? title(side) : null, tokens.element].filter(Boolean)));
  const notice = byId("notice");
  notice.hidden = alike();
  if (!alike()) {
    const [a, b] = state.readings.map((reading) => whole(reading.size));
    notice.textContent = `The tokenizers differ: ${a} tokens for A, ${b} for B. Both are shown; pointing at a token marks those of the other model that overlap it in the text.`;
  }
  colours();
  pictures();
}

function title(side) {
  return html("p", { class: "side-title", "data-side": side }, html("span", { class: "badge" }, "AB"[side]), ` tokens of ${state.readings[side].model.name}`);
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
    place.replaceChildren(flow, html("div", { class: "card path-card" }, html("h3", {}, "Path of a token"), path.element));
    const picture = new Flow(reading, scroller.clientWidth, window.innerHeight - 360, act);
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
    "div", { class: "head" },
    html("h2", {}, html("span", { class: "badge" }, "AB"[side]), model.name),
    html("dl", {}, ...facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)))),
  );
}

const millions = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(0)} k` : `${(count / 1e6).toFixed(1)} M`);

function colours() {
  const options = [
    { value: "none", label: "plain" },
    { value: "loss", label: "loss", title: "cross-entropy of the token, nats" },
    { value: "entropy", label: "entropy", title: "of the router's distribution: mean over depths, as a share of the even distribution's" },
  ];
  if (state.readings.length > 1 && alike()) options.push({ value: "difference", label: "loss A − B", title: "nats" });
  if (!options.some(({ value }) => value === state.colour)) state.colour = "none";
  segments(byId("colours"), options, state.colour, (value) => { state.colour = value; colours(); });
  const legend = [];
  for (const { side, tokens } of lists) {
    const reading = state.readings[side];
    const { loss } = reading.tokens;
    if (state.colour === "loss") {
      const most = Math.log(reading.model.vocabulary);
      tokens.colour("loss", (token) => (loss[token] == null ? null : loss[token] / most));
      legend[0] = ["0 nats", "loss", `${fixed(most, 1)}, a uniform guess`];
    } else if (state.colour === "entropy") {
      tokens.colour("entropy", (token) => reading.unsureness(token));
      legend[0] = ["0, sure", "entropy", "1, even over all experts"];
    } else if (state.colour === "difference") {
      const gap = loss.map((value, token) => (value == null ? null : value - state.readings[1].tokens.loss[token]));
      const most = Math.max(0.05, quantile(gap.map(Math.abs), 0.95));
      tokens.colour("difference", (token) => gap[token] / most);
      legend[0] = [`A better by ${fixed(most, 2)} nats`, "difference", `B better by ${fixed(most, 2)}`];
    } else tokens.colour(null);
  }
  byId("legend").replaceChildren(
    ...legend.flatMap(([low, kind, high]) => [html("span", {}, low), html("i", { class: `scale ${kind}` }), html("span", {}, high)]),
  );
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))] ?? 0;
}

// ------------------------------------------------------------------ pointing and selecting

/** A token of a side was pointed at, moved to by key, or clicked. */
function touch(side, kind, token) {
  const now = state.token;
  const same = now?.side === side && now.token === token;
  if (kind === "over") {
    if (now?.pinned || same) return;
    state.token = { side, token, pinned: false };
  } else if (kind === "move") state.token = { side, token, pinned: now?.pinned ?? false };
  else state.token = { side, token, pinned: !(same && now.pinned) };
  update(kind === "move");
}

/** Something in a model's picture was pointed at or clicked. */
function reach(side, kind, target) {
  if (kind === "over") state.preview = target && { side, target, wide: state.selection?.wide ?? false };
  else {
    const again = state.selection && target && state.selection.side === side && JSON.stringify(key(state.selection.target)) === JSON.stringify(key(target));
    state.selection = target && !again ? { side, target, wide: state.selection?.wide ?? false } : null;
    state.preview = null;
  }
  update();
}

const key = ({ kind, level, expert, from, to }) => [kind, level, expert, from, to];

/** What a selection stands for: its tokens with strengths, the experts to mark, and a sentence. */
function meaning({ side, target, wide }) {
  const reading = state.readings[side];
  const depth = reading.levels[target.level].depth;
  if (target.kind === "ribbon") {
    const to = reading.levels[target.level + 1].depth;
    return {
      tokens: new Map(target.tokens.map((token) => [token, 1])),
      places: [{ level: target.level, expert: target.from }, { level: target.level + 1, expert: target.to }],
      words: `Depth ${depth} expert ${target.from} → depth ${to} expert ${target.to}: ${count(target.tokens.length, reading.size)}.`,
    };
  }
  const bank = reading.sameBank(target.level);
  const levels = wide && bank.length > 1 ? bank : [target.level];
  const tokens = reading.receivers(levels, target.expert);
  const even = reading.model.top_k / reading.model.experts[depth];
  const depths = spans(levels.map((level) => reading.levels[level].depth));
  const first = reading.first[target.level][target.expert];
  return {
    tokens,
    places: levels.map((level) => ({ level, expert: target.expert })),
    words:
      levels.length > 1
        ? `Expert ${target.expert} of bank ${reading.model.plans.experts.banks[depth]} received ${count(tokens.size, reading.size)} at one or more of depths ${depths}.`
        : `Expert ${target.expert} at depth ${depth} received ${count(tokens.size, reading.size)}, ${whole(first)} as first choice; even load: ${percent(even)}.`,
  };
}

const count = (some, all) => `${whole(some)} of ${whole(all)} tokens (${percent(some / all)})`;

function update(scroll = false) {
  const shown = state.preview ?? state.selection;
  const found = shown && meaning(shown);
  for (const { side, tokens } of lists) {
    const reading = state.readings[side];
    tokens.light(found && reading.across(state.readings[shown.side], found.tokens), shown?.side ?? 0);
    tokens.activate(following(side), state.token?.pinned ?? false, scroll && state.token.side === side);
  }
  views.forEach(({ reading, flow, path, about }, side) => {
    const lit = found && reading.across(state.readings[shown.side], found.tokens);
    const places = found && shown.side === side ? found.places : [];
    flow.light(lit);
    flow.mark(places);
    path.mark(places);
    const [token = null] = following(side);
    flow.follow(token);
    if (path.token !== token || path.pinned !== state.token?.pinned) path.show(token, state.token?.pinned ?? false);
    path.pinned = state.token?.pinned;
    about.textContent = found && shown.side === side ? found.words : lit ? `The same ${whole(lit.size)} tokens, here.` : "Banks by depth, joined where depths share one; ribbons as wide as the tokens that go from one first choice to the next. Of a token: ● first choice, ○ further experts, as large as their gates.";
  });
  say(found?.words);
  scope();
  readout();
}

/** Tokens of a side that the active token stands for. */
function following(side) {
  if (!state.token || !state.readings[side]) return [];
  const { side: from, token } = state.token;
  return [...state.readings[side].across(state.readings[from], new Map([[token, 1]])).keys()].sort((a, b) => a - b);
}

/** The line on what is selected, and whether it counts at one depth or at all that share the bank. */
function scope() {
  const shown = state.preview ?? state.selection;
  byId("selection").textContent = shown ? (state.readings.length > 1 ? `${"AB"[shown.side]}: ` : "") + meaning(shown).words : "Point at a token for its path. Click an expert for the tokens that it received.";
  const place = byId("scope");
  const { side, target, wide } = state.selection ?? {};
  if (!target) return place.replaceChildren();
  const reading = state.readings[side];
  const depths = reading.sameBank(target.level).map((level) => reading.levels[level].depth);
  const here = reading.levels[target.level].depth;
  const options = [];
  if (target.kind === "expert" && depths.length > 1) {
    options.push({ value: "here", label: `at depth ${here}` }, { value: "wide", label: `at all of its bank: ${spans(depths)}` });
  }
  segments(place, [...options, { value: "clear", label: "clear" }], wide ? "wide" : "here", (value) => {
    state.selection = value === "clear" ? null : { side, target, wide: value === "wide" };
    update();
  });
}

/** The active token's path in one line, for screens where its table is out of sight. */
function readout() {
  const place = byId("readout");
  if (!state.token) return place.replaceChildren(html("span", { class: "quiet" }, "Tap a token to see its path."));
  const { side, token } = state.token;
  const { tokens } = state.readings[side];
  const lines = views.map(({ reading }, other) => {
    const [own] = following(other);
    return html("span", { class: "line", "data-side": other }, views.length > 1 ? html("span", { class: "badge" }, "AB"[other]) : null, own === undefined ? "–" : reading.path(own).join(" → "));
  });
  place.replaceChildren(html("span", { class: "token" }, ...glyphs(tokens.shown[token])), html("span", { class: "quiet" }, `${fixed(tokens.loss[token], 2)} nats`), html("span", { class: "lines" }, ...lines));
}

let saying = 0;
function say(words) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const parts = [];
    if (state.token) {
      const { side, token, pinned } = state.token;
      const { tokens } = state.readings[side];
      parts.push(`${spoken(tokens.shown[token])}, loss ${fixed(tokens.loss[token], 2)} nats, path ${state.readings[side].path(token).join(" ")}${pinned ? ", pinned" : ""}.`);
    }
    if (words) parts.push(words);
    byId("live").textContent = parts.join(" ");
  }, 250);
}

function clear() {
  if (state.token?.pinned) state.token = { ...state.token, pinned: false };
  else if (state.selection) state.selection = null;
  else state.token = null;
  state.preview = null;
  update();
}

// ------------------------------------------------------------------ text, models, theme

function size() {
  const bytes = encoder.encode(byId("text").value).length;
  const limit = state.models[0]?.max_bytes ?? 0;
  const fits = bytes <= limit;
  const tokens = state.readings[0] && state.traced === byId("text").value ? ` · ${whole(state.readings[0].size)} tokens of at most ${whole(state.readings[0].model.max_tokens)}` : "";
  byId("size").textContent = fits ? `${whole(bytes)} bytes${tokens}` : `${whole(bytes)} bytes, at most ${whole(limit)} are read: shorten the text`;
  const button = byId("form").querySelector(".primary");
  button.disabled = !fits || bytes === 0;
  button.classList.toggle("fresh", state.traced === byId("text").value);
}

function choose() {
  const other = byId("model-1").value;
  state.chosen = [Number(byId("model-0").value), other === "" ? null : Number(other)];
  trace();
}

function theme() {
  const order = ["auto", "light", "dark"];
  let now = "auto";
  try { now = localStorage.getItem("theme") ?? "auto"; } catch { /* storage is not allowed here */ }
  const button = byId("theme");
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[now];
    button.setAttribute("aria-label", `Colours: ${now}. Press for ${order[(order.indexOf(now) + 1) % 3]}.`);
  };
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % 3];
    try { localStorage.setItem("theme", now); } catch { /* then it lasts as long as the page */ }
    apply();
  });
  apply();
}

function texts() {
  const place = byId("texts");
  const labels = given.texts.map(({ text }, i) => ({ value: i, label: `${i + 1}`, title: text.slice(0, 80) }));
  const show = (i) => {
    state.text = i;
    byId("text").value = given.texts[i].text;
    segments(place, labels, i, (next) => { show(next); trace(); });
  };
  show(0);
  place.hidden = given.texts.length < 2;
  place.prepend(html("span", { class: "quiet" }, "Texts"));
  byId("text").readOnly = true;
  byId("form").classList.add("given");
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
  byId("model-1").append(html("option", { value: "" }, "nothing"), ...names.map((option) => option.cloneNode(true)));
  document.querySelector('.pick[data-side="1"]').hidden = state.models.length < 2;
  byId("model-0").addEventListener("change", choose);
  byId("model-1").addEventListener("change", choose);
  byId("form").addEventListener("submit", (event) => { event.preventDefault(); trace(); });
  byId("text").addEventListener("input", size);
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); trace(); }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && event.target !== byId("text")) clear(); });
  if (given) texts();
  else {
    for (const [name, text] of Object.entries(SAMPLES)) {
      byId("samples").append(html("button", { type: "button", class: "plain", click: () => { byId("text").value = text; trace(); } }, name));
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
