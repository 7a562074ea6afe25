// A module: strict, and its names are its own.
// Texts of a run reach the page as textContent only, and Plotly, which knows a few tags, through escape().
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const unique = (values) => [...new Set(values)];
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const rateText = (rate) => (known(rate) ? Number(rate.toPrecision(4)).toExponential().replace("e+", "e") : "");
const fixed = (value, digits = 3) => (known(value) ? value.toFixed(digits) : "");

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666", "#8a6d00", "#a5aa99",
  "#003f66", "#ff9d5c", "#5fd3b0", "#7a2f5c", "#c9b200", "#0f8a9d", "#c39bd3", "#b03030", "#3d5a1f", "#7b5b43"];
const MERGED = new Set(["wise-ft", "lines"]);
const SYMBOLS = ["circle", "square", "triangle-up", "pentagon", "hexagon", "star-square"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const IN_DARK = { "#7f3c8d": "#b07cc0", "#666666": "#8c8c8c", "#003f66": "#7fa8d9", "#7a2f5c": "#a8578a", "#b03030": "#d05050", "#3d5a1f": "#6f9440", "#7b5b43": "#a5836a" }; // too dark for a dark page
const EPOCHS = ["#999999", "#bcd7ee", "#8fbde2", "#5c9fd1", "#2f7fbb", "#0b5c9a", "#063b66"];
const remedies = unique(data.results.map((row) => row.remedy)).filter((name) => name !== "base");
const variants = unique(data.results.map((row) => row.variant ?? ""));
const rates = unique(data.results.map((row) => row.rate).filter(known)).sort((a, b) => a - b);
const seeds = unique(data.results.map((row) => row.seed).filter(known)).sort((a, b) => a - b);
const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = (number) => { const plain = COLOURS[number % COLOURS.length]; return (dark.matches && IN_DARK[plain]) || plain; };
const colour = (remedy) => (remedy === "base" ? style("--ink") : shade(remedies.indexOf(remedy)));
const small = () => window.innerWidth < 600;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const size = (rate) => 8 + (9 * Math.max(0, rates.indexOf(rate))) / Math.max(1, rates.length - 1);

const groupBy = (rows, key) => {
  const groups = new Map();
  for (const row of rows) groups.has(key(row)) ? groups.get(key(row)).push(row) : groups.set(key(row), [row]);
  return [...groups.values()];
};

// ---- Filters -------------------------------------------------------------------------------------------------------------------------------------

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => element("option", text, { value })));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
}

function checkboxes(box, values) {
  for (const value of values) {
    const label = element("label", null);
    const input = element("input", null, { type: "checkbox", value, checked: "" });
    label.append(input, ` ${value}`);
    box.append(label);
  }
  box.hidden = values.length < 2;
}

const ticked = (box) => new Set([...box.querySelectorAll("input:checked")].map((input) => input.value));

function filters() {
  return {
    variant: byId("variant").value, from: Number(byId("from").value), to: Number(byId("to").value), show: byId("show").value, bars: byId("bars").value,
    wise: byId("wise").checked, remedies: ticked(byId("remedies")), seeds: ticked(byId("seeds")),
  };
}

function passes(row, chosen) {
  if (chosen.variant !== "*" && (row.variant ?? "") !== chosen.variant) return false;
  if (row.remedy === "base") return true;
  if (MERGED.has(row.remedy) ? !chosen.wise || (remedies.includes(row.source) && !chosen.remedies.has(row.source)) : !chosen.remedies.has(row.remedy)) return false;
  return (!known(row.rate) || (row.rate >= chosen.from && row.rate <= chosen.to)) && (!known(row.seed) || chosen.seeds.has(String(row.seed)));
}

// ---- Points: runs, or means over the seeds that are shown ----------------------------------------------------------------------------------------

function spread(values) {
  if (values.length < 2) return [null, null];
  const centre = mean(values);
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
  const half = (data.t[Math.min(values.length - 1, data.t.length) - 1] * deviation) / Math.sqrt(values.length);
  return [centre - half, centre + half];
}

function means(rows) {
  return groupBy(rows, (row) => row.point).map((group) => {
    const whole = data.means.find((row) => row.point === group[0].point && row.seeds === group.length);
    if (whole) return { ...group[0], ...whole, runs: group };
    const found = { ...group[0], seeds: group.length, runs: group };
    for (const name of ["domain", "general", "drop"]) {
      const values = group.map((row) => row[name]).filter(known);
      found[name] = values.length === group.length ? mean(values) : null;
      [found[`${name}_seeds_lower`], found[`${name}_seeds_upper`]] = spread(values);
      for (const end of ["_lower", "_upper"]) found[name + end] = group.every((row) => known(row[name + end])) ? mean(group.map((row) => row[name + end])) : null;
    }
    return found;
  });
}

const everySeed = (rows) => rows.map((row) => ({ ...row, seeds: 1, runs: [row] }));

function errorBars(points, name, bars, tint) {
  const ends = bars === "seeds" ? ["_seeds_lower", "_seeds_upper"] : ["_lower", "_upper"];
  const length = (point, end, sign) => (known(point[name + end]) ? Math.max(0, sign * (point[name + end] - point[name])) : 0);
  return {
    type: "data", visible: bars !== "none", symmetric: false, thickness: 1, width: 2, color: tint + "aa",
    array: points.map((point) => length(point, ends[1], 1)), arrayminus: points.map((point) => length(point, ends[0], -1)),
  };
}

