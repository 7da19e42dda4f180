// Findings, tables and the panel, as elements. Every text goes in as text, never as HTML.

function element(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

// A name may break after its dots and underscores, and is copied without the breaks.
function broken(name) {
  return name.split(/(?<=[._])/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));
}

function named(name, tag = "span") {
  return element(tag, { className: "name" }, ...broken(name));
}

function link(name, target) {
  return element("a", { href: `#${target}`, className: "name" }, ...broken(name));
}

function badge(severity) {
  return element("span", { className: `badge ${severity}` }, MARKS[severity]);
}

// A group's picture, if it has one, beside its words. Pictures are the only markup that comes with the page.
function groupItem({ key, members }, everything, expand) {
  const [first] = members;
  const shown = everything ? members : members.slice(0, FIRST);
  const words = element(
    "div", { className: "words" },
    element("div", { className: "head" }, badge(first.severity), element("code", {}, first.rule.id), element("strong", {}, first.rule.name), members.length > 1 ? element("span", { className: "quiet" }, plural(members.length, "place")) : ""),
    element("ul", { className: "places" }, ...shown.map(findingItem)),
  );
  if (shown.length < members.length) {
    const more = element("button", { type: "button" }, `Show all ${members.length.toLocaleString("en")}`);
    more.addEventListener("click", () => expand(key));
    words.append(more);
  }
  words.append(
    element("p", { className: "advice" }, first.advice),
    element("details", {}, element("summary", {}, "why"), element("p", {}, first.rule.summary), element("p", {}, `Source: ${first.rule.source}`)),
  );
  const picture = document.querySelector(`#pictures [data-finding="${first.first}"]`);
  return element("li", { className: `group ${first.severity}` }, words, picture ? picture.cloneNode(true) : "");
}

function findingItem(finding) {
  const places = [];
  const place = finding.parameterAt;
  if (place) places.push(link(place.name, `parameter-${place.index}`));
  else if (finding.parameter) places.push(named(finding.parameter));
  for (const layer of finding.layers.slice(0, 3)) {
    const made = link(layer.name, `layer-${layer.index}`);
    made.title = layer.name;
    if (place?.name.startsWith(`${layer.name}.`)) { // not the same name twice
      made.className = "whole";
      made.replaceChildren(`layer ${layer.index}`);
    }
    places.push(place ? " in " : "", made);
  }
  if (!finding.layers.length && finding.layer) places.push(named(finding.layer));
  if (!places.length) places.push("the model");
  return element("li", { id: `finding-${finding.index}`, tabIndex: -1 }, ...places, ": ", finding.message, consequencesItem(finding));
}

function consequencesItem(finding) {
  if (!finding.consequences.length) return "";
  const lines = finding.consequences.map((one) => element("li", {}, `${one.rule} at ${one.place}: ${one.message}`));
  return element("details", {}, element("summary", {}, `causes ${plural(lines.length, "other finding")}`), element("ul", {}, ...lines));
}

function findingLinks(findings) {
  const links = findings.slice(0, 4).map((finding) => {
    const made = link(finding.rule.id, `finding-${finding.index}`);
    made.title = `${MARKS[finding.severity]} ${finding.rule.name}: ${finding.message}`;
    return element("span", { className: finding.severity }, made);
  });
  return findings.length > 4 ? [...links, `+${findings.length - 4}`] : links;
}

// [heading, value to sort by, how it is shown, class, whether it has a bar]
const LAYER_COLUMNS = [
  ["#", (layer) => layer.index, (layer) => String(layer.index), "number"],
  ["layer", (layer) => layer.name, (layer) => broken(layer.name), "name"],
  ["findings", (layer) => (layer.findings.length ? -SEVERITIES.indexOf(worst(layer.findings)) : -9), (layer) => findingLinks(layer.findings), ""],
  ["kind", (layer) => layer.kind, null, "wrap"],
  ["output rms", (layer) => rms(layer.output), null, "number", true],
  ["gradient rms", (layer) => rms(layer.gradient), null, "number", true],
  ["factor", (layer) => number(layer.factor), null, "number"],
  ["dead", (layer) => number(layer.dead), (layer) => percent(layer.dead), "number"],
  ["saturated", (layer) => number(layer.saturated), (layer) => percent(layer.saturated), "number"],
  ["entropy", (layer) => number(layer.entropy), null, "number"],
  ["singular values", (layer) => number(layer.singular?.[1] ?? null), (layer) => (layer.singular ?? []).map((one) => digits(one)).join(", "), "number"],
];
const PARAMETER_COLUMNS = [
  ["#", (one) => one.index, (one) => String(one.index), "number"],
  ["parameter", (one) => one.name, (one) => broken(one.name), "name"],
  ["findings", (one) => (one.findings.length ? -SEVERITIES.indexOf(worst(one.findings)) : -9), (one) => findingLinks(one.findings), ""],
  ["shape", (one) => one.shape.reduce((a, b) => a * b, 1), (one) => one.shape.join(" × ") || "scalar", ""],
  ["planned", (one) => one.initializer ?? "", null, "wrap"],
  ["planned std", (one) => number(one.planned_std), null, "number", true],
  ["std", (one) => number(one.values.std), null, "number", true],
  ["units that differ", (one) => (one.units ? one.distinct / one.units : null), (one) => (one.units === null ? "" : `${one.distinct ?? "?"} of ${one.units}`), "number"],
  ["first step", (one) => number(one.update), null, "number"],
  ["spectral, Gaussian", (one) => number(one.spectral?.[0] ?? null), (one) => (one.spectral ?? []).map((norm) => digits(norm)).join(", "), "number"],
];

