// Which depths share a bank: one lane for each kind of part, above the picture of the flow. Depths
// that share a bank and follow one another stand on one band; others are joined by arcs.

const LANES = {
  experts: "experts",
  router: "router",
  decision: "decision",
  attention: "attention",
  norms: "norms",
  collaboration: "topology",
};
const ALWAYS = ["experts", "router", "decision"];
const LANE = 27;
const TINTS = 6;

/** The banks of a plan: [{bank, depths}]. */
function banksOf(plan) {
  const depths = new Map();
  plan.banks.forEach((bank, depth) => depths.set(bank, [...(depths.get(bank) ?? []), depth]));
  return [...depths].map(([bank, depths]) => ({ bank, depths }));
}

/** The tint of a bank that several depths share; null for one that serves a single depth. */
function tintOf(plan, bank) {
  const shared = banksOf(plan).filter(({ depths }) => depths.length > 1);
  const place = shared.findIndex((other) => other.bank === bank);
  return place < 0 ? null : place % TINTS;
}

/** Kinds of parts that have a lane: what routes always, others where depths share. */
function lanesOf({ plans, depth }) {
  return Object.keys(LANES).filter(
    (part) => plans[part] && (ALWAYS.includes(part) || new Set(plans[part].banks).size < depth),
  );
}

/** `center(depth)` is the x of a depth, `column` the width that each has. */
function drawLanes(model, column, center) {
  const half = Math.min(10, column / 2 - 2);
  return lanesOf(model).map((part, lane) => {
    const y = 22 + lane * LANE;
    const name = svg("text", { class: "axis", x: 0, y: y + 13 }, LANES[part]);
    const banks = banksOf(model.plans[part]).map(({ bank, depths }) => {
      const tint = tintOf(model.plans[part], bank);
      const served = tint === null ? `depth ${depths[0]} alone` : `depths ${spans(depths)}`;
      const runs = runsOf(depths).map((run) => run.map(center));
      const arcs = runs.slice(1).map(([to], i) => {
        const from = runs[i][1];
        const d = `M${from} ${y + 18}C${from + 4} ${y + 27} ${to - 4} ${y + 27} ${to} ${y + 18}`;
        return svg("path", { class: "arc", d });
      });
      const bands = runs.flatMap(([from, to]) => {
        const [x, width] = [from - half, to - from + 2 * half];
        const middle = { x: (from + to) / 2, y: y + 13, "text-anchor": "middle" };
        return [
          svg("rect", { x, y, width, height: 18, rx: Math.min(9, half) }),
          svg("text", middle, String(bank)),
        ];
      });
      const title = svg("title", {}, `${part} bank ${bank}: ${served}`);
      return svg(
        "g",
        { class: tint === null ? "bank own" : `bank tint-${tint}` },
        title,
        ...arcs,
        ...bands,
      );
    });
    return svg("g", { class: "lane" }, name, ...banks);
  });
}
