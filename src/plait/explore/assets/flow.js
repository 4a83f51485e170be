// The path-flow picture of one reading: depth to the right, experts downwards, ribbons as wide as
// their tokens are many. Above it stand the lanes.

const GUTTER = 76;
const MANY_RIBBONS = 6000;

class Flow {
  /**
   * `room` is the height (px) that may well be filled. `act` is called as act(kind, target): kind
   * "over" or "click", target {kind: "expert", level, expert}, a ribbon, or null.
   */
  constructor(reading, width, room, act) {
    this.reading = reading;
    this.act = act;
    this.place(width, room);
    this.targets = [];
    const { model } = reading;
    const ground = svg("g", {}, ...this.columns());
    const ribbons = svg("g", { class: "ribbons" }, ...this.drawRibbons());
    this.lit = svg("g", { class: "lit" });
    const nodes = svg("g", { class: "nodes" }, ...this.drawNodes());
    this.thread = svg("g", { class: "thread" });
    this.ring = svg("rect", { class: "ring", rx: 4, visibility: "hidden" });
    this.element = svg(
      "svg",
      {
        class: "flow",
        width: this.width,
        height: this.height,
        viewBox: `0 0 ${this.width} ${this.height}`,
        tabindex: 0,
        role: "application",
        "aria-roledescription": "path flow",
        "aria-label": `Path flow of ${reading.size} tokens over ${model.depth} depths of ${model.name}. Arrow keys move between experts, Enter selects one.`,
      },
      ground,
      ...drawLanes(model, this.column, (depth) => this.center(depth)),
      ribbons,
      this.lit,
      nodes,
      this.thread,
      this.ring,
    );
    this.cursor = null;
    this.listen();
  }

  place(width, room) {
    const { model, levels, first } = this.reading;
    this.column = Math.max(22, (width - GUTTER - 10) / model.depth);
    this.width = Math.ceil(GUTTER + 10 + this.column * model.depth);
    this.head = 20 + lanesOf(model).length * LANE + 12;
    const experts = Math.max(...model.experts);
    const [gap, least] = experts > 24 ? [2, 2] : [5, 6];
    const inner = Math.min(640, Math.max(320, experts * 18, room));
    const largest = range(experts).map((expert) =>
      Math.max(0, ...first.map((counts) => counts[expert])),
    );
    const sum = largest.reduce((a, b) => a + b, 0);
    this.scale = (inner - experts * (gap + least)) / Math.max(1, sum);
    let y = this.head;
    this.rows = largest.map((count) => {
      const row = { y, height: least + this.scale * count };
      y += row.height + gap;
      return row;
    });
    this.height = Math.ceil(y + 6);
    this.bar = Math.min(12, this.column * 0.3);
    this.x = levels.map(({ depth }) => this.center(depth));
  }

  center(depth) {
    return GUTTER + this.column * (depth + 0.5);
  }

  node(level, expert) {
    const row = this.rows[expert];
    const height = this.scale * this.reading.first[level][expert];
    return { x: this.x[level] - this.bar / 2, y: row.y + (row.height - height) / 2, height };
  }

  columns() {
    const { model } = this.reading;
    const labels = [svg("text", { class: "axis", x: 0, y: 13 }, "depth")];
    for (const depth of range(model.depth)) {
      const x = this.center(depth);
      labels.push(svg("text", { class: "tick", x, y: 13, "text-anchor": "middle" }, String(depth)));
      labels.push(
        svg("line", { class: "grid", x1: x, x2: x, y1: this.head - 6, y2: this.height - 4 }),
      );
      if (!model.experts[depth])
        labels.push(
          svg(
            "rect",
            {
              class: "dense",
              x: x - this.bar / 2,
              y: this.head,
              width: this.bar,
              height: this.height - this.head - 8,
              rx: 3,
            },
            svg("title", {}, `depth ${depth} is dense: no router`),
          ),
        );
    }
    let last = -Infinity;
    this.rows.forEach((row, expert) => {
      const y = row.y + row.height / 2 + 4;
      if (y - last < 11.5) return;
      last = y;
      labels.push(
        svg("text", { class: "tick", x: GUTTER - 8, y, "text-anchor": "end" }, String(expert)),
      );
    });
    const middle = (this.head + this.height) / 2;
    labels.push(
      svg(
        "text",
        {
          class: "axis",
          x: 0,
          y: 0,
          "text-anchor": "middle",
          transform: `translate(14 ${middle}) rotate(-90)`,
        },
        "expert, as first choice",
      ),
    );
    return labels;
  }

