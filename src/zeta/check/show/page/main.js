// What happens: filters, the place in view, links, keys, the theme.

const FIRST = 6; // places of one group of findings shown before one asks for all
const $ = (id) => document.getElementById(id);
let results = null;
const filter = { severities: new Set(SEVERITIES), rule: "", name: "", only: false };
const expanded = new Set(); // groups of findings that are shown whole
let current = null; // the layer under the cursor of the profile
let drawn = false;
let redrawing = 0;

const shown = (finding) => findingPasses(finding, filter);

function lossText(loss) {
  const parts = [`loss ${digits(loss.value)}`];
  if (loss.classes > 0) {
    const chance = Math.log(loss.classes);
    parts.push(`chance level ln(${loss.classes.toLocaleString("en")}) = ${digits(chance)}`);
    if (loss.expected !== null) parts.push(`the spread of the logits adds ${digits(Math.max(loss.expected - chance, 0))}`);
  }
  return parts.join(", ");
}

function heading() {
  $("model").textContent = results.model;
  $("verdict").className = `verdict ${results.ok ? "ok" : "fail"}`;
  $("verdict").textContent = `${results.ok ? "Can learn from here" : "Cannot learn from here as it is"}: ${countsText(results.findings)}`;
  $("verdict").after(element("p", {}, results.opening));
  const loss = results.loss;
  const lines = [
    `${plural(results.layers.length, "layer")}, ${plural(results.parameters.length, "parameter")} and buffers`,
    ...(loss ? [lossText(loss)] : []),
    `${results.level} level on ${results.device}`, ...(results.seed === null ? [] : [`seed ${results.seed}`]),
    `${digits(results.seconds, 2)} s`, results.versions.map((pair) => pair.join(" ")).join(", "),
  ];
  $("facts").append(...lines.map((line) => element("li", {}, line)));
  const reasons = [...new Set(results.skipped.map(([, why]) => why))];
  const remarks = reasons.map((reason) => `${[...new Set(results.skipped.filter(([, why]) => why === reason).map(([rule]) => rule))].join(", ")} not applied: ${reason}`);
  remarks.push(...results.sampled);
  if (results.suppressed.length) remarks.unshift(`${countsText(results.suppressed)} suppressed`);
  $("remarks").append(...remarks.map((line) => element("li", {}, line)));
}

function filters() {
  for (const severity of SEVERITIES) {
    const count = results.findings.filter((finding) => finding.severity === severity).length;
    const box = element("input", { type: "checkbox", name: "severity", value: severity, checked: true, defaultChecked: true });
    $("severities").append(element("label", {}, box, badge(severity), String(count)));
  }
  const rules = new Map(results.findings.map((finding) => [finding.rule.id, finding.rule]));
  for (const [id, rule] of [...rules].sort()) $("rule").append(element("option", { value: id }, `${id} ${rule.name}`));
  const read = () => {
    filter.severities = new Set([...$("severities").querySelectorAll("input:checked")].map((box) => box.value));
    filter.rule = $("rule").value;
    filter.name = $("name").value.trim().toLowerCase();
    filter.only = $("only").checked;
    refresh();
  };
  $("filters").addEventListener("input", read);
  $("filters").addEventListener("reset", () => setTimeout(read));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}

function refresh() {
  const findings = results.findings.filter(shown);
  $("finding-list").replaceChildren(...grouped(findings).map((group) => groupItem(group, expanded.has(group.key), expand)));
  if (!findings.length) $("finding-list").append(element("li", { className: "hint" }, results.findings.length ? "None passes the filters." : "Nothing was found."));
  const left = [results.layers, results.parameters].map((places, i) => {
    const passing = places.filter((place) => placePasses(place, filter));
    const kept = new Set(passing.map((place) => place.index));
    const rows = [...$(["layers", "parameters"][i]).tBodies[0].rows];
    for (const row of rows) row.hidden = !kept.has(Number(row.dataset.index));
    enterable(rows);
    return kept.size;
  });
  $("shown").textContent = `${findings.length.toLocaleString("en")} of ${plural(results.findings.length, "finding")}, ${left[0].toLocaleString("en")} of ${plural(results.layers.length, "layer")}, ${left[1].toLocaleString("en")} of ${plural(results.parameters.length, "parameter")}`;
  $("shown").className = findings.length + left[0] + left[1] === results.findings.length + results.layers.length + results.parameters.length ? "all" : "";
  clearTimeout(redrawing);
  redrawing = setTimeout(() => drawn && drawMarked(), 120); // not at every letter of a name
}