function withBounds(point, name, seedsToo = false) {
  let text = known(point[name]) ? fixed(point[name]) : "none";
  if (known(point[name + "_lower"])) text += ` [${fixed(point[name + "_lower"])}, ${fixed(point[name + "_upper"])}]`;
  if (seedsToo && known(point[name + "_seeds_lower"])) text += `, over seeds [${fixed(point[name + "_seeds_lower"])}, ${fixed(point[name + "_seeds_upper"])}]`;
  return text;
}

function hover(point) {
  const lines = [`<b>${escape(point.point)}</b>`];
  lines.push(point.runs.length === 1 ? escape(point.runs[0].name) : `mean of seeds ${point.runs.map((run) => run.seed).join(", ")}`);
  for (const name of ["domain", "general", "drop"]) lines.push(`${name} ${withBounds(point, name, true)}`);
  if (known(point.runs[0].paper_domain)) lines.push(`published: ${fixed(point.runs[0].paper_domain)} / ${fixed(point.runs[0].paper_general)}`);
  const command = point.runs[0].command.replace(/(.{1,90})(\s|$)/g, "$1\n").trim().split("\n");
  return [...lines, ...command.slice(0, 14).map(escape), ...(command.length > 14 ? ["..."] : [])].join("<br>");
}

function front(points) {
  const found = [];
  for (const point of [...points].sort((a, b) => b.domain - a.domain || b.general - a.general)) if (!found.length || point.general > found[0].general) found.unshift(point);
  return found;
}

// ---- Plots ---------------------------------------------------------------------------------------------------------------------------------------

// Long names in several lines; a plot grows with its legend, or the legend would take the place of the points.
function wrapped(id, traces) {
  const named = traces.map((trace) => ({ ...trace, name: trace.name.replace(small() ? /(.{1,22})(\s+|$)/g : /(.{1,32})(\s+|$)/g, "$1<br>").replace(/<br>$/, "") }));
  const names = named.filter((trace) => trace.showlegend !== false).map((trace) => trace.name.split("<br>"));
  const width = 46 + (small() ? 5.6 : 6.6) * Math.max(...names.flat().map((line) => line.length));
  const rows = Math.ceil(names.length / Math.max(1, Math.floor((byId(id).clientWidth - 64) / width))) + Math.max(...names.map((lines) => lines.length)) - 1;
  byId(id).style.setProperty("--legend", `${16 * Math.max(0, rows - 3)}px`);
  return named;
}

function plot(id, traces, layout) {
  const filled = traces.filter((trace) => trace.x.length);
  byId(id).hidden = !filled.length; // a sentence of the section says that there is nothing
  if (!filled.length) return null;
  const axis = (given) => ({ gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true, ...given, title: { text: given.title ?? "", standoff: 8 } });
  const common = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--ink"), size: small() ? 11 : 13, family: "system-ui, Liberation Sans, sans-serif" },
    margin: { l: 52, r: 12, t: 16, b: 40 }, hovermode: "closest", hoverlabel: { align: "left", font: { size: 12 } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", itemsizing: "constant", maxheight: 0.8, font: { size: small() ? 10 : 12 } }, showlegend: true, dragmode: small() ? false : "zoom",
    modebar: { bgcolor: style("--paper"), color: style("--soft"), activecolor: style("--ink") },
  };
  const axes = Object.fromEntries(["xaxis", "yaxis", "yaxis2"].filter((name) => layout[name]).map((name) => [name, axis(layout[name])]));
  const few = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
  const config = { responsive: true, displaylogo: false, displayModeBar: small() ? false : "hover", modeBarButtonsToRemove: few };
  return Plotly.react(id, wrapped(id, filled), { ...common, ...layout, ...axes }, { ...config, showSendToCloud: false, plotlyServerURL: "" }); // nothing leaves the page
}

// Of the points and of the ends of their bars, which over two seeds can be wider than the plane: of these, what lies in it.
function range(traces, axis) {
  const ends = (trace) => {
    const bars = trace[`error_${axis}`];
    if (!bars?.visible) return [];
    return trace[axis].flatMap((value, index) => [Math.max(value - bars.arrayminus[index], Math.min(value, 0)), Math.min(value + bars.array[index], Math.max(value, 1))]);
  };
  const values = traces.flatMap((trace) => [...trace[axis], ...ends(trace)]);
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.08 * (high - low) || 0.02;
  return [low - margin, high + margin];
}