  drawRibbons() {
    const { reading } = this;
    this.ribbons = range(reading.levels.length - 1).map((level) => reading.ribbons(level));
    this.slots = range(reading.levels.length - 1).map(() => new Map());
    const many = this.ribbons.flat().length > MANY_RIBBONS;
    const drawn = [];
    this.ribbons.forEach((ribbons, level) => {
      const [out, into] = [new Map(), new Map()];
      for (const ribbon of ribbons) {
        const height = this.scale * ribbon.tokens.length;
        ribbon.y0 = this.node(level, ribbon.from).y + (out.get(ribbon.from) ?? 0);
        out.set(ribbon.from, (out.get(ribbon.from) ?? 0) + height);
      }
      for (const ribbon of [...ribbons].sort((a, b) => a.to - b.to || a.from - b.from)) {
        const height = this.scale * ribbon.tokens.length;
        ribbon.y1 = this.node(level + 1, ribbon.to).y + (into.get(ribbon.to) ?? 0);
        into.set(ribbon.to, (into.get(ribbon.to) ?? 0) + height);
      }
      for (const ribbon of ribbons) {
        ribbon.tokens.forEach((token, place) => this.slots[level].set(token, { ribbon, place }));
        if (!many)
          drawn.push(
            svg("path", {
              d: this.band(ribbon, 0, ribbon.tokens.length),
              "data-target": this.targets.push({ kind: "ribbon", ...ribbon }) - 1,
            }),
          );
      }
      if (many)
        drawn.push(
          svg("path", {
            d: ribbons.map((ribbon) => this.band(ribbon, 0, ribbon.tokens.length)).join(""),
          }),
        );
    });
    return drawn;
  }

  band({ level, y0, y1 }, from, count) {
    const [x0, x1] = [this.x[level] + this.bar / 2, this.x[level + 1] - this.bar / 2];
    const xm = (x0 + x1) / 2;
    const height = Math.max(0.7, this.scale * count);
    const [a, b] = [y0 + this.scale * from, y1 + this.scale * from].map((y) => +y.toFixed(2));
    const [c, d] = [a + height, b + height].map((y) => +y.toFixed(2));
    return `M${x0} ${a}C${xm} ${a} ${xm} ${b} ${x1} ${b}L${x1} ${d}C${xm} ${d} ${xm} ${c} ${x0} ${c}Z`;
  }

  drawNodes() {
    const drawn = [];
    this.reading.levels.forEach(({ depth }, level) => {
      for (const expert of range(this.reading.model.experts[depth])) {
        const { x, y, height } = this.node(level, expert);
        const target = this.targets.push({ kind: "expert", level, expert }) - 1;
        const tall = Math.max(height, Math.min(12, this.rows[expert].height));
        drawn.push(
          height > 0
            ? svg("rect", {
                class: "load",
                x,
                y,
                width: this.bar,
                height,
                rx: Math.min(2, height / 2),
              })
            : svg("rect", {
                class: "idle",
                x: x + this.bar / 4,
                y: y - 0.7,
                width: this.bar / 2,
                height: 1.4,
              }),
          svg("rect", {
            class: "hit",
            x: x - 5,
            y: y + height / 2 - tall / 2,
            width: this.bar + 10,
            height: tall,
            "data-target": target,
          }),
        );
      }
    });
    return drawn;
  }

  /** Light up the way that some of the tokens take, or all of it again (null). */
  light(tokens) {
    this.element.classList.toggle("some", tokens !== null);
    const drawn = [];
    if (tokens?.size) {
      this.ribbons.flat().forEach((ribbon) => {
        const count = ribbon.tokens.filter((token) => tokens.has(token)).length;
        if (count) drawn.push(svg("path", { d: this.band(ribbon, 0, count) }));
      });
      this.reading.levels.forEach((_, level) => {
        const counts = new Map();
        for (const token of tokens.keys()) {
          const expert = this.reading.top(level, token);
          counts.set(expert, (counts.get(expert) ?? 0) + 1);
        }
        for (const [expert, count] of counts) {
          const { x, y } = this.node(level, expert);
          drawn.push(
            svg("rect", { x, y, width: this.bar, height: Math.max(1.5, this.scale * count) }),
          );
        }
      });
    }
    this.lit.replaceChildren(...drawn);
  }

