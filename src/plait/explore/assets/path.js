// The path of one token as a table: a row for each depth with a router, its experts by router logit.

class Path {
  /** `act("over" | "click", {kind: "expert", level, expert} | null)` as in Flow. */
  constructor(reading, act) {
    this.reading = reading;
    this.act = act;
    this.head = html("div", { class: "path-head" });
    this.rows = reading.levels.map(({ depth }, level) => {
      const { model } = reading;
      const bank = model.plans.experts.banks[depth];
      const depths = reading.sameBank(level).map((other) => reading.levels[other].depth);
      const note =
        depths.length > 1
          ? `experts of bank ${bank}, shared by depths ${spans(depths)}`
          : "experts of its own";
      const decision = model.plans.decision.banks;
      const taken = decision.indexOf(decision[depth]);
      const chips = html("span", { class: "chips", "--columns": Math.min(4, model.top_k) });
      const entropy = html("td", { class: "entropy" });
      const row = html(
        "tr",
        {},
        html("th", { scope: "row" }, String(depth)),
        html(
          "td",
          { class: "bank", title: note },
          depths.length > 1
            ? html(
                "span",
                { class: `bank-mark tint-${tintOf(model.plans.experts, bank)}` },
                String(bank),
              )
            : "",
        ),
        html(
          "td",
          {
            class: taken < depth ? "taken" : "",
            title: taken < depth ? `decision taken over from depth ${taken}` : null,
          },
          chips,
        ),
        entropy,
      );
      return { row, chips, entropy };
    });
    const head = html(
      "tr",
      {},
      ...[
        ["depth"],
        ["bank"],
        ["experts, gates"],
        ["entropy", "of the router's distribution, nats"],
      ].map(([name, title]) => html("th", { scope: "col", title }, name)),
    );
    this.element = html(
      "div",
      { class: "path" },
      this.head,
      html(
        "table",
        {},
        html("thead", {}, head),
        html("tbody", {}, ...this.rows.map(({ row }) => row)),
      ),
    );
    this.show(null, false);
  }

  show(token, pinned) {
    const { reading } = this;
    this.token = token;
    if (token === null) {
      const words = told("Point at a token to follow its path.", "Tap a token to follow its path.");
      this.head.replaceChildren(html("p", { class: "quiet" }, words));
    } else {
      const { id, shown, loss } = reading.tokens;
      const figures = [
        `id ${id[token]}`,
        `loss ${fixed(loss[token], 2)} nats`,
        loss[token] == null ? null : `p ${percent(Math.exp(-loss[token]))}`,
      ];
      this.head.replaceChildren(
        html("span", { class: "token big" }, ...glyphs(shown[token])),
        html(
          "span",
          { class: "quiet" },
          `token ${token + 1} of ${reading.size}${pinned ? ", pinned" : ""}`,
        ),
        html("span", { class: "figures" }, figures.filter(Boolean).join(" · ")),
      );
    }
    this.rows.forEach(({ chips, entropy }, level) => {
      const { experts, gates, entropy: entropies } = reading.levels[level];
      if (token === null) {
        chips.replaceChildren(
          ...range(reading.model.top_k).map(() => html("span", { class: "chip empty" }, "–")),
        );
        entropy.textContent = "";
        return;
      }
      chips.replaceChildren(
        ...experts[token].map((expert, rank) => this.chip(level, expert, gates[token][rank])),
      );
      entropy.textContent = fixed(entropies[token], 2);
    });
    this.mark(this.places ?? []);
  }

  chip(level, expert, gate) {
    const target = { kind: "expert", level, expert };
    return html(
      "button",
      {
        type: "button",
        class: "chip",
        "data-place": `${level}/${expert}`,
        "aria-pressed": "false",
        "--gate": Math.abs(gate ?? 0) / this.reading.largestGate,
        "aria-label": `expert ${expert} at depth ${this.reading.levels[level].depth}, gate ${fixed(gate, 2)}`,
        click: () => this.act("click", target),
        pointerenter: (event) => {
          if (event.pointerType !== "touch") this.act("over", target);
        },
        pointerleave: () => this.act("over", null),
      },
      html("b", {}, String(expert)),
      html("span", {}, fixed(gate, 2).replace("0.", ".")),
    );
  }

  /** Press the chips of selected experts. */
  mark(places) {
    this.places = places;
    const pressed = new Set(places.map(({ level, expert }) => `${level}/${expert}`));
    for (const chip of this.element.querySelectorAll("button.chip"))
      chip.setAttribute("aria-pressed", String(pressed.has(chip.dataset.place)));
  }
}