function drawTradeoff(rows, chosen) {
  const shown = rows.filter((row) => known(row.general));
  const lacking = rows.length - shown.length;
  byId("without-general").textContent = lacking ? `${lacking} run(s) have no general score: they are in the table only.` : "";
  const [centres, traces] = [means(shown), []];
  const points = chosen.show === "means" ? centres : everySeed(shown);
  for (const remedy of ["base", ...remedies]) {
    for (const [number, variant] of variants.entries()) {
      const own = points.filter((point) => point.remedy === remedy && (point.variant ?? "") === variant);
      if (!own.length) continue;
      const [base, wise] = [remedy === "base", MERGED.has(remedy)];
      const name = escape(remedy) + (chosen.variant === "*" && variant ? `, ${escape(variant)}` : "");
      traces.push({
        type: "scatter", mode: "markers", name, x: own.map((point) => point.domain), y: own.map((point) => point.general), text: own.map(hover), hoverinfo: "text",
        error_x: errorBars(own, "domain", chosen.bars, colour(remedy)), error_y: errorBars(own, "general", chosen.bars, colour(remedy)),
        marker: {
          color: colour(remedy), symbol: base ? "star" : wise ? "diamond" : SYMBOLS[number % SYMBOLS.length], size: base ? 17 : wise ? 6 : own.map((point) => size(point.rate)),
          opacity: wise ? 0.75 : 1, line: { width: base ? 0 : 1, color: style("--paper") },
        },
      });
      const paper = [...new Map(own.filter((point) => known(point.runs[0].paper_domain)).map((point) => [point.point, point])).values()];
      if (paper.length) {
        traces.push({
          type: "scatter", mode: "markers", name: `${name}, published`, x: paper.map((point) => point.runs[0].paper_domain), y: paper.map((point) => point.runs[0].paper_general),
          text: paper.map((point) => `published: ${escape(point.point)}`), hovertemplate: "%{text}<br>domain %{x:.3f}, general %{y:.3f}<extra></extra>",
          marker: { color: colour(remedy), symbol: SYMBOLS[number % SYMBOLS.length] + "-open", size: paper.map((point) => size(point.rate)), line: { width: 2 } },
        });
      }
    }
  }
  for (const [number, variant] of variants.entries()) {
    const line = front(centres.filter((point) => (point.variant ?? "") === variant));
    if (!line.length) continue;
    traces.push({
      type: "scatter", mode: "lines", name: "Pareto front" + (chosen.variant === "*" && variant ? `, ${escape(variant)}` : ""), hoverinfo: "skip",
      x: line.map((point) => point.domain), y: line.map((point) => point.general), line: { shape: "vh", color: style("--soft"), width: 1.5, dash: number ? "dot" : "dash" },
    });
  }
  plot("tradeoff-plot", traces, { xaxis: { title: "domain score", range: range(traces, "x") }, yaxis: { title: "general score", range: range(traces, "y") } });
}

function drawForgetting(rows) {
  const columns = Object.keys(data.results[0]).filter((name) => name.startsWith("drift/nll_rise/"));
  const traces = columns.flatMap((column, number) => remedies.map((remedy) => {
    const own = rows.filter((row) => row.remedy === remedy && known(row[column]));
    return {
      type: "scatter", mode: "markers", name: escape(remedy) + (columns.length > 1 ? `, ${escape(column.slice(15))}` : ""), x: own.map((row) => row.domain), y: own.map((row) => row[column]),
      text: own.map((row) => `<b>${escape(row.point)}</b><br>${escape(row.name)}<br>domain ${fixed(row.domain)}, rise ${fixed(row[column], 4)}`), hoverinfo: "text",
      marker: { color: colour(remedy), symbol: SYMBOLS[number % SYMBOLS.length], size: own.map((row) => size(row.rate)) },
    };
  }));
  traces.push({
    type: "scatter", mode: "markers", name: "published", x: data.published.map((row) => row.domain), y: data.published.map((row) => row.forgetting),
    text: data.published.map((row) => `<b>${escape(row.name)}</b><br>domain ${fixed(row.domain)}, rise ${fixed(row.forgetting, 4)}<br>${escape(row.source)}`), hoverinfo: "text",
    marker: { color: style("--soft"), symbol: "circle-open", size: 9, line: { width: 1.5 } },
  });
  byId("forgetting").hidden = !traces.some((trace) => trace.x.length);
  plot("forgetting-plot", traces, { xaxis: { title: "domain score" }, yaxis: { title: "rise of the NLL, nats per token", autorange: "reversed" } });
}

function drawVolumes(chosen) {
  const rows = data.volumes.filter((row) => (chosen.variant === "*" || (row.variant ?? "") === chosen.variant) && chosen.remedies.has(row.remedy));
  const label = (row) => escape(row.remedy) + (chosen.variant === "*" && row.variant ? `, ${escape(row.variant)}` : "");
  const sizes = unique(rows.map((row) => `${row.variant ? row.variant + ": " : ""}${row.size} point(s) each` + (known(row.start) ? `, right of domain ${fixed(row.start)}` : ", without a base, right of domain 0")));
  byId("volume-note").textContent = rows.length
    ? `${sizes.join("; ")}. A point is the mean over all seeds at one rate; where a remedy has more, this is the mean over subsets of that size (all of them, or 1,000 drawn at random). The filters of rates, seeds and merges do not change it. There is a second bar where points were merged after training.`
    : "No trained run with a general score is shown.";
  const text = rows.map((row) => `${row.points} trained point(s), ${row.free} merged`);
  const bar = (name, key, tint) => ({ type: "bar", name, x: rows.map(label), y: rows.map((row) => row[key]), text, textposition: "none", hovertemplate: "%{x}: %{y:.4f}<br>%{text}<extra></extra>", marker: { color: tint } });
  const bars = [bar("trained points", "hypervolume", "#0072b2"), bar("with merges, which are free", "with_wise", "#56b4e9")];
  plot("volume-plot", bars.filter((each) => each.y.some(known)), { barmode: "group", bargap: 0.4, xaxis: { title: "remedy", tickangle: small() || rows.length > 12 ? -45 : 0 }, yaxis: { title: "hypervolume", rangemode: "tozero" } });
}

