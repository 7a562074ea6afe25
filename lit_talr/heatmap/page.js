// A module: strict, and its names are its own.
// Texts reach the page as textContent only.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const MODELS = ["base", "tuned"];
const LONG = 240; // letters of a context that is folded

// Sequences whose lightness rises or falls all along, and a pair of colours that colour-blind readers can tell apart; the usual value is the paper's own colour.
const SCALES = {
  probability: { light: ["#7a2c02", "#c65a06", "#f39a45", "#fbd4a2", "#fffaf3"], dark: ["#ffcf99", "#ec8a30", "#ad5a13", "#5c3717", "#1b1f26"] },
  weight: { light: ["#08306b", "#2f73b5", "#78b1dc", "#bfdaef", "#f7fbff"], dark: ["#b9dcff", "#5ea3e0", "#2f6ca8", "#1e3d5f", "#1b1f26"] },
  change: { light: ["#a64b00", "#f0a35e", "#f7f7f7", "#7fb2df", "#0b4a94"], dark: ["#ffb066", "#9c5517", "#22262e", "#2f6ca8", "#8ec5ff"] },
};
const SPREAD = 4; // nats at the ends of the scale of changes
const RANGES = { probability: [0, 1], weight: [0, 1], change: [-SPREAD, SPREAD] };
const TICKS = { probability: [0, 0.2, 0.4, 0.6, 0.8, 1], weight: [0, 0.25, 0.5, 0.75, 1], change: [-4, -2, 0, 2, 4] };
const CAPTIONS = {
  probability: "probability of the token; the stronger the colour, the harder it is",
  weight: "TALR weight; the stronger the colour, the less the token would be trained",
  change: `log-probability, tuned minus base, in nats, the same in both columns: orange became less likely, blue more likely; the scale ends at ±${SPREAD}`,
};
const darkness = matchMedia("(prefers-color-scheme: dark)");

// ---- Numbers and colours ---------------------------------------------------------------------------------------------------------------------------

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
const stops = (kind) => SCALES[kind][darkness.matches ? "dark" : "light"];

function colour(kind, value) {
  const [low, high] = RANGES[kind];
  const found = stops(kind);
  const place = Math.min(1, Math.max(0, (value - low) / (high - low))) * (found.length - 1);
  const first = Math.min(found.length - 2, Math.floor(place));
  const [from, to] = [channels(found[first]), channels(found[first + 1])];
  return from.map((start, index) => Math.round(start + (to[index] - start) * (place - first)));
}

const readable = (background) => (luminance(background) > 0.179 ? "#000000" : "#ffffff"); // the one with more contrast, 4.58 or better

function small(value) {
  if (value === 0) return "0";
  return value < 0.001 ? value.toExponential(1).replace("e-", "e−") : value.toFixed(value < 0.01 ? 4 : 3);
}
function signed(value, digits, plus) {
  const text = Math.abs(value).toFixed(digits);
  return `${Number(text) === 0 ? "" : value < 0 ? "−" : plus}${text}`;
}
const count = (value) => value.toLocaleString("en");

// ---- Building --------------------------------------------------------------------------------------------------------------------------------------

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function table(target, head, rows) {
  const top = element("tr", null);
  top.append(...head.map((text) => element("th", text, { scope: "col" })));
  const body = rows.map(([name, ...cells]) => {
    const line = element("tr", null);
    line.append(element("th", name, { scope: "row" }), ...cells.map((cell) => element("td", cell)));
    return line;
  });
  const parts = [element("thead", null), element("tbody", null)];
  parts[0].append(top);
  parts[1].append(...body);
  target.replaceChildren(...parts);
}

const heading = (model) => `${model}: ${data.models[model].title}`;