  /** Mark the selected experts: [{level, expert}]. */
  mark(places) {
    this.marks?.remove();
    this.marks = svg(
      "g",
      { class: "marks" },
      ...places.map(({ level, expert }) => {
        const { x, y, height } = this.node(level, expert);
        return svg("rect", {
          x: x - 3,
          y: y - 3,
          width: this.bar + 6,
          height: Math.max(2, height) + 6,
          rx: 4,
        });
      }),
    );
    this.thread.before(this.marks);
  }

  /** Where a token passes a depth: between its places in the ribbons that come and go. */
  at(level, token) {
    const passes = [
      [this.slots[level - 1]?.get(token), "y1"],
      [this.slots[level]?.get(token), "y0"],
    ].filter(([slot]) => slot);
    if (!passes.length) return this.node(level, this.reading.top(level, token)).y;
    const heights = passes.map(([{ ribbon, place }, y]) => ribbon[y] + this.scale * (place + 0.5));
    return heights.reduce((a, b) => a + b, 0) / heights.length;
  }

  /** Draw one token's way as a thread, its further experts as dots as large as their gates. */
  follow(token) {
    if (token === null) return this.thread.replaceChildren();
    const { levels, largestGate } = this.reading;
    const points = levels.map((_, level) => [this.x[level], this.at(level, token)]);
    const d = points
      .map(([x, y], level) => {
        if (!level) return `M${x} ${y}`;
        const [before, above] = points[level - 1];
        const middle = (before + x) / 2;
        return `C${middle} ${above} ${middle} ${y} ${x} ${y}`;
      })
      .join("");
    const dots = levels.flatMap(({ experts, gates }, level) =>
      experts[token].map((expert, rank) => {
        const row = this.rows[expert];
        const r = 2 + 4.5 * Math.sqrt(Math.abs(gates[token][rank] ?? 0) / largestGate);
        return svg("circle", {
          class: rank ? "further" : "first",
          cx: this.x[level],
          cy: rank ? row.y + row.height / 2 : points[level][1],
          r,
        });
      }),
    );
    this.thread.replaceChildren(
      svg("path", { class: "halo", d }),
      svg("path", { class: "way", d }),
      ...dots,
    );
  }

  listen() {
    const target = (event) => this.targets[event.target.dataset?.target] ?? null;
    let over = null;
    this.element.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch" || target(event) === over) return;
      over = target(event);
      this.act("over", over);
    });
    this.element.addEventListener("pointerleave", () => {
      over = null;
      this.act("over", null);
    });
    this.element.addEventListener("click", (event) => {
      this.act("click", target(event));
    });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("blur", () => {
      if (this.cursor) this.act("over", null);
      this.cursor = null;
      this.ring.setAttribute("visibility", "hidden");
    });
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter" || event.key === " ") {
      if (this.cursor) this.act("click", this.cursor);
    } else if (steps[event.key]) {
      const { levels, model } = this.reading;
      const [across, down] = this.cursor ? steps[event.key] : [0, 0];
      const { level, expert } = this.cursor ?? { level: 0, expert: 0 };
      const next = Math.min(levels.length - 1, Math.max(0, level + across));
      const count = model.experts[levels[next].depth];
      this.cursor = {
        kind: "expert",
        level: next,
        expert: Math.min(count - 1, Math.max(0, expert + down)),
      };
      const { x, y, height } = this.node(this.cursor.level, this.cursor.expert);
      for (const [name, value] of Object.entries({
        x: x - 5,
        y: y - 5,
        width: this.bar + 10,
        height: Math.max(2, height) + 10,
        visibility: "visible",
      }))
        this.ring.setAttribute(name, value);
      this.act("over", this.cursor);
    } else return;
    event.preventDefault();
  }
}