function drawRates(rows, chosen) {
  const centres = means(rows);
  for (const name of ["domain", "general"]) {
    const traces = [];
    for (const [number, variant] of variants.entries()) {
      const own = centres.filter((point) => (point.variant ?? "") === variant && known(point[name]));
      const suffix = chosen.variant === "*" && variant ? `, ${escape(variant)}` : "";
      for (const remedy of remedies.filter((each) => !MERGED.has(each))) {
        const line = own.filter((point) => point.remedy === remedy && known(point.rate)).sort((a, b) => a.rate - b.rate);
        if (!line.length) continue;
        traces.push({
          type: "scatter", mode: "lines+markers", name: escape(remedy) + suffix, x: line.map((point) => point.rate), y: line.map((point) => point[name]), text: line.map(hover), hoverinfo: "text",
          line: { color: colour(remedy), dash: DASHES[number % DASHES.length] }, marker: { size: 7 }, error_y: errorBars(line, name, chosen.bars, colour(remedy)),
        });
      }
      const base = own.find((point) => point.remedy === "base");
      const ends = rates.filter((rate) => rate >= chosen.from && rate <= chosen.to);
      if (base && ends.length) traces.push({ type: "scatter", mode: "lines", name: "base" + suffix, x: [ends[0], ends.at(-1)], y: [base[name], base[name]], line: { color: style("--ink"), dash: "dot", width: 1.5 }, hovertemplate: `base ${fixed(base[name])}<extra></extra>` });
    }
    const used = unique(traces.flatMap((trace) => trace.x)).sort((a, b) => a - b);
    const apart = Math.log(used.at(-1) / used[0]) / (small() ? 5 : 8); // names that are nearer would lie on each other
    const ticks = used.reduce((kept, each) => (kept.length && Math.log(each / kept.at(-1)) < apart ? kept : [...kept, each]), []);
    plot(`rate-${name}`, traces, { xaxis: { type: "log", title: "learning rate", tickvals: ticks, ticktext: ticks.map(rateText) }, yaxis: { title: `${name} score`, range: range(traces, "y") } });
  }
}

// ---- At the same domain score --------------------------------------------------------------------------------------------------------------------------

const inVariant = (row, chosen) => chosen.variant === "*" || (row.variant ?? "") === chosen.variant;
const named = (name, row, chosen) => name + (chosen.variant === "*" && row.variant ? `, ${row.variant}` : "");
const clear = (key, label) => ({ ...bounded(key, label), clear: (row) => known(row[`${key}_lower`]) && row[`${key}_lower`] * row[`${key}_upper`] > 0 });
const barsOf = (rows, name, tint) => ({ ...errorBars(rows, name, "items", tint), visible: rows.some((row) => known(row[`${name}_lower`])) });

function drawMatchedDomain(chosen) {
  const rows = data.matched.filter((row) => passes({ ...row, rate: null }, chosen));
  const [lines, shares] = [groupBy(rows, (row) => named(row.line, row, chosen)), unique(rows.map((row) => row.share))];
  const traces = lines.map((line, number) => {
    const [there, merged, tint] = [line.filter((row) => row.reached), MERGED.has(line[0].remedy), colour(line[0].remedy)];
    const place = (row) => shares.indexOf(row.share) + 0.84 * ((number + 0.5) / lines.length - 0.5);
    return {
      type: "scatter", mode: "markers", visible: merged ? "legendonly" : true, name: escape(named(line[0].line, line[0], chosen)), x: there.map(place), y: there.map((row) => row.general), error_y: barsOf(there, "general", tint),
      text: there.map((row) => `<b>${escape(row.line)}</b><br>general ${withBounds(row, "general")} at domain ${fixed(row.level)}` + (known(row.more) ? `<br>${withBounds(row, "more")} more than standard` : "")), hoverinfo: "text",
      marker: { color: tint, size: merged ? 7 : 10, symbol: merged ? "diamond" : SYMBOLS[Math.max(0, variants.indexOf(line[0].variant ?? "")) % SYMBOLS.length] },
    };
  });
  const level = (share) => unique(rows.filter((row) => row.share === share).map((row) => fixed(row.level, 2))).join(", ");
  const edges = shares.slice(1).map((_, index) => ({ type: "line", xref: "x", yref: "paper", x0: index + 0.5, x1: index + 0.5, y0: 0, y1: 1, line: { color: style("--line"), width: 1 } }));
  byId("same-note").textContent = rows.length
    ? "The levels are 50 %, 75 % and 90 % of the way from the base model's domain score to the best that Standard reaches (all seeds, any rate); no other choice is made by test scores. A merge is drawn when its name is clicked. The last column of the table is the largest domain score of a line. Filters of rates and seeds do not change this section."
    : "There is no base model to begin the lines with, no general score, or no remedy that learns the domain.";
  plot("same-plot", traces, { shapes: edges, xaxis: { title: "way to Standard's best (domain score)", tickvals: shares.map((_, index) => index), ticktext: shares.map((share) => `${Math.round(100 * share)} % (${level(share)})`), range: [-0.5, shares.length - 0.5], showgrid: false }, yaxis: { title: "general score at this level" } });
  const cells = lines.map((line) => Object.assign({ line: line[0].line, variant: line[0].variant, best: line[0].best }, ...line.map((row) =>
    Object.fromEntries(["general", "general_lower", "general_upper", "more", "more_lower", "more_upper"].map((name) => [`${row.share}_${name}`, row.line === "standard" && name.startsWith("more") ? null : row[name]])))));
  const reached = (share) => ({ ...bounded(`${share}_general`, `at ${Math.round(100 * share)} %`), show: (row) => (known(row[`${share}_general`]) ? fixed(row[`${share}_general`]) : "not reached") });
  table("same-table", cells, [text("line", "remedy"), ...(chosen.variant === "*" ? [text("variant")] : []), ...shares.flatMap((share) => [reached(share), clear(`${share}_more`, "Δ standard")]), number("best", "best")]);
}