function fillTable(table, kind, columns, items) {
  const used = columns.filter(([heading, value]) => ["#", "findings"].includes(heading) || items.some((item) => ![null, ""].includes(value(item))));
  const scales = new Map(used.filter((column) => column[4]).map((column) => [column, decades([items.map(column[1])])]));
  const cell = (item, column) => {
    const [heading, value, show, className] = column;
    const shown = show ? show(item) : className === "number" ? digits(value(item)) : value(item);
    const made = element("td", { className, data: { label: heading } }, ...[shown].flat().map((part) => part ?? ""));
    if (scales.has(column) && value(item) !== null) {
      const scale = scales.get(column);
      made.classList.add("bar");
      made.style.setProperty("--part", `${(100 * (scale.place(value(item)) - scale.range[0])) / (scale.range[1] - scale.range[0])}%`);
    }
    return made;
  };
  const rows = items.map((item) => element("tr", { id: `${kind}-${item.index}`, tabIndex: -1, data: { index: item.index } }, ...used.map((column) => cell(item, column))));
  if (rows.length) rows[0].tabIndex = 0;
  table.style.setProperty("--longest", `${Math.min(42, Math.max(...items.map((item) => item.name.length)))}ch`);
  const body = element("tbody", {}, ...rows);
  const headings = used.map(([heading, value, , className]) => {
    const made = element("th", { className, scope: "col" }, element("button", { type: "button" }, heading));
    made.firstChild.addEventListener("click", () => sort(made, body, rows, items, value));
    return made;
  });
  table.replaceChildren(element("thead", {}, element("tr", {}, ...headings)), body);
}

function sort(heading, body, rows, items, value) {
  const down = heading.getAttribute("aria-sort") === "ascending" || (heading.className === "number" && !heading.hasAttribute("aria-sort"));
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rank = (one) => (one === null || Number.isNaN(one) ? 1 : 0); // what has no value comes last, both ways
  const compare = (a, b) => rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0) * (down && !rank(a) ? -1 : 1);
  const order = items.map((_, i) => i).sort((a, b) => compare(value(items[a]), value(items[b])) || a - b);
  body.append(...order.map((i) => rows[i]));
}

function facts(pairs) {
  const filled = pairs.filter(([, value]) => value !== null && value !== "");
  return element("dl", {}, ...filled.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function statsText(stats) {
  if (stats === null) return "none";
  const odd = stats.nonfinite ? `, ${stats.nonfinite.toLocaleString("en")} not finite` : "";
  const zeros = number(stats.zeros) ? `, ${percent(stats.zeros)} zeros` : "";
  return `mean ${digits(stats.mean)}, std ${digits(stats.std)}, ${digits(stats.low)} to ${digits(stats.high)}${zeros}${odd}`;
}

function panelFindings(findings) {
  return element("ul", {}, ...findings.map((finding) => element("li", {}, badge(finding.severity), " ", link(finding.rule.id, `finding-${finding.index}`), ` ${finding.message}`)));
}

function layerText(layer) {
  return [
    named(layer.name, "h3"),
    facts([
      ["kind", layer.kind], ["output", statsText(layer.output)], ["gradient", statsText(layer.gradient)],
      ["factor", digits(layer.factor)], ["dead", percent(layer.dead)], ["saturated", percent(layer.saturated)],
      ["entropy", digits(layer.entropy)], ["largest logit", digits(layer.largest_logit)],
    ]),
    panelFindings(layer.findings),
  ];
}

function parameterText(one) {
  return [
    named(one.name, "h3"),
    facts([
      ["is", `${one.dtype}, ${one.shape.join(" × ") || "scalar"}${one.buffer ? ", buffer" : one.trainable ? "" : ", frozen"}`],
      ["tied to", one.ties.join(", ")], ["planned", one.initializer], ["planned mean, std", one.planned_std === null ? "" : `${digits(one.planned_mean)}, ${digits(one.planned_std)}`],
      ["values", statsText(one.values)], ["gradient", statsText(one.gradient)],
      ["units", one.units === null ? "" : `${one.distinct ?? "?"} of ${one.units} differ`], ["first step", digits(one.update)],
    ]),
    panelFindings(one.findings),
  ];
}
