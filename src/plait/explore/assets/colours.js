// What the colours of tokens mean, and light or dark.

function colours() {
  const options = [
    { value: "none", label: "plain" },
    { value: "loss", label: "loss", title: "cross-entropy of the token, nats" },
    {
      value: "entropy",
      label: "entropy",
      title:
        "of the router's distribution: mean over depths, as a share of the even distribution's",
    },
  ];
  if (state.readings.length > 1 && alike())
    options.push({ value: "difference", label: "loss A − B", title: "nats" });
  if (!options.some(({ value }) => value === state.colour)) state.colour = "none";
  segments(byId("colours"), options, state.colour, (value) => {
    state.colour = value;
    colours();
  });
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
      const gap = loss.map((value, token) =>
        value == null ? null : value - state.readings[1].tokens.loss[token],
      );
      const most = Math.max(0.05, quantile(gap.map(Math.abs), 0.95));
      tokens.colour("difference", (token) => gap[token] / most);
      legend[0] = [
        `A better by ${fixed(most, 2)} nats`,
        "difference",
        `B better by ${fixed(most, 2)}`,
      ];
    } else tokens.colour(null);
  }
  byId("legend").replaceChildren(
    ...legend.flatMap(([low, kind, high]) => [
      html("span", {}, low),
      html("i", { class: `scale ${kind}` }),
      html("span", {}, high),
    ]),
  );
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))] ?? 0;
}

function theme() {
  const order = ["auto", "light", "dark"];
  let now = "auto";
  try {
    now = localStorage.getItem("theme") ?? "auto";
  } catch {
    /* storage is not allowed here */
  }
  const button = byId("theme");
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[now];
    button.setAttribute(
      "aria-label",
      `Colours: ${now}. Press for ${order[(order.indexOf(now) + 1) % 3]}.`,
    );
  };
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % 3];
    try {
      localStorage.setItem("theme", now);
    } catch {
      /* then it lasts as long as the page */
    }
    apply();
  });
  apply();
}