// ---- Items lost and gained, loss against divergence ----------------------------------------------------------------------------------------------------

const transitions = (data.transitions.point ?? []).map((_, index) => Object.fromEntries(Object.entries(data.transitions).map(([name, values]) => [name, values[index]])));
const itemsOf = (row) => (row.score === "domain" ? "the domain" : row.suite ?? "all general suites");

// Markers of each remedy, larger for larger rates, small diamonds for merges.
function dots(rows, chosen, x, y, words) {
  return groupBy(rows, (row) => named(row.remedy, row, chosen)).map((own) => {
    const [merged, tint] = [MERGED.has(own[0].remedy), colour(own[0].remedy)];
    return {
      type: "scatter", mode: "markers", name: escape(named(own[0].remedy, own[0], chosen)), x: own.map((row) => row[x]), y: own.map((row) => row[y]), error_x: barsOf(own, x, tint), error_y: barsOf(own, y, tint),
      text: own.map((row) => `<b>${escape(row.point)}</b><br>${words(row)}`), hoverinfo: "text",
      marker: { color: tint, size: merged ? 6 : own.map((row) => size(row.rate)), symbol: merged ? "diamond" : "circle", opacity: merged ? 0.75 : 1, line: { width: 1, color: style("--paper") } },
    };
  });
}

function drawTransitions(chosen) {
  const rows = transitions.filter((row) => itemsOf(row) === byId("suite").value && passes(row, chosen));
  byId("transitions-note").textContent = rows.length ? (rows.some((row) => known(row.true_lost)) ? "Truly lost and gained: without what two models that guess independently lose and gain by chance, (1 - a) (1 - b) / (k - 1) of the items with k choices, where a and b are the shares that they answer right." : "")
    : "No run here has answers to the same items as its base model.";
  const traces = dots(rows, chosen, "gained", "lost", (row) => `lost ${withBounds(row, "lost")}<br>gained ${withBounds(row, "gained")}<br>of ${row.items} items`);
  const end = Math.max(0.02, ...rows.map((row) => Math.min(row.lost, row.gained)));
  if (rows.length) traces.push({ type: "scatter", mode: "lines", name: "as much gained as lost", x: [0, end], y: [0, end], line: { color: style("--soft"), dash: "dot", width: 1.5 }, hoverinfo: "skip" });
  plot("transitions-plot", traces, { xaxis: { title: "gained: wrong before, right after", range: range(traces, "x") }, yaxis: { title: "lost: right before, wrong after", range: range(traces, "y") } });
  const adjusted = rows.some((row) => known(row.true_lost)) ? [bounded("true_lost", "truly lost"), bounded("true_gained", "truly gained")] : [];
  table("transitions-table", rows, [text("point"), number("seeds", "seeds", 0), number("items", "items", 0), bounded("lost"), bounded("gained"), ...adjusted]);
}

function drawKl(chosen) {
  const rows = data.kl.filter((row) => passes(row, chosen));
  const traces = dots(rows, chosen, "kl", "drop", (row) => `KL ${fixed(row.kl, 4)} nats<br>drop ${fixed(row.drop)}, curve ${fixed(row.fitted)}`);
  const curves = groupBy(data.kl.filter((row) => inVariant(row, chosen)), (row) => row.variant ?? "");
  for (const own of curves) {
    const most = Math.max(...own.map((row) => row.kl));
    const x = Array.from({ length: 101 }, (_, index) => (most * index) / 100);
    traces.push({ type: "scatter", mode: "lines", name: escape(named("common curve", own[0], chosen)), x, y: x.map((kl) => own[0].linear * kl + own[0].quadratic * kl * kl), line: { color: style("--soft"), dash: "dash", width: 1.5 }, hoverinfo: "skip" });
  }
  byId("kl-note").textContent = curves.length
    ? curves.map((own) => `${own[0].variant ? `${own[0].variant}: ` : ""}drop = ${own[0].linear.toPrecision(3)} KL ${own[0].quadratic < 0 ? "−" : "+"} ${Math.abs(own[0].quadratic).toPrecision(3)} KL², R² ${fixed(own[0].r_squared, 2)}`).join("; ") + ". An R² below 0 means that the curve tells less than the mean drop. Only points of all seeds are fitted, whatever is filtered."
    : "The curve needs drift/kl of four points and of two remedies: add the callback Drift to the runs (configs/eval/drift.yaml, about 2 % of the training time).";
  plot("kl-plot", traces, { xaxis: { title: "KL from the base model, nats per token", rangemode: "tozero" }, yaxis: { title: "drop of the general score" } });
  const above = data.above_curve.filter((row) => inVariant(row, chosen) && (MERGED.has(row.remedy) ? chosen.wise : chosen.remedies.has(row.remedy)));
  const span = { ...number("kl_most", "KL"), show: (row) => `${fixed(row.kl_least, 4)} to ${fixed(row.kl_most, 4)}` };
  byId("above").parentElement.hidden = !above.length;
  table("above", above, [text("remedy"), ...(chosen.variant === "*" ? [text("variant")] : []), number("points", "points", 0), span, clear("above", "general above the curve")]);
}

// ---- Along training ------------------------------------------------------------------------------------------------------------------------------

const scored = data.curves.filter((row) => known(row.domain) && known(row.general));
const curvesOf = new Map(groupBy(scored, (row) => row.name).map((rows) => [rows[0].name, rows]));