function expand(key) {
  const focused = document.activeElement?.closest(".group");
  const at = focused ? [...$("finding-list").children].indexOf(focused) : -1;
  expanded.add(key);
  refresh();
  $("finding-list").children[at]?.querySelectorAll(".places a")[FIRST]?.focus(); // the first that is new
}

// -- the place in view --

let asked = null;
function view(kind, index) {
  if (kind === "layer") current = index;
  for (const row of document.querySelectorAll("tr.current")) row.classList.remove("current");
  $(`${kind}-${index}`).classList.add("current");
  asked = [kind, index];
  requestAnimationFrame(() => {
    if (asked?.[0] !== kind || asked[1] !== index) return; // overtaken
    asked = null;
    const place = results[`${kind}s`][index];
    const own = kind === "layer" ? place.parameters.map((name) => results.parameterNamed.get(name)).filter(Boolean) : [];
    const parts = kind === "layer"
      ? [["output", place.output, "accent"], ["gradient", place.gradient, "gradient"], ...own.slice(0, 4).map((one) => [results.short(one.name), one.values, "quiet"])]
      : [["values", place.values, "accent"], ["gradient", place.gradient, "gradient"]];
    $("panel-text").replaceChildren(...(kind === "layer" ? layerText(place) : parameterText(place)));
    $("panel").dataset.shows = `${kind}-${index}`;
    if (!drawn) return;
    drawHistograms($("panel-chart"), parts);
    if (kind === "layer") Plotly.relayout($("profile"), { shapes: cursor(look(), current) });
  });
}

// What is only pointed at is shown where the panel is open: one that opens by itself would hide what is under it.
function point(kind, index) {
  if ($("panel").dataset.shows) view(kind, index);
}

function enterable(rows) {
  const visible = rows.filter((row) => !row.hidden);
  if (visible.length && !visible.some((row) => row.tabIndex === 0)) visible[0].tabIndex = 0;
  for (const row of rows) if (row.hidden) row.tabIndex = -1;
}

function enter(row) {
  for (const other of row.parentNode.querySelectorAll("tr[tabindex='0']")) other.tabIndex = -1;
  row.tabIndex = 0;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function tableKeys(table, kind) {
  table.addEventListener("focusin", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) view(kind, Number(row.dataset.index));
  });
  table.addEventListener("mousemove", (event) => {
    if (!event.movementX && !event.movementY) return; // the page moved under the pointer
    const row = event.target.closest("tbody tr");
    if (row && !row.classList.contains("current")) point(kind, Number(row.dataset.index));
  });
  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...row.parentNode.rows].filter((other) => !other.hidden);
    const at = rows.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    enter(rows[Math.min(Math.max(to, 0), rows.length - 1)]);
  });
}

function profileKeys() {
  $("profile").addEventListener("keydown", (event) => {
    const last = results.layers.length - 1;
    const at = current ?? -1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: last }[event.key];
    if (event.key === "Enter" && current !== null) go(`layer-${current}`);
    if (to === undefined || last < 0) return;
    event.preventDefault();
    view("layer", Math.min(Math.max(to, 0), last));
  });
}

// -- links --

function go(id) {
  const [, kind, number] = /^(layer|parameter|finding)-(\d+)$/.exec(id) ?? [];
  if (!kind) return;
  const index = Number(number);
  if (kind === "finding") {
    if (!shown(results.findings[index])) $("filters").reset();
    setTimeout(() => {
      if (!$(id)) {
        expanded.add(grouped(results.findings.filter(shown)).find((group) => group.members.includes(results.findings[index])).key);
        refresh();
      }
      $(id).scrollIntoView({ block: "center" });
      $(id).focus({ preventScroll: true });
    }, 1);
    return;
  }
  if ($(id).hidden) $("filters").reset();
  setTimeout(() => {
    $(id).closest("section").scrollIntoView({ block: "nearest" });
    enter($(id));
  }, 1);
}