function summary() {
  const numbers = data.examples.map((example) => example.number);
  byId("about").textContent = `${data.domain}, ${data.split}: ${count(data.models.base.tokens)} supervised tokens of ${numbers.length === 1 ? "example" : "examples"} ${numbers.join(", ")}, each scored by a model after all that precedes it, computed in ${data.arithmetic}.`;
  const rows = [
    ["mean p", "probability", small], [`tokens with p < ${data.easy}`, "hard", (value) => `${(100 * value).toFixed(1)} %`], ["perplexity", "perplexity", (value) => value.toPrecision(4)],
    ["tokens of rank 1", "first", (value) => `${(100 * value).toFixed(1)} %`], ["mean entropy (nats)", "entropy", small], ["mean TALR weight", "weight", small], ["TALR temperature (nats)", "temperature", small],
  ];
  table(byId("summary"), ["", ...MODELS.map(heading)], rows.map(([name, key, format]) => [name, ...MODELS.map((model) => format(data.models[model][key]))]));
  byId("formula").textContent = `TALR weight: max(p^(1/τ), ${data.floor}), with the defaults of TALR as if the page were one batch; the temperature τ is the median over its examples (the lower middle one) of their mean −log p under the same model.`;
  byId("version").textContent = data.version;
}

const pairs = []; // of each token: its elements under both models, and its numbers

function tokens(part, model, start, label) {
  const box = element("div", null, { class: "tokens", role: "listbox", "aria-label": label, "aria-orientation": "horizontal" });
  part.tokens.forEach((token, index) => {
    const [text, number] = typeof token === "string" ? [token, 0] : token;
    const span = element("span", text, { class: number > 1 ? "token part" : "token", role: "option", tabindex: index ? -1 : 0, "aria-selected": "false" });
    span.dataset.index = start + index;
    span.dataset.model = model;
    pairs[start + index][model] = span;
    box.append(span);
  });
  return box;
}

function learned(part, number) {
  const start = pairs.length;
  part.tokens.forEach((token, index) => {
    const of = (model) => Object.fromEntries(["nll", "rank", "entropy", "weight"].map((name) => [name, part[model][name][index]]));
    pairs.push({ token, place: `token ${index + 1} of ${part.tokens.length}`, numbers: { base: of("base"), tuned: of("tuned") } });
  });
  const pair = element("div", null, { class: "pair" });
  for (const model of MODELS) {
    const column = element("div", null);
    column.append(element("h3", heading(model)), tokens(part, model, start, `${data.split} ${number}, ${heading(model)}`));
    pair.append(column);
  }
  return pair;
}

function context(text) {
  const whole = element("div", text, { class: "context" });
  if (text.length <= LONG) return whole;
  const folded = element("details", null);
  const end = text.trim().replace(/\s+/g, " ").slice(-100);
  folded.append(element("summary", `${count(text.length)} letters of context, up to: … ${end}`), whole);
  return folded;
}

function example(row) {
  const made = element("article", null);
  const head = element("div", null, { class: "head" });
  const learnedParts = row.parts.filter((part) => part.tokens);
  const perplexity = (model) => {
    const values = learnedParts.flatMap((part) => part[model].nll);
    return Math.exp(values.reduce((sum, value) => sum + value, 0) / values.length).toPrecision(4);
  };
  head.append(element("h2", `${data.split} ${row.number}`), element("span", `perplexity ${perplexity("base")} → ${perplexity("tuned")}`, { class: "note" }));
  made.append(head, ...row.parts.map((part) => (part.tokens ? learned(part, row.number) : context(part.text))));
  return made;
}

// ---- Colours and legend ----------------------------------------------------------------------------------------------------------------------------

const chosen = () => document.querySelector("input[name=colour]:checked").value;

function value(kind, pair, model) {
  const own = pair.numbers[model];
  if (kind === "change") return pair.numbers.base.nll - pair.numbers.tuned.nll;
  return kind === "weight" ? own.weight : Math.exp(-own.nll);
}

function paint() {
  const kind = chosen();
  for (const pair of pairs) {
    for (const model of MODELS) {
      const background = colour(kind, value(kind, pair, model));
      pair[model].style.background = `rgb(${background.join(" ")})`;
      pair[model].style.color = readable(background);
    }
  }
  const [low, high] = RANGES[kind];
  byId("bar").style.background = `linear-gradient(to right, ${stops(kind).join(", ")})`;
  byId("ticks").replaceChildren(...TICKS[kind].map((tick) => {
    const made = element("span", String(tick).replace("-", "−"));
    made.style.left = `${(100 * (tick - low)) / (high - low)}%`;
    return made;
  }));
  byId("caption").textContent = CAPTIONS[kind];
}