// General score, and epoch, where a run first reaches a domain score: on the straight line from the epoch before, or at the epoch itself where that is the first one known.
function atLevel(curve, level) {
  let before = null;
  for (const row of curve) {
    if (row.domain >= level) {
      if (!before) return { general: row.general, epoch: row.epoch };
      const part = (level - before.domain) / (row.domain - before.domain);
      return { general: before.general + part * (row.general - before.general), epoch: before.epoch + part * (row.epoch - before.epoch) };
    }
    before = row;
  }
  return null;
}

function drawTraining(rows, chosen) {
  const watched = rows.filter((row) => curvesOf.has(row.name));
  const lacking = rows.filter((row) => row.trained).length - watched.length;
  byId("training-note").textContent = !watched.length
    ? "No run here has validation scores of both kinds by epoch; give DomainScore and GeneralScore `every_n_epochs: 1`."
    : "Thicker lines are larger rates. " + (lacking > 0 ? `${lacking} run(s) have no such scores.` : "");
  const seen = new Set();
  const traces = watched.map((row) => {
    const curve = curvesOf.get(row.name);
    const name = row.remedy + (chosen.variant === "*" && row.variant ? `, ${row.variant}` : "");
    const first = !seen.has(name) && seen.add(name);
    return {
      type: "scatter", mode: "lines+markers", name: escape(name), legendgroup: name, showlegend: Boolean(first), x: curve.map((each) => each.domain), y: curve.map((each) => each.general),
      text: curve.map((each) => `<b>${escape(row.name)}</b><br>after epoch ${each.epoch}`), hovertemplate: "%{text}<br>domain %{x:.3f}, general %{y:.3f}<extra></extra>",
      line: { color: colour(row.remedy), width: size(row.rate) / 6, dash: DASHES[Math.max(0, variants.indexOf(row.variant ?? "")) % DASHES.length] }, marker: { size: 5 },
    };
  });
  const level = Number(byId("level").value);
  const line = { type: "line", xref: "x", yref: "paper", x0: level, x1: level, y0: 0, y1: 1, line: { color: style("--soft"), width: 1, dash: "dash" } };
  plot("training-plot", traces, { shapes: [line], xaxis: { title: "domain score, validation" }, yaxis: { title: "general score, validation" } });
  for (const id of ["level", "matched"]) byId(id).closest("p, .table").hidden = !watched.length;
  drawMatched(watched, level);
}

function drawMatched(watched, level) {
  byId("level-shown").textContent = level.toFixed(2);
  const rows = groupBy(watched, (row) => row.point).map((group) => {
    const found = group.map((row) => atLevel(curvesOf.get(row.name), level)).filter(known);
    const scores = found.map((each) => each.general);
    const all = found.length === group.length; // the mean over the seeds that reach it would be of the quick ones
    return {
      variant: group[0].variant, remedy: group[0].remedy, rate: group[0].rate, reached: `${found.length} of ${group.length}`, epoch: all ? mean(found.map((each) => each.epoch)) : null,
      general: all ? mean(scores) : null, least: scores.length ? Math.min(...scores) : null, most: scores.length ? Math.max(...scores) : null,
    };
  });
  table("matched", rows, [text("variant"), text("remedy"), rate, text("reached", "runs that reach it"), number("epoch", "epoch", 1), number("general", "general there"), number("least", "least of seeds"), number("most", "most of seeds")]);
}

// ---- Tokens --------------------------------------------------------------------------------------------------------------------------------------

function listTokenRuns(rows) {
  const names = rows.filter((row) => data.tokens[row.name]).map((row) => [row.name, row.name]);
  options(byId("token-run"), names, byId("token-run").value);
  drawTokens();
}

function drawTokens() {
  const found = data.tokens[byId("token-run").value];
  byId("token-note").textContent = found ? "" : "No run here has a token_probability.parquet.";
  const [set, log] = [byId("token-set").value, byId("token-log").checked];
  const bins = found?.bins[set] ?? { edges: [0, 1], epochs: {} };
  const every = Object.keys(bins.epochs).map(Number);
  const shown = every.length <= 7 ? every : every.filter((_, index) => index % Math.ceil((every.length - 1) / 6) === 0 || index === every.length - 1);
  const [base, ...later] = EPOCHS;
  const tints = [base, ...(dark.matches ? later.slice(0, -1).reverse() : later)]; // the last epoch stands out
  const tint = (index) => tints[Math.round((index * (tints.length - 1)) / Math.max(1, shown.length - 1))];
  const traces = shown.map((epoch, index) => {
    const counts = bins.epochs[epoch];
    const total = Math.max(1, counts.reduce((sum, count) => sum + count, 0));
    const shares = counts.map((count) => (log && !count ? null : count / total));
    return {
      type: "scatter", mode: "lines", name: `epoch ${epoch}`, x: bins.edges, y: [...shares, shares.at(-1)], line: { shape: "hv", color: tint(index), width: index === shown.length - 1 ? 2.5 : 1.5 },
      text: [...counts.map((count, bin) => `p from ${bins.edges[bin]} to ${bins.edges[bin + 1]}: ${count} tokens`), ""], hovertemplate: "%{text}, %{y:.2%}<extra>%{fullData.name}</extra>",
    };
  });
  plot("token-histogram", traces, { xaxis: { title: "probability", range: [0, 1] }, yaxis: { title: "share of tokens", type: log ? "log" : "linear", ...(log ? { dtick: "D2", tickformat: "~g" } : { rangemode: "tozero" }) } });
  const cohorts = (found?.cohorts ?? []).map((each, index) => ({
    type: "scatter", mode: "lines+markers", name: `${each.span} (${each.tokens})`, x: each.epochs, y: each.probability, line: { color: shade(index) }, hovertemplate: "epoch %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
  }));
  plot("token-cohorts", cohorts, { xaxis: { title: "epoch", rangemode: "tozero" }, yaxis: { title: "mean probability", range: [-0.03, 1.03] } });
  const course = found?.course ?? [];
  const line = (key, name, index, extra = {}) => ({ type: "scatter", mode: "lines+markers", name, x: course.map((row) => row.epoch), y: course.map((row) => row[key]), line: { color: shade(index) }, hovertemplate: "epoch %{x}: %{y:.3f}<extra>%{fullData.name}</extra>", ...extra });
  const lines = [line("weight", "mean weight", 0), line("share_above", `share of p > ${found?.threshold ?? ""}`, 2), line("share_at_floor", "share at the floor", 1), line("temperature", "temperature (right)", 3, { yaxis: "y2" })];
  plot("token-course", lines.filter((each) => each.y.some(known)), {
    xaxis: { title: "epoch", rangemode: "tozero" }, yaxis: { title: "mean or share", rangemode: "tozero" },
    yaxis2: { title: "temperature, nats", overlaying: "y", side: "right", rangemode: "tozero", showgrid: false, tickformat: ".2~f" },
  });
}

