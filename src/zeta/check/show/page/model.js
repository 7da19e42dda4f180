// The document of a check, decoded and indexed; nothing here touches the page.

const SEVERITIES = ["fail", "warn", "note"];
const MARKS = { fail: "FAIL", warn: "WARN", note: "NOTE" };
const NOUNS = { fail: "failure", warn: "warning", note: "note" };
const NONFINITE = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };

function number(value) {
  return typeof value === "string" ? NONFINITE[value] : value;
}

function rms(stats) {
  return stats === null ? null : Math.hypot(number(stats.mean), number(stats.std));
}

// `labels` has the opening sentence, the shortened names, and the rows of the map of units.
function indexed(document, labels) {
  const layers = document.layers.map((layer, index) => ({ ...layer, index, findings: [] }));
  const parameters = document.parameters.map((parameter, index) => ({ ...parameter, index, findings: [] }));
  const findings = document.findings.map((finding, index) => ({
    ...finding, index, rule: document.rules[finding.rule], layers: [], parameterAt: null,
  }));
  const layerNamed = new Map(layers.map((layer) => [layer.name, layer]));
  const parameterNamed = new Map(parameters.map((parameter) => [parameter.name, parameter]));
  const owners = new Map();
  for (const layer of layers) {
    for (const name of layer.parameters) owners.set(name, [...(owners.get(name) ?? []), layer]);
  }
  for (const finding of findings) {
    const named = layerNamed.get(finding.layer);
    finding.layers = named ? [named] : owners.get(finding.parameter) ?? [];
    for (const layer of finding.layers) layer.findings.push(finding);
    finding.parameterAt = parameterNamed.get(finding.parameter) ?? null;
    finding.parameterAt?.findings.push(finding);
  }
  const groups = grouped(findings);
  for (const { members } of groups) for (const finding of members) finding.first = members[0].index;
  const rows = labels.rows.map(([label, members]) => ({ label, members: members.map((at) => parameters[at]) }));
  const shortened = new Map(Object.entries(labels.names));
  const short = (name) => shortened.get(name) ?? name;
  return { ...document, layers, parameters, findings, parameterNamed, rows, short, opening: labels.opening };
}

// Findings of one severity, rule and advice, in the order of the first of each.
function grouped(findings) {
  const groups = new Map();
  for (const finding of findings) {
    const key = JSON.stringify([finding.severity, finding.rule.id, finding.advice]);
    if (!groups.has(key)) groups.set(key, { key, members: [] });
    groups.get(key).members.push(finding);
  }
  return [...groups.values()];
}

function worst(findings) {
  return SEVERITIES.find((severity) => findings.some((finding) => finding.severity === severity)) ?? null;
}

// What is to be seen: a severity, a rule, a part of a name.
function findingPasses(finding, filter) {
  const names = `${finding.parameter ?? ""}\n${finding.layer ?? ""}`.toLowerCase();
  return filter.severities.has(finding.severity) && (!filter.rule || finding.rule.id === filter.rule)
    && names.includes(filter.name);
}

function placePasses(place, filter) {
  const names = [place.name, ...(place.ties ?? [])].join("\n").toLowerCase();
  const own = place.findings.some((finding) => findingPasses(finding, { ...filter, name: "" }));
  return names.includes(filter.name) && (!filter.only || own);
}

// -- texts --

function digits(value, most = 4) {
  value = number(value);
  if (value === null || value === undefined) return "";
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "inf").replace("NaN", "nan");
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    return value.toExponential(most - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(most)));
}

function percent(value) {
  return value === null ? "" : `${digits(100 * number(value), 3)} %`;
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function countsText(findings) {
  return SEVERITIES.map((severity) => plural(findings.filter((one) => one.severity === severity).length, NOUNS[severity])).join(", ");
}

// -- a logarithmic axis that also has places for 0 and for what is not finite --

function decades(columns) {
  const values = columns.flat().filter((value) => value !== null);
  const logs = values.filter((value) => value > 0 && value < Infinity).map(Math.log10);
  let low = Math.floor(logs.reduce((a, b) => Math.min(a, b), Infinity) + 1e-9);
  let high = Math.ceil(logs.reduce((a, b) => Math.max(a, b), -Infinity) - 1e-9);
  if (!logs.length) [low, high] = [-1, 0];
  if (high - low < 2) [low, high] = high === low ? [low - 1, high + 1] : [low - 0.5, high + 0.5];
  const step = Math.max(1, Math.ceil((high - low) / 6));
  const gap = Math.max(0.6, (high - low) * 0.12);
  const ticks = [];
  for (let power = Math.ceil(low); power <= high; power += step) ticks.push([power, digits(10 ** power, 2)]);
  const zero = values.some((value) => value === 0);
  const odd = values.some((value) => !Number.isFinite(value));
  if (zero) ticks.unshift([low - gap, "0"]);
  if (odd) ticks.push([high + gap, "inf, nan"]);
  const place = (value) => {
    if (value === null) return null;
    if (!Number.isFinite(value)) return high + gap;
    return value > 0 ? Math.log10(value) : low - gap;
  };
  const margin = (high - low) * 0.05 + 0.05;
  const range = [low - (zero ? gap : 0) - margin, high + (odd ? gap : 0) + margin];
  return { place, range, tickvals: ticks.map(([at]) => at), ticktext: ticks.map(([, text]) => text) };
}