// ---- The box ---------------------------------------------------------------------------------------------------------------------------------------

const box = byId("box");
let shown = null;

function show(span) {
  hide();
  const pair = pairs[span.dataset.index];
  shown = span;
  span.classList.add("here");
  span.setAttribute("aria-describedby", "box");
  span.setAttribute("aria-selected", "true");
  pair[MODELS.find((model) => model !== span.dataset.model)].classList.add("other");
  const [text, part, parts, whole] = typeof pair.token === "string" ? [pair.token, 0, 1, pair.token] : pair.token;
  const name = parts > 1 ? `part ${part} of ${parts} of “${whole}”` : `“${text.trimEnd()}”`;
  const { base, tuned } = pair.numbers;
  const line = (label, format) => [label, format(base), format(tuned)];
  const numbers = element("table", null);
  table(numbers, ["", ...MODELS], [
    line("p", (of) => small(Math.exp(-of.nll))), line("log p (nats)", (of) => signed(-of.nll, 3, "")), line("rank", (of) => count(of.rank)),
    line("entropy (nats)", (of) => small(of.entropy)), line("TALR weight", (of) => small(of.weight)), ["change of log p", "", signed(base.nll - tuned.nll, 2, "+")],
  ]);
  for (const row of numbers.tBodies[0].rows) row.cells[1 + MODELS.indexOf(span.dataset.model)].className = "under";
  box.replaceChildren(element("p", name), numbers, element("div", pair.place, { class: "note" }));
  box.hidden = false;
  place(span);
}

function place(span) {
  const at = span.getClientRects()[0];
  const { width, height } = box.getBoundingClientRect();
  const below = at.bottom + 10 + height <= innerHeight;
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  box.style.top = `${below ? at.bottom + 10 : Math.max(8, at.top - height - 10)}px`;
  box.classList.toggle("up", at.top > innerHeight / 2); // where there is no space next to a token, the other half of the screen
}

function hide() {
  if (!shown) return;
  shown.classList.remove("here");
  shown.removeAttribute("aria-describedby");
  shown.setAttribute("aria-selected", "false");
  for (const model of MODELS) pairs[shown.dataset.index][model].classList.remove("other");
  shown = null;
  box.hidden = true;
}

function move(span, key) {
  const own = [...span.parentElement.children];
  const at = own.indexOf(span);
  const pair = pairs[span.dataset.index];
  const across = pair[MODELS.find((model) => model !== span.dataset.model)];
  const goal = { ArrowLeft: own[at - 1], ArrowRight: own[at + 1], ArrowUp: across, ArrowDown: across, Home: own[0], End: own.at(-1) }[key];
  if (goal) goal.focus();
  return ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key);
}

const tokenOf = (event) => event.target.closest?.(".token");
const held = () => document.activeElement.closest(".token"); // a click, or the keyboard, keeps the box on a token

function listen() {
  const main = byId("examples");
  main.addEventListener("mouseover", (event) => tokenOf(event) && show(tokenOf(event)));
  main.addEventListener("mouseout", (event) => tokenOf(event) && (held() ? show(held()) : hide()));
  main.addEventListener("focusin", (event) => {
    const span = tokenOf(event);
    if (!span) return;
    for (const each of span.parentElement.querySelectorAll('[tabindex="0"]')) each.tabIndex = -1; // one stop of Tab for each text
    span.tabIndex = 0;
    show(span);
  });
  main.addEventListener("focusout", hide);
  main.addEventListener("click", (event) => tokenOf(event)?.focus());
  main.addEventListener("keydown", (event) => {
    const span = tokenOf(event);
    if (span && !event.ctrlKey && !event.metaKey && !event.altKey && move(span, event.key)) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", () => shown && (shown === held() ? place(shown) : hide()), { passive: true });
  byId("controls").addEventListener("change", paint);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  darkness.addEventListener("change", paint);
}

summary();
byId("examples").append(...data.examples.map(example));
paint();
listen();
document.body.dataset.ready = "yes";