// ---- Tables --------------------------------------------------------------------------------------------------------------------------------------

const text = (key, label = key) => ({ key, label, kind: "text", show: (row) => String(row[key] ?? "") });
const number = (key, label = key, digits = 3) => ({ key, label, kind: "number", show: (row) => fixed(row[key], digits) });
const bounded = (key, label = key) => ({ key, label, kind: "number", bounds: [`${key}_lower`, `${key}_upper`], show: (row) => fixed(row[key]), small: (row) => (known(row[`${key}_lower`]) ? ` [${fixed(row[`${key}_lower`])}, ${fixed(row[`${key}_upper`])}]` : "") });
const rate = { key: "rate", label: "rate", kind: "number", show: (row) => rateText(row.rate) };
const tables = new Map();
const orders = new Map();

function table(id, rows, all) {
  const columns = all.filter((column) => !rows.length || rows.some((row) => column.show(row))); // without those that are empty
  const order = orders.get(id);
  const sorted = order ? [...rows].sort((a, b) => compare(a[order.key], b[order.key], order.sign)) : rows;
  tables.set(id, { rows: sorted, columns });
  const head = element("tr", null);
  for (const column of columns) {
    const cell = element("th", null, { scope: "col", class: column.kind, "aria-sort": order?.key === column.key ? (order.sign > 0 ? "ascending" : "descending") : "none" });
    const button = element("button", column.label, { type: "button" });
    button.addEventListener("click", () => {
      orders.set(id, { key: column.key, sign: order?.key === column.key ? -order.sign : 1 });
      table(id, rows, all);
    });
    cell.append(button);
    head.append(cell);
  }
  const lines = sorted.map((row) => {
    const line = element("tr", null);
    for (const column of columns) {
      const cell = element("td", column.show(row), { class: column.key === "command" ? "text command" : column.kind });
      if (column.key === "command") cell.title = row.command;
      if (column.small) cell.append(element("small", column.small(row)));
      if (column.clear?.(row)) cell.classList.add("clear");
      line.append(cell);
    }
    return line;
  });
  const [top, body] = [element("thead", null), element("tbody", null)];
  top.append(head);
  body.append(...lines);
  byId(id).replaceChildren(top, body);
}

function compare(first, second, sign) {
  if (!known(first) || !known(second)) return known(second) - known(first); // what is missing comes last either way
  return sign * (typeof first === "number" && typeof second === "number" ? first - second : String(first).localeCompare(String(second)));
}

function drawResults(rows) {
  const suites = Object.keys(data.results[0]).filter((name) => name.startsWith("general/"));
  const drifts = Object.keys(data.results[0]).filter((name) => name.startsWith("drift/"));
  table("results", rows, [
    text("name"), text("variant"), text("remedy"), text("source"), rate, number("seed", "seed", 0), { ...number("alpha"), show: (row) => String(row.alpha ?? "") }, bounded("domain"), bounded("general"), bounded("drop"),
    ...suites.map((name) => number(name, name.slice(8).replace(/\/spread$/, ", spread over wordings").replace(/\/sd$/, ", s.d. over wordings"))), ...drifts.map((name) => number(name, name.slice(6).replaceAll("_", " ").replace("/", " of "), 4)), number("general_lenient", "general, read leniently"), number("val/score"), number("val/nll"), number("update/visible", "update visible"), number("steps", "steps", 0),
    number("paper_domain", "published domain"), number("paper_general", "published general"), text("command"),
  ]);
}

