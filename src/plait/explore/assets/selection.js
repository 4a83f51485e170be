// What is pointed at and selected, and what that stands for.

/** A token of a side was pointed at, moved to by key, or clicked. */
function touch(side, kind, token) {
  const now = state.token;
  const again = now?.side === side && now.token === token;
  state.preview = null;
  if (kind === "over") {
    if (now?.pinned || again) return;
    state.token = { side, token, pinned: false };
  } else if (kind === "move") state.token = { side, token, pinned: now?.pinned ?? false };
  else state.token = { side, token, pinned: !(again && now.pinned) };
  update(kind === "move");
}

/** Something in a model's picture was pointed at or clicked. */
function reach(side, kind, target) {
  if (kind === "over")
    state.preview = target && { side, target, wide: state.selection?.wide ?? false };
  else {
    const now = state.selection;
    const again = now && target && now.side === side && same(now.target, target);
    state.selection = target && !again ? { side, target, wide: now?.wide ?? false } : null;
    state.preview = null;
  }
  update();
}

const same = (a, b) =>
  ["kind", "level", "expert", "from", "to"].every((name) => a[name] === b[name]);

/** What a selection stands for: its tokens with strengths, the experts to mark, and a sentence. */
function meaning({ side, target, wide }) {
  const reading = state.readings[side];
  const depth = reading.levels[target.level].depth;
  if (target.kind === "ribbon") {
    const to = reading.levels[target.level + 1].depth;
    return {
      tokens: new Map(target.tokens.map((token) => [token, 1])),
      places: [
        { level: target.level, expert: target.from },
        { level: target.level + 1, expert: target.to },
      ],
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

/** Tokens of a side that the active token stands for. */
function following(side) {
  if (!state.token || !state.readings[side]) return [];
  const { side: from, token } = state.token;
  return [...state.readings[side].across(state.readings[from], new Map([[token, 1]])).keys()].sort(
    (a, b) => a - b,
  );
}

/** The line on what is selected, and whether it counts at one depth or at all that share the bank. */
function scope() {
  const shown = state.preview ?? state.selection;
  byId("selection").textContent = shown
    ? (state.readings.length > 1 ? `${"AB"[shown.side]}: ` : "") + meaning(shown).words
    : told(
        "Point at a token for its path. Click an expert for the tokens that it received.",
        "Tap a token for its path. Tap an expert for the tokens that it received.",
      );
  const place = byId("scope");
  const { side, target, wide } = state.selection ?? {};
  if (!target) return place.replaceChildren();
  const reading = state.readings[side];
  const depths = reading.sameBank(target.level).map((level) => reading.levels[level].depth);
  const here = reading.levels[target.level].depth;
  const options = [];
  if (target.kind === "expert" && depths.length > 1) {
    options.push(
      { value: "here", label: `at depth ${here}` },
      { value: "wide", label: `at all of its bank: ${spans(depths)}` },
    );
  }
  segments(
    place,
    [...options, { value: "clear", label: "clear" }],
    wide ? "wide" : "here",
    (value) => {
      state.selection = value === "clear" ? null : { side, target, wide: value === "wide" };
      update();
    },
  );
}

function clear() {
  if (state.token?.pinned) state.token = { ...state.token, pinned: false };
  else if (state.selection) state.selection = null;
  else state.token = null;
  state.preview = null;
  update();
}