document.addEventListener("click", (event) => {
  const id = event.target.closest?.("a[href^='#']")?.getAttribute("href").slice(1);
  if (!id || !/-\d+$/.test(id)) return;
  event.preventDefault();
  history.replaceState(null, "", `#${id}`);
  go(id);
});

// -- charts and theme --

function drawMarked() {
  drawProfile($("profile"), results.layers, shown, current);
  drawSpread($("spread"), results.parameters, shown);
}

function draw() {
  drawMarked();
  drawSymmetry($("symmetry"), results.rows);
  for (const target of $("sizes").children) {
    const { factory, draws } = target.dataset;
    const points = results.points.filter((point) => point.factory === factory);
    if (draws === "classes") drawClasses(target, factory, points, results.slopes.filter((slope) => slope.factory === factory));
    else drawSizes(target, factory, points);
  }
  const [kind, index] = $("panel").dataset.shows?.split("-") ?? [];
  if (kind) view(kind, Number(index));
}

function wire() {
  const pointed = (event, kind) => {
    const { x } = event.points[0];
    if (x !== undefined) point(kind, x);
  };
  const cell = (event) => results.rows[event.points[0].pointIndex[0]]?.members[event.points[0].pointIndex[1]];
  $("profile").on("plotly_hover", (event) => pointed(event, "layer"));
  $("profile").on("plotly_click", (event) => go(`layer-${event.points[0].x}`));
  $("spread").on("plotly_hover", (event) => pointed(event, "parameter"));
  $("spread").on("plotly_click", (event) => go(`parameter-${event.points[0].x}`));
  if (!results.rows.length) return;
  $("symmetry").on("plotly_hover", (event) => cell(event) && point("parameter", cell(event).index));
  $("symmetry").on("plotly_click", (event) => cell(event) && go(`parameter-${cell(event).index}`));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
function paint() {
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  $("theme").textContent = `Theme: ${theme}`;
  if (drawn) draw();
}

async function unpacked(id) {
  const characters = atob($(id).textContent);
  const packed = new Uint8Array(characters.length);
  for (let i = 0; i < packed.length; i += 1) packed[i] = characters.charCodeAt(i); // 20 times as fast as Uint8Array.from
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function start() {
  results = indexed(JSON.parse(await unpacked("data")), JSON.parse(await unpacked("labels")));
  heading();
  filters();
  fillTable($("layers"), "layer", LAYER_COLUMNS, results.layers);
  fillTable($("parameters"), "parameter", PARAMETER_COLUMNS, results.parameters);
  tableKeys($("layers"), "layer");
  tableKeys($("parameters"), "parameter");
  profileKeys();
  $("theme").addEventListener("click", () => {
    theme = { auto: "light", light: "dark", dark: "auto" }[theme];
    paint();
  });
  const close = () => {
    asked = null;
    delete $("panel").dataset.shows;
  };
  $("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  new ResizeObserver(() => document.documentElement.style.setProperty("--filters", `${$("filters").offsetHeight}px`)).observe($("filters"));
  dark.addEventListener("change", paint);
  paint();
  refresh();
  const factories = [...new Set(results.points.map((point) => point.factory))];
  const classes = results.slopes.map((slope) => slope.factory);
  const charts = factories.flatMap((factory) => [...(classes.includes(factory) ? ["classes"] : []), "layers"].map((draws) => ({ factory, draws })));
  $("sizes").append(...charts.map((data) => element("div", { className: "chart", data })));
  $("sizes-section").hidden = !factories.length;
  document.head.append(element("script", { textContent: await unpacked("plotly") }));
  drawn = true;
  draw();
  wire();
  if (location.hash) go(location.hash.slice(1));
  document.documentElement.dataset.ready = "true";
}

start();