function drawComparison(rows) {
  const chosen = byId("reference").value;
  const shown = new Set(rows.map((row) => row.point));
  const compared = data.means.filter((row) => shown.has(row.point)).map((row) => {
    const same = (other) => other.remedy === "standard" && (other.variant ?? "") === (row.variant ?? "") && other.rate === row.rate;
    const base = (other) => other.remedy === "base" && (other.variant ?? "") === (row.variant ?? "");
    const reference = chosen === "*standard" ? data.means.find(same)?.point : chosen === "*base" ? data.means.find(base)?.point : chosen;
    const difference = data.pairs[reference]?.[row.point] ?? [];
    const names = ["more_domain", "more_domain_lower", "more_domain_upper", "more_general", "more_general_lower", "more_general_upper"];
    return { ...row, reference: row.point === reference ? "itself" : difference.length ? reference : null, ...Object.fromEntries(names.map((name, index) => [name, difference[index] ?? null])) };
  });
  const wide = (name) => ({ key: `${name}_se`, label: "s.e. over seeds", kind: "number", show: (row) => fixed(row[`${name}_se`]) });
  table("comparison", compared, [text("point"), number("seeds", "seeds", 0), bounded("domain"), wide("domain"), bounded("general"), wide("general"), clear("more_domain", "Δ domain"), clear("more_general", "Δ general"), text("reference", "compared with")]);
}

function download(id, kind) {
  const { rows, columns } = tables.get(id);
  const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);
  const keys = columns.flatMap((column) => [column.key, ...(column.bounds ?? [])]);
  const csv = () => [keys, ...rows.map((row) => keys.map((key) => row[key] ?? ""))].map((cells) => cells.map((cell) => quote(String(cell))).join(",")).join("\n") + "\n";
  const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "Δ": "$\\Delta$", "±": "$\\pm$" };
  const safe = (value) => value.replace(/[\\~^&%$#_{}Δ±]/g, (sign) => signs[sign] ?? "\\" + sign);
  const tex = () => {
    const shown = columns.filter((column) => column.key !== "command");
    const line = (cells) => cells.map(safe).join(" & ") + " \\\\";
    const body = rows.map((row) => line(shown.map((column) => column.show(row) + (column.small?.(row) ?? ""))));
    return ["% Needs booktabs.", `\\begin{tabular}{${shown.map((column) => (column.kind === "text" ? "l" : "r")).join("")}}`, "\\toprule", line(shown.map((column) => column.label)), "\\midrule", ...body, "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
  };
  const link = element("a", null, { href: URL.createObjectURL(new Blob([kind === "csv" ? csv() : tex()], { type: "text/plain" })), download: `${id}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- Everything ----------------------------------------------------------------------------------------------------------------------------------

function draw() {
  const chosen = filters();
  const rows = data.results.filter((row) => passes(row, chosen));
  byId("count").textContent = `${rows.length} of ${data.results.length} runs shown`;
  drawMatchedDomain(chosen);
  drawTradeoff(rows, chosen);
  drawForgetting(rows);
  drawTransitions(chosen);
  drawKl(chosen);
  drawVolumes(chosen);
  drawRates(rows, chosen);
  drawTraining(rows, chosen);
  listTokenRuns(rows);
  drawComparison(rows);
  drawResults(rows);
}

function prepare() {
  const runs = (variant) => data.results.filter((row) => (row.variant ?? "") === variant).length;
  const largest = [...variants].sort((a, b) => runs(b) - runs(a))[0];
  options(byId("variant"), [...variants.map((name) => [name, name || "none"]), ...(variants.length > 1 ? [["*", "all"]] : [])], largest);
  const choices = rates.map((rate) => [String(rate), rateText(rate)]);
  options(byId("from"), choices.length ? choices : [["0", "any"]], String(rates[0]));
  options(byId("to"), choices.length ? choices : [["0", "any"]], String(rates.at(-1)));
  checkboxes(byId("remedies"), remedies.filter((name) => !MERGED.has(name)));
  checkboxes(byId("seeds"), seeds.map(String));
  byId("wise").parentElement.hidden = !remedies.some((name) => MERGED.has(name));
  const references = data.means.filter((row) => data.pairs[row.point]).map((row) => [row.point, row.point]);
  options(byId("reference"), [["*standard", "standard at the same rate"], ["*base", "the base"], ...references], "*standard");
  const reached = data.curves.map((row) => row.domain).filter(known);
  byId("level").value = reached.length ? (0.6 * Math.max(...reached)).toFixed(2) : 0.5;
  const suites = unique(transitions.map(itemsOf)).map((name) => [name, name]);
  options(byId("suite"), suites, "all general suites");
  byId("suite").parentElement.parentElement.hidden = !suites.length;
  byId("note-list").replaceChildren(...(data.notes.length ? data.notes.map((row) => element("li", `${row.name}: ${row.sentence}.`)) : [element("li", "Nothing.")]));
  byId("version").textContent = data.version;
  if (window.innerWidth < 600) document.querySelector("#filters details").open = false;
}

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function main() {
  prepare();
  const script = element("script", await unpack(byId("plotly").textContent));
  document.head.append(script);
  draw();
  byId("filters").addEventListener("change", draw);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("level").addEventListener("input", () => drawTraining(data.results.filter((row) => passes(row, filters())), filters()));
  for (const id of ["token-run", "token-set", "token-log"]) byId(id).addEventListener("change", drawTokens);
  byId("suite").addEventListener("change", () => drawTransitions(filters()));
  byId("reference").addEventListener("change", () => drawComparison(data.results.filter((row) => passes(row, filters()))));
  for (const button of document.querySelectorAll("button[data-table]")) button.addEventListener("click", () => download(button.dataset.table, button.dataset.kind));
  dark.addEventListener("change", draw);
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  byId("problem").hidden = false;
  byId("problem").textContent = `The page could not be drawn (${error.message}). It needs a browser of 2023 or later; the numbers are in results.csv next to it.`;
  console.error(error);
});
