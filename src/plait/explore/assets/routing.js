// What one model did with one text, indexed so that pictures can be drawn from it.
// A *level* counts the depths that have a router; `model.experts[depth]` is 0 at the others.

class Reading {
  constructor(model, analysis) {
    this.model = model;
    this.tokens = analysis.tokens;
    this.summary = analysis.summary;
    this.levels = analysis.depths;
    this.size = analysis.tokens.id.length;
    const widest = Math.max(...model.experts);
    this.received = this.levels.map(({ experts }) => {
      const lists = range(widest).map(() => []);
      experts.forEach((chosen, token) => chosen.forEach((expert) => lists[expert].push(token)));
      return lists;
    });
    this.first = this.levels.map(({ experts }) => {
      const counts = new Array(widest).fill(0);
      for (const chosen of experts) counts[chosen[0]] += 1;
      return counts;
    });
    this.largestGate = Math.max(
      1e-6,
      ...this.levels.map(({ gates }) =>
        gates.flat().reduce((a, b) => Math.max(a, Math.abs(b ?? 0)), 0),
      ),
    );
  }

  top(level, token) {
    return this.levels[level].experts[token][0];
  }

  path(token) {
    return this.levels.map(({ experts }) => experts[token][0]);
  }

  /** Router entropy of a token, mean over depths, as a share of the even distribution's. */
  unsureness(token) {
    const shares = this.levels.map(
      ({ depth, entropy }) => (entropy[token] ?? 0) / Math.log(this.model.experts[depth]),
    );
    return shares.reduce((a, b) => a + b, 0) / shares.length;
  }

  /** Ribbons from a level to the next: tokens that share both first choices, by source, then target. */
  ribbons(level) {
    const found = new Map();
    for (const token of range(this.size)) {
      const [from, to] = [this.top(level, token), this.top(level + 1, token)];
      const key = from * 65536 + to;
      if (!found.has(key)) found.set(key, { level, from, to, tokens: [] });
      found.get(key).tokens.push(token);
    }
    return [...found.values()].sort((a, b) => a.from - b.from || a.to - b.to);
  }

  /** Levels whose expert bank is that of `level`. */
  sameBank(level) {
    const banks = this.model.plans.experts.banks;
    const bank = banks[this.levels[level].depth];
    return range(this.levels.length).filter((other) => banks[this.levels[other].depth] === bank);
  }

  /** Tokens that an expert received at any of the levels, each with the share of levels at which it did. */
  receivers(levels, expert) {
    const found = new Map();
    for (const level of levels) {
      for (const token of this.received[level][expert])
        found.set(token, (found.get(token) ?? 0) + 1 / levels.length);
    }
    return found;
  }

  /** Tokens of this reading that overlap those of another one in the text; the same ones if both were cut alike. */
  across(other, tokens) {
    if (other === this || other.model.tokenizer === this.model.tokenizer) return tokens;
    const found = new Map();
    const { start, end } = this.tokens;
    for (const [token, strength] of tokens) {
      const [from, to] = [other.tokens.start[token], other.tokens.end[token]];
      for (const own of range(this.size)) {
        if (start[own] < to && end[own] > from)
          found.set(own, Math.max(strength, found.get(own) ?? 0));
      }
    }
    return found;
  }
}
