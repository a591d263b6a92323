// The page that can be asked. Charts, tables and files of a chart are the rows of its table that are chosen.
// Text from a study is only ever set as textContent, or escaped by Vega's tooltip.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const NAMED = 5; // lines with their names at their ends, as in lensrl/show/charts/of_scores.py
const EVERY = "all"; // the seed of rows over all seeds: choosing it keeps those of single seeds, too
root.classList.add("js");

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------- light and dark

function colour(name) {
  const probe = document.body.appendChild(make("i", { style: `color: var(--${name})` }));
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function isDark() {
  return (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
}

function look() {
  const [ink, muted, line, blue, orange, green, red] = ["ink", "muted", "line", "blue", "orange", "green", "red"].map(colour);
  const text = { labelColor: muted, titleColor: ink, labelFont: "system-ui, sans-serif", titleFont: "system-ui, sans-serif" };
  return {
    background: "transparent", view: { stroke: null }, font: "system-ui, sans-serif",
    axis: { ...text, labelFontSize: 12, labelLimit: innerWidth < 640 ? 180 : 260, titleFontSize: 12, titleFontWeight: 500, gridColor: line, domainColor: muted, tickColor: muted },
    legend: { ...text, orient: "top", columns: innerWidth < 640 ? 1 : 4, symbolSize: 60, labelFontSize: 12, titleFontWeight: 500, labelLimit: 220, symbolOpacity: 1 },
    range: { category: [blue, orange, green, red], heatmap: { scheme: "viridis" },
      ramp: { scheme: "viridis", extent: isDark() ? [0.2, 1] : [0, 0.92] } }, // of points: no dark one on dark, no bright one on white
    mark: { color: blue },
    style: {
      zero: { color: muted, strokeWidth: 0.9 }, one: { color: muted, strokeWidth: 0.9, strokeDash: [4, 3] },
      interval: { color: blue, strokeWidth: 1.5 }, error: { color: muted, opacity: 0.5 }, muted: { color: muted, fontSize: 12 },
    },
  };
}

function themeButton() {
  const button = document.getElementById("theme");
  const name = () => (button.textContent = isDark() ? "Light" : "Dark");
  const redraw = () => { name(); asked.forEach((one) => one.drawn && one.draw()); };
  try { if (localStorage.lensrlTheme) root.dataset.theme = localStorage.lensrlTheme; } catch { /* a browser that keeps nothing */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.lensrlTheme = root.dataset.theme; } catch { /* as above */ }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  name();
}

// ---------------------------------------------------------------- numbers, tables, files

function shown(value, digits, whole) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return value;
  return (whole ? String(value) : value.toFixed(digits)).replace("-", "−");
}

function table(columns, rows, digits) {
  const names = Object.keys(columns);
  const whole = names.map((name) => rows.every((row) => row[name] === null || Number.isInteger(row[name])));
  const words = names.map((name) => rows.some((row) => typeof row[name] === "string" && isNaN(row[name])));
  const cell = (tag, i, text) => make(tag, words[i] ? { class: "t" } : {}, text);
  const head = make("tr", {}, ...names.map((name, i) => cell("th", i, columns[name])));
  const body = rows.map((row) => make("tr", {}, ...names.map((name, i) => cell("td", i, shown(row[name], digits, whole[i])))));
  return sortable(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function sortKey(cell) {
  const text = (cell?.textContent ?? "").trim().replace(/−/g, "-").replace(/^<\s*/, "");
  if (text === "–" || text === "") return null;
  const number = Number(text.split(/[\s(]/)[0].replace("%", ""));
  return isNaN(number) ? text : number;
}

function sortable(element) {
  const head = [...element.querySelectorAll("tr")].filter((row) => row.querySelector("th") && !row.classList.contains("groups"))[0];
  if (!head) return element;
  const sort = (th) => {
    const place = [...head.children].indexOf(th);
    const down = th.getAttribute("aria-sort") === "ascending";
    const rows = [...element.querySelectorAll("tr")].filter((row) => row.querySelector("td"));
    const keyed = rows.map((row) => [sortKey(row.children[place]), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // without a value: last, in both directions
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return down ? -order : order;
    });
    for (const other of head.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const [, row] of keyed) row.parentNode.append(row);
  };
  for (const th of head.children) {
    th.tabIndex = 0;
    th.title = "sort";
    th.addEventListener("click", () => sort(th));
    th.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(th); } });
  }
  return element;
}

function save(name, columns, rows) {
  const quoted = (value) => {
    if (value === null) return "";
    const text = String(value);
    const safe = typeof value === "string" && /^[=+@\t\r]/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((line) => line.map(quoted).join(","));
  const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  make("a", { href: url, download: `${data.study.replace(/[^\w.-]+/g, "-")}-${name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// ---------------------------------------------------------------- charts

function unpack(packed) {
  const columns = Object.entries(packed).map(([name, of]) => [name, Array.isArray(of) ? of : of.at.map((i) => of.values[i])]);
  return (columns[0]?.[1] ?? []).map((_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]])));
}

function ask(section) {
  const name = section.dataset.chart;
  const chart = data.charts[name];
  const rows = unpack(chart.rows);
  const chosen = {};
  const layers = new Set(rows.map((row) => row.layer ?? row.layers)).size;
  let runs = new Set(chart.first);
  const controls = make("div", { class: "controls" });
  const place = make("div", { class: "chart" });
  section.prepend(controls, place);

  // the rows of the chosen values, choice by choice: later choices have the values that are left
  const keep = (left, column, value) => left.filter((row) => row[column] === value || (column === "seed" && value === EVERY));
  const left = () => Object.keys(chart.choices).reduce((found, column) => keep(found, column, chosen[column]), rows);

  function choices() {
    let found = rows;
    controls.replaceChildren();
    for (const [column, label] of Object.entries(chart.choices)) {
      const values = [...new Set(found.map((row) => row[column]))];
      if (!values.includes(chosen[column])) chosen[column] = values[0];
      if (values.length > 1) {
        const select = make("select", { name: column, onchange: () => { chosen[column] = select.value; choices(); one.draw(); } },
          ...values.map((value) => make("option", value === chosen[column] ? { selected: "" } : {}, value)));
        controls.append(make("label", {}, label, select));
      }
      found = keep(found, column, chosen[column]);
    }
    controls.append(make("button", { type: "button", class: "save", title: "the rows of this chart", onclick: () => save(name, Object.keys(rows[0]), one.rows()) }, "CSV"));
    if (chart.several) chips();
  }

  function chips() {
    const values = [...new Set(rows.map((row) => row[chart.several]))];
    const toggle = (value) => { if (!runs.delete(value)) runs.add(value); choices(); one.draw(); };
    const all = () => { runs = new Set(runs.size === values.length ? chart.first : values); choices(); one.draw(); };
    controls.append(make("div", { class: "chips", role: "group", "aria-label": `${chart.several}s to compare` },
      ...values.map((value) => make("button", { type: "button", style: `--chip: ${chart.colours[value] ?? "var(--blue)"}`, "aria-pressed": runs.has(value), title: value, onclick: () => toggle(value) }, value)),
      make("button", { type: "button", "aria-pressed": runs.size === values.length, style: "--chip: var(--line)", onclick: all }, runs.size === values.length ? "a few" : "all")));
  }

  const one = {
    drawn: false,
    rows: () => left().filter((row) => !chart.several || runs.has(row[chart.several])),
    async draw() {
      this.drawn = true;
      const spec = JSON.parse(JSON.stringify(chart.spec), (key, value) => (key === "title" && String(value)[0] === "$" ? chosen[value.slice(1)] : value));
      const wide = place.clientWidth;
      for (const parameter of spec.params ?? []) {
        if (parameter.name === "dot") parameter.value = Math.max(14, Math.min(60, (4 * wide) / layers));
        else if (chosen[parameter.name]) parameter.value = chosen[parameter.name];
      }
      if (chart.several) {
        const domain = [...runs];
        if (domain.length <= NAMED) spec.padding = { left: 5, top: 5, bottom: 5, right: 9 * Math.max(...domain.map((value) => value.length)) };
        spec.encoding.color = { field: chart.several, type: "nominal", legend: null, scale: { domain, range: domain.map((value) => chart.colours[value]) } };
      }
      if (chart.named) {
        const values = [...new Set(this.rows().map((row) => row[chart.named]))];
        for (const { encoding } of spec.layer) for (const of of [encoding?.color, encoding?.shape]) if (of) of.legend = { values };
      }
      if (chart.square) spec.height = Math.min(wide - 20, 560) - 110;
      spec.width = chart.square ? Math.min(wide - 20, 560) - 110 : "container";
      spec.autosize = chart.square ? "pad" : { type: "fit-x", contains: "padding" };
      spec.data = { name: "rows", values: this.rows() };
      this.view?.finalize();
      const dark = isDark();
      const { view } = await vegaEmbed(place, spec, {
        mode: "vega-lite", actions: false, renderer: "svg", ast: true, logLevel: 1, config: look(), tooltip: { theme: dark ? "dark" : "light" },
      });
      this.view = view;
      section.classList.add("drawn");
      if (chart.table) {
        const below = section.querySelector("[data-table]");
        below?.replaceChildren(table(chart.columns, left().filter((row) => !("seed" in chosen) || row.seed === chosen.seed), chart.digits));
      }
    },
  };
  choices();
  return one;
}

// ---------------------------------------------------------------- completions

function completions(place) {
  const PAGE = 8;
  const rows = unpack(data.completions);
  let start = 0;
  const select = (name, label, values) => {
    const made = make("select", { name, onchange: () => { start = 0; draw(); } }, ...values.map((value) => make("option", {}, value)));
    return [made, make("label", {}, label, made)];
  };
  const different = (name) => [...new Set(rows.map((row) => row[name]))];
  const [run, runLabel] = select("run", "run", different("run"));
  const [benchmark, benchmarkLabel] = select("benchmark", "benchmark", ["all", ...different("benchmark")]);
  const [change, changeLabel] = select("change", "items", ["changed", "better", "worse", "wrong", "all"]);
  const search = make("input", { type: "search", name: "search", placeholder: "search", oninput: () => { start = 0; draw(); } });
  const list = make("div");
  const turn = make("div", { class: "controls" });
  place.replaceChildren(make("div", { class: "controls" }, runLabel, ...(different("benchmark").length > 1 ? [benchmarkLabel] : []), changeLabel, search), list, turn);

  const wanted = (row) => row.run === run.value && (benchmark.value === "all" || row.benchmark === benchmark.value)
    && { changed: row.change !== "same", better: row.change === "better", worse: row.change === "worse", wrong: row.score < 1, all: true }[change.value]
    && (!search.value || [row.prompt, row.reference, row.base, row.answer].some((text) => text.toLowerCase().includes(search.value.toLowerCase())));
  const answer = (text, score) => make("pre", { class: score >= 1 ? "right" : "wrong", title: `score ${shown(score, 2)}` }, text || " ");

  function item(samples) {
    const [first] = samples;
    const column = (title, text, score) => make("div", {}, make("b", {}, title), ...samples.map((row) => answer(row[text], row[score])));
    return make("article", { class: "item" },
      make("p", { class: "muted" }, `${first.benchmark}, ${first.item}: ${first.change === "same" ? "same score" : first.change}`),
      make("pre", {}, first.prompt), make("p", {}, "reference ", make("code", {}, first.reference)),
      make("div", { class: "sides" }, column("base", "base", "base_score"), column(`${first.run}, seed ${first.seed}`, "answer", "score")));
  }

  function draw() {
    const items = new Map();
    const chosen = new Set(rows.filter(wanted).map((row) => `${row.benchmark}\n${row.item}`));
    for (const row of rows) {
      const key = `${row.benchmark}\n${row.item}`;
      if (row.run === run.value && chosen.has(key)) items.set(key, [...(items.get(key) ?? []), row]);
    }
    list.replaceChildren(...[...items.values()].slice(start, start + PAGE).map(item));
    const step = (by, label, possible) => make("button", { type: "button", ...(possible ? {} : { disabled: "" }), onclick: () => { start += by; draw(); place.scrollIntoView(); } }, label);
    turn.replaceChildren(step(-PAGE, "Back", start > 0), step(PAGE, "On", start + PAGE < items.size),
      make("span", { class: "muted" }, items.size ? `${start + 1} to ${Math.min(start + PAGE, items.size)} of ${items.size} items` : "No such item."));
  }
  draw();
}

// ---------------------------------------------------------------- the page

const sections = [...document.querySelectorAll("[data-chart]")];
document.querySelectorAll("table").forEach(sortable);
const asked = new Map(sections.map((section) => [section, ask(section)]));
if (data.completions) completions(document.getElementById("completions"));
themeButton();
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const one = asked.get(target);
    if (isIntersecting && !one.drawn) one.draw();
  }
}, { rootMargin: "400px" });
sections.forEach((section) => near.observe(section));

let wide = innerWidth, waiting;
addEventListener("resize", () => {
  clearTimeout(waiting);
  if (innerWidth !== wide) waiting = setTimeout(() => { wide = innerWidth; asked.forEach((one) => one.drawn && one.draw()); }, 150);
});

// paper has no closed tables
let opened = [];
addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details:not([open])")]; opened.forEach((one) => (one.open = true)); });
addEventListener("afterprint", () => opened.forEach((one) => (one.open = false)));

// ---------------------------------------------------------------- a study that is being made (lensrl explore)

if (data.live) {
  const board = document.getElementById("live");
  let version = null;
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "wheel"]) addEventListener(kind, () => (touched = Date.now()), { passive: true });
  const look = async () => {
    try {
      const state = await (await fetch(data.live)).json();
      version ??= state.version;
      if (state.version !== version && Date.now() - touched > 30_000) location.reload(); // nobody is choosing just now
      const begun = (state.open ?? []).filter((row) => row.status !== "missing");
      const waiting = (state.open ?? []).length - begun.length;
      const cell = (row, name) => make("td", { class: name === "reason" ? "t wrap" : "t" }, name === "seed" && row.seed !== "" ? `seed ${row.seed}` : String(row[name]));
      const rows = begun.map((row) => make("tr", {}, ...["run", "seed", "status", "reason"].map((name) => cell(row, name))));
      const said = state.error ?? `${state.made} of ${state.runs} runs are made${waiting ? `, ${waiting} are not begun` : ""}.`;
      const news = make("button", { type: "button", onclick: () => location.reload() }, "Show what is new");
      board.replaceChildren(make("p", {}, said, ...(state.version === version ? [] : [" ", news])));
      if (rows.length) board.append(make("div", { class: "table" }, make("table", {}, make("tbody", {}, ...rows))));
    } catch {
      board.replaceChildren(make("p", { class: "warn" }, "lensrl explore has ended: this page is as it was then."));
    }
    setTimeout(look, 3000);
  };
  look();
}
