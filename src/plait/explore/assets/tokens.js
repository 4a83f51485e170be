// A text as its tokens, in reading order: a list box in which one token is active.

class Tokens {
  /** `act("over" | "move" | "pin", token)`. */
  constructor(reading, name, act) {
    this.reading = reading;
    this.active = null;
    this.items = reading.tokens.shown.map((shown, token) =>
      html(
        "span",
        {
          class: "token",
          role: "option",
          id: `${name}-${token}`,
          "data-token": token,
          "aria-selected": "false",
          "aria-label": spoken(shown),
        },
        ...glyphs(shown),
      ),
    );
    const flow = this.items.flatMap((item, token) => {
      const ends = reading.tokens.shown[token].filter((piece, i) => i % 2 && piece === "⏎").length;
      return ends ? [item, html("br", { "aria-hidden": "true" })] : [item];
    });
    this.element = html(
      "div",
      {
        class: "tokens",
        role: "listbox",
        tabindex: 0,
        id: name,
        "aria-label": `${reading.size} tokens of ${reading.model.name}`,
        "aria-orientation": "horizontal",
      },
      ...flow,
    );
    const token = (event) => {
      const item = event.target.closest?.(".token");
      return item ? Number(item.dataset.token) : null;
    };
    this.element.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "touch" && token(event) !== null) act("over", token(event));
    });
    this.element.addEventListener("click", (event) => {
      if (token(event) !== null) act("pin", token(event));
    });
    this.element.addEventListener("focus", () => {
      if (this.active === null && this.element.matches(":focus-visible")) act("move", 0);
    });
    this.element.addEventListener("keydown", (event) => {
      const next = this.next(event.key);
      if (next !== null) act("move", next);
      else if ((event.key === "Enter" || event.key === " ") && this.active !== null)
        act("pin", this.active);
      else return;
      event.preventDefault();
    });
  }

  next(key) {
    const last = this.items.length - 1;
    const at = this.active ?? -1;
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (key === "ArrowLeft") return Math.max(0, at - 1);
    if (key === "ArrowRight") return Math.min(last, at + 1);
    if (key === "ArrowUp" || key === "ArrowDown")
      return this.vertical(Math.max(0, at), key === "ArrowDown" ? 1 : -1);
    return null;
  }

  /** The nearest token of the line above or below. */
  vertical(at, step) {
    const from = this.items[at];
    const middle = (item) => item.offsetLeft + item.offsetWidth / 2;
    let best = at;
    let line = null;
    for (let i = at + step; i >= 0 && i < this.items.length; i += step) {
      const item = this.items[i];
      if (Math.abs(item.offsetTop - from.offsetTop) < 4) continue;
      line ??= item.offsetTop;
      if (Math.abs(item.offsetTop - line) >= 4) break;
      if (
        best === at ||
        Math.abs(middle(item) - middle(from)) < Math.abs(middle(this.items[best]) - middle(from))
      )
        best = i;
    }
    return best;
  }

  /** Make these tokens the active ones (none: empty), the first of them the list box's own. */
  activate(tokens, pinned, scroll) {
    this.element.querySelectorAll(".active").forEach((item) => {
      item.classList.remove("active", "pinned");
      item.setAttribute("aria-selected", "false");
    });
    this.active = tokens.length ? tokens[0] : null;
    for (const token of tokens) {
      this.items[token].classList.add("active");
      this.items[token].classList.toggle("pinned", pinned);
      this.items[token].setAttribute("aria-selected", String(pinned));
    }
    if (this.active === null) this.element.removeAttribute("aria-activedescendant");
    else this.element.setAttribute("aria-activedescendant", this.items[this.active].id);
    if (scroll && this.active !== null)
      this.items[this.active].scrollIntoView({ block: "nearest" });
  }

  /** Light up tokens, each with a strength in (0, 1]; null: none. */
  light(lit, side) {
    this.element.classList.toggle("some", lit !== null);
    this.element.dataset.side = side;
    this.items.forEach((item, token) => {
      const strength = lit?.get(token);
      item.classList.toggle("lit", strength !== undefined);
      if (strength !== undefined) item.style.setProperty("--strength", strength.toFixed(3));
    });
  }

  /** Colour tokens by a value in [0, 1] (or [−1, 1] for a difference); null: plain. */
  colour(kind, value) {
    this.items.forEach((item, token) => {
      const v = kind ? value(token) : null;
      if (v == null) return void item.removeAttribute("data-heat");
      item.dataset.heat = kind === "difference" ? (v < 0 ? "side-0" : "side-1") : kind;
      item.style.setProperty("--heat", Math.min(1, Math.abs(v)).toFixed(3));
    });
  }
}
