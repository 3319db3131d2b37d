"use strict";
// Theme: that of the system until the switch is used.
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const kept = {
  get: () => { try { return localStorage.getItem("pcsnn-theme"); } catch { return null; } },
  set: (theme) => { try { localStorage.setItem("pcsnn-theme", theme); } catch { /* a file without storage */ } },
};
if (["light", "dark"].includes(kept.get())) root.dataset.theme = kept.get();

// Charts: drawn when they come into view, with the colours of the page.
const colours = () => {
  const style = getComputedStyle(document.body);
  const edge = getComputedStyle(document.querySelector("nav")).borderBottomColor;
  return { text: style.color, back: style.backgroundColor, edge };
};
const themed = (layout) => {
  const { text, back, edge } = colours();
  const axis = { gridcolor: edge, zerolinecolor: edge, linecolor: edge, automargin: true };
  const titled = (given) => ({ ...given, ...axis, title: { text: given.title || "", font: { size: 12 } } });
  return {
    ...layout,
    font: { family: "system-ui, sans-serif", size: 11, color: text },
    paper_bgcolor: back, plot_bgcolor: back,
    hoverlabel: { bgcolor: back, bordercolor: edge, font: { color: text } },
    xaxis: { ...titled(layout.xaxis), showgrid: false, zeroline: false }, yaxis: titled(layout.yaxis),
    legend: { orientation: "h", x: 0, y: 1.0, yanchor: "bottom" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: edge, activecolor: text },
    margin: { l: 50, r: 12, t: 34, b: 40 },
  };
};
const settings = {
  responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
};
// A line for each spike, s / D high; the file holds the trains alone, [neuron][step].
const spikes = ({ trains, neurons, levels, colours: [up, down] }) => [[1, up], [-1, down]].map(([sign, colour]) => {
  const trace = {
    type: "scatter", mode: "lines", name: "", x: [], y: [], customdata: [],
    line: { color: colour, width: trains[0]?.length > 64 ? 1.5 : 3 },
    hovertemplate: "neuron %{customdata[0]}, step %{x}<br>spike of %{customdata[1]}<extra></extra>",
  };
  trains.forEach((train, row) => train.forEach((value, step) => {
    if (sign * value <= 0) return;
    trace.x.push(step + 1, step + 1, null);
    trace.y.push(row + 0.4 - (0.8 * Math.abs(value)) / levels, row + 0.4, null);
    for (let end = 0; end < 3; end += 1) trace.customdata.push([neurons[row], value]);
  }));
  return trace;
}).filter((trace) => trace.x.length);
const drawn = new Map();
const draw = (figure) => {
  if (drawn.has(figure) || !figure.offsetWidth) return;
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const place = figure.appendChild(document.createElement("div"));
  place.style.height = "100%";
  drawn.set(figure, { place, layout: spec.layout });
  Plotly.newPlot(place, spec.raster ? spikes(spec.raster) : spec.data, themed(spec.layout), settings);
};
const watcher = new IntersectionObserver(
  (seen) => seen.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "400px" },
);
document.querySelectorAll(".chart").forEach((figure) => watcher.observe(figure));
addEventListener("beforeprint", () => document.querySelectorAll(".chart").forEach(draw));

const button = document.getElementById("theme");
const showTheme = () => {
  button.textContent = isDark() ? "light" : "dark";
  button.title = `switch to ${button.textContent} colours`;
  drawn.forEach(({ place, layout }) => Plotly.relayout(place, themed(layout)));
};
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  kept.set(root.dataset.theme);
  showTheme();
});
systemDark.addEventListener("change", showTheme);
showTheme();

// Tables: a click on a heading sorts by its column, up, down, and as it was.
const number = (text) => parseFloat(text.replace(/,/g, ""));
const compare = (numeric) => (a, b) => {
  if (!numeric) return a.localeCompare(b, "en", { numeric: true });
  const [left, right] = [number(a), number(b)].map((value) => (Number.isNaN(value) ? -Infinity : value));
  return left < right ? -1 : left > right ? 1 : 0;
};
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const before = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[heading.getAttribute("aria-sort")] ?? "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const order = compare(heading.classList.contains("number"));
      const text = (row) => row.cells[column].textContent;
      const rows = [...before];
      if (next) {
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => sign * order(text(a), text(b)));
      }
      body.append(...rows);
    });
  });
});

// A link to a layer opens it.
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();
