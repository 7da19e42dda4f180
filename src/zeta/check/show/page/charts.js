// The charts, by plotly. Each function draws one; `look()` gives the colours of the theme in force.

const FONT = "system-ui, sans-serif";
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function look() {
  const style = getComputedStyle(document.documentElement);
  const names = ["text", "quiet", "line", "grid", "accent", "gradient", "fail", "warn", "note", "raised", "flat", "alike", "nearly"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// A legend directly above its plot, also where it has one entry only.
const ABOVE = { showlegend: true, legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" }, margin: { l: 70, r: 16, t: 40, b: 44 } };

// Plotly reads a few tags in its texts, and names are only names.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function layout(colours, rest) {
  const label = { bgcolor: colours.raised, bordercolor: colours.line, align: "left", font: { color: colours.text, family: FONT } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, dragmode: "zoom",
    font: { color: colours.text, family: FONT, size: 12 }, hoverlabel: { ...label, namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.quiet, activecolor: colours.accent },
    margin: { l: 70, r: 16, t: 30, b: 44 }, ...rest,
  };
}

// When the window's size changes, plotly takes the height of the element.
function react(target, data, layout, config) {
  target.style.height = `${layout.height}px`;
  return Plotly.react(target, data, layout, config);
}

function axis(colours, rest) {
  return { gridcolor: colours.grid, linecolor: colours.line, zeroline: false, automargin: true, ...rest };
}

function logAxis(colours, scale, title, rest) {
  const { range, tickvals, ticktext } = scale;
  return axis(colours, { title: { text: title, standoff: 8, font: { color: rest?.color ?? colours.text } }, range, tickvals, ticktext, ...rest, color: undefined });
}

function overIndex(colours, count, title, rest) {
  return axis(colours, { title: { text: title }, range: [-0.5 - count * 0.01, count - 0.5 + count * 0.01], tickformat: "d", nticks: Math.min(count + 1, 12), ...rest });
}

// Markers of the layers or parameters with findings that are shown.
function marks(colours, places, at, shown, axes, what) {
  return SEVERITIES.map((severity) => {
    const members = places.filter((place) => worst(place.findings.filter(shown)) === severity && at(place) !== null);
    return {
      type: "scatter", mode: "markers", ...axes, hoverinfo: "skip", meta: `${what} ${severity}`,
      name: NOUNS[severity], showlegend: what !== "gradient" && members.length > 0,
      x: members.map((place) => place.index), y: members.map(at),
      marker: { color: colours[severity], size: severity === "note" ? 8 : 11, symbol: { fail: "x", warn: "diamond", note: "circle-open" }[severity] },
    };
  });
}

function drawProfile(target, layers, shown, current) {
  const colours = look();
  const outputs = layers.map((layer) => rms(layer.output));
  const gradients = layers.map((layer) => rms(layer.gradient));
  const [forward, backward] = [decades([outputs]), decades([gradients])];
  const mode = layers.length > 80 ? "lines" : "lines+markers";
  const line = (values, scale, colour, name, axes) => ({
    type: "scatter", mode, name, ...axes, x: layers.map((layer) => layer.index), y: values.map(scale.place),
    showlegend: false, line: { color: colour, width: 1.5 }, marker: { size: 6 }, opacity: blocks.length ? 0.6 : 1,
    text: values.map((value, i) => `${plain(results.short(layers[i].name))}<br>${plain(layers[i].kind)}: ${name} ${digits(value) || "none"}`),
    hovertemplate: "%{text}<extra></extra>",
  });
  const below = { xaxis: "x", yaxis: "y2" };
  const blocks = layers.filter((layer) => layer.block);
  const stream = (values, scale, colour, axes) => ({
    type: "scatter", mode: "lines", ...axes, hoverinfo: "skip", showlegend: false, line: { color: colour, width: 3 }, meta: "blocks",
    x: blocks.map((layer) => layer.index), y: blocks.map((layer) => scale.place(values[layer.index])),
  });
  const data = [
    line(outputs, forward, colours.accent, "output", { xaxis: "x", yaxis: "y" }),
    line(gradients, backward, colours.gradient, "gradient", below),
    stream(outputs, forward, colours.accent, { xaxis: "x", yaxis: "y" }),
    stream(gradients, backward, colours.gradient, below),
    ...marks(colours, layers, (layer) => forward.place(rms(layer.output)), shown, { xaxis: "x", yaxis: "y" }, "output"),
    ...marks(colours, layers, (layer) => backward.place(rms(layer.gradient)), shown, below, "gradient"),
  ];
  return react(target, data, layout(colours, {
    height: 400, hovermode: "x", ...ABOVE, shapes: cursor(colours, current),
    xaxis: overIndex(colours, layers.length, "layer, in the order of the forward pass", { anchor: "y2" }),
    yaxis: logAxis(colours, forward, "output (rms)", { domain: [0.54, 1], color: colours.accent }),
    yaxis2: logAxis(colours, backward, "gradient (rms)", { domain: [0, 0.46], color: colours.gradient }),
  }), CONFIG);
}

function cursor(colours, index) {
  if (index === null) return [];
  const line = { color: colours.quiet, width: 1, dash: "dot" };
  return [{ type: "line", xref: "x", yref: "paper", x0: index, x1: index, y0: 0, y1: 1, line }];
}

function drawSpread(target, parameters, shown) {
  const colours = look();
  const planned = parameters.map((one) => number(one.planned_std));
  const measured = parameters.map((one) => number(one.values.std));
  const scale = decades([planned, measured]);
  const x = parameters.map((one) => one.index);
  const text = parameters.map((one, i) => `${plain(results.short(one.name))}<br>planned ${digits(planned[i]) || "nothing"}, measured ${digits(measured[i])}`);
  const width = parameters.length > 300 ? 7 : 14;
  const data = [
    { type: "scatter", mode: "markers", name: "planned", showlegend: planned.some((one) => one !== null), x, y: planned.map(scale.place), hoverinfo: "skip",
      marker: { symbol: "line-ew", size: width, line: { color: colours.quiet, width: 2 } } },
    { type: "scatter", mode: "markers", name: "measured", x, y: measured.map(scale.place), text, hovertemplate: "%{text}<extra></extra>",
      marker: { color: colours.accent, size: parameters.length > 300 ? 4 : 7 } },
    ...marks(colours, parameters, (one) => scale.place(number(one.values.std)), shown, {}, "parameter"),
  ];
  return react(target, data, layout(colours, {
    height: 400, hovermode: "closest", ...ABOVE,
    xaxis: overIndex(colours, parameters.length, "parameter, in the order of the model"),
    yaxis: logAxis(colours, scale, "standard deviation"),
  }), CONFIG);
}

function drawSymmetry(target, rows) {
  const colours = look();
  if (!rows.length) {
    target.textContent = "No parameter has units to compare.";
    return null;
  }
  const columns = Math.max(...rows.map((row) => row.members.length));
  const cells = rows.map((row) => Array.from({ length: columns }, (_, i) => row.members[i] ?? null));
  const part = (one) => (one === null ? null : one.units ? one.distinct / one.units : 1);
  const text = (one) => (one === null ? "" : `${plain(results.short(one.name))}<br>${one.distinct.toLocaleString("en")} of ${one.units.toLocaleString("en")} units differ`);
  const full = 0.99999;
  const data = [{
    type: "heatmap", z: cells.map((row) => row.map(part)), text: cells.map((row) => row.map(text)), zmin: 0, zmax: 1,
    hovertemplate: "%{text}<extra></extra>", hoverongaps: false, xgap: columns > 120 ? 0 : 1, ygap: 2,
    colorscale: [[0, colours.alike], [full, colours.nearly], [full, colours.flat], [1, colours.flat]],
    showscale: false,
  }];
  return react(target, data, layout(colours, {
    height: 84 + rows.length * 24, margin: { l: 40, r: 10, t: 30, b: 44 },
    xaxis: axis(colours, { title: { text: "number within the row" }, showgrid: false, nticks: Math.min(columns + 1, 12), tickformat: "d" }),
    yaxis: axis(colours, { autorange: "reversed", showgrid: false, tickvals: rows.map((_, i) => i), ticktext: rows.map((row) => plain(row.label)) }),
  }), CONFIG);
}

// For each class of layers, the geometric mean of their rms over the sizes: a line for each step.
function drawClasses(target, factory, points, slopes) {
  const colours = look();
  const across = Math.min(slopes.length, Math.max(1, Math.floor(target.clientWidth / 300)));
  const lines = Math.ceil(slopes.length / across);
  const last = Math.max(...points.map((point) => point.step));
  const sizes = [...new Set(points.map((point) => point.size))].sort((a, b) => a - b);
  const mean = (group, size, step) => {
    const members = points.filter((point) => point.group === group && point.size === size && point.step === step);
    const logs = members.map((point) => Math.log10(number(point.value))).filter(Number.isFinite);
    return logs.length ? 10 ** (logs.reduce((sum, log) => sum + log, 0) / logs.length) : null;
  };
  const share = (at, of, gap) => [(at + gap / 2) / of, (at + 1 - gap / 2) / of];
  const data = [];
  const axes = {};
  const annotations = [];
  slopes.forEach((slope, i) => {
    const suffix = i ? String(i + 1) : "";
    const drawn = Array.from({ length: last + 1 }, (_, step) => sizes.map((size) => mean(slope.group, size, step)));
    const scale = decades(drawn.map((values) => values.filter((value) => value !== null)));
    drawn.forEach((values, step) => data.push({
      type: "scatter", mode: step === last ? "lines+markers" : "lines", xaxis: `x${suffix}`, yaxis: `y${suffix}`, showlegend: false,
      opacity: step === 0 || step === last ? 1 : 0.15 + (0.6 * step) / last, x: sizes.map(Math.log2), y: values.map((value) => (value === null ? null : scale.place(value))),
      line: { width: step === last ? 2.5 : 1.5, dash: step ? "solid" : "dot", color: step ? colours.accent : colours.text },
      text: values.map((value, at) => (value === null ? "" : `${plain(factory)} ${sizes[at]}, after ${plural(step, "step")}: ${digits(value)}`)), hovertemplate: "%{text}<extra></extra>",
    }));
    const x = share(i % across, across, 0.24);
    const y = share(lines - 1 - Math.floor(i / across), lines, 0.34);
    axes[`xaxis${suffix}`] = axis(colours, { anchor: `y${suffix}`, domain: x, tickvals: sizes.map(Math.log2), ticktext: sizes.map(String), automargin: false, range: [Math.log2(sizes[0]) - 0.2, Math.log2(sizes.at(-1)) + 0.2] });
    axes[`yaxis${suffix}`] = logAxis(colours, scale, "", { anchor: `x${suffix}`, domain: y, automargin: false });
    const exponent = number(slope.exponents.at(-1));
    const bad = slope.verdict === "grows";
    annotations.push({
      text: `<b>${plain(slope.group)}</b> (${plural(slope.layers, "layer")}): ${slope.verdict}${Number.isFinite(exponent) ? `, ${factory}<sup>${exponent.toFixed(2)}</sup>` : ""}`,
      xref: "paper", yref: "paper", x: x[0], y: y[1], xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12, color: bad ? colours.warn : colours.text },
    });
  });
  return react(target, data, layout(colours, { height: 40 + 210 * lines, margin: { l: 40, r: 10, t: 10, b: 20 }, annotations, hovermode: "closest", ...axes }), CONFIG);
}

function drawSizes(target, factory, points) {
  const colours = look();
  const steps = points.map((point) => point.step);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const scale = decades([points.map((point) => number(point.value))]);
  const names = [...new Set(points.map((point) => point.layer))];
  const palette = ["#1f77b4", "#e8601c", "#2ca02c", "#9467bd", "#8c7b00", "#17becf", "#d6457f"];
  const trace = (name, i, step, dash) => {
    const members = points.filter((point) => point.layer === name && point.step === step).sort((a, b) => a.size - b.size);
    const label = plain(results.short(name));
    return {
      type: "scatter", mode: "lines+markers", name: label, legendgroup: String(i), showlegend: step === last && names.length <= 24,
      line: { dash, width: 1.5, color: palette[i % palette.length] }, x: members.map((point) => Math.log2(point.size)), y: members.map((point) => scale.place(number(point.value))),
      text: members.map((point) => `${label}<br>${plain(factory)} ${point.size}, after ${plural(step, "step")}: ${digits(point.value)}`), hovertemplate: "%{text}<extra></extra>",
    };
  };
  const data = names.flatMap((name, i) => [...(first === last ? [] : [trace(name, i, first, "dot")]), trace(name, i, last, "solid")]);
  const beside = target.clientWidth >= 800;
  const sizes = [...new Set(points.map((point) => point.size))].sort((a, b) => a - b);
  return react(target, data, layout(colours, {
    height: beside ? 400 : 320 + 20 * Math.min(names.length, 24), hovermode: "closest",
    legend: beside ? { x: 1.01, xanchor: "left", y: 1, yanchor: "top" } : { orientation: "h", y: -0.25, yanchor: "top" },
    xaxis: axis(colours, { title: { text: factory }, tickvals: sizes.map(Math.log2), ticktext: sizes.map(String) }),
    yaxis: logAxis(colours, scale, "value"),
  }), CONFIG);
}

// Histograms, as many beside each other as have room: [title, stats, colour].
function drawHistograms(target, parts) {
  const colours = look();
  const drawn = parts.filter(([, stats]) => stats?.histogram);
  target.hidden = !drawn.length;
  if (!drawn.length) return null;
  const columns = Math.min(drawn.length, Math.max(1, Math.floor(target.clientWidth / 230)));
  const lines = Math.ceil(drawn.length / columns);
  const share = (at, of, gap) => [(at + gap / 2) / of, (at + 1 - gap / 2) / of];
  const data = [];
  const axes = {};
  const annotations = [];
  drawn.forEach(([title, stats, colour], i) => {
    const { counts } = stats.histogram;
    const [low, high] = [number(stats.histogram.low), number(stats.histogram.high)];
    const width = (high - low) / counts.length;
    const suffix = i ? String(i + 1) : "";
    const across = share(i % columns, columns, 0.2);
    const domain = share(lines - 1 - Math.floor(i / columns), lines, 0.36);
    const x = counts.map((_, bin) => low + (bin + 0.5) * width);
    data.push({ type: "bar", x, y: counts, width, marker: { color: colours[colour], line: { width: 0 } }, xaxis: `x${suffix}`, yaxis: `y${suffix}`, hovertemplate: "%{x:.3g}: %{y:,}<extra></extra>" });
    axes[`xaxis${suffix}`] = axis(colours, { anchor: `y${suffix}`, domain: across, nticks: 5, exponentformat: "e", fixedrange: true, range: [low, high], automargin: false });
    axes[`yaxis${suffix}`] = axis(colours, { anchor: `x${suffix}`, domain, nticks: 4, fixedrange: true, rangemode: "tozero", automargin: false });
    annotations.push({ text: plain(title), xref: "paper", yref: "paper", x: across[0], y: domain[1], xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 11 } });
  });
  return react(target, data, layout(colours, {
    height: lines * 180, bargap: 0, showlegend: false, annotations, ...axes, margin: { l: 22, r: 4, t: 0, b: 0 },
  }), { ...CONFIG, displayModeBar: false });
}
