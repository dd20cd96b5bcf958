"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const figures = [...document.querySelectorAll("figure.chart")], smooth = document.getElementById("smooth"), said = document.getElementById("said");
const said0 = said.textContent, units = 1000;
const figure3 = (v) => Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(3));
const share = (axis, log, v) => log ? (v > 0 ? Math.log(v / axis.low) / Math.log(axis.high / axis.low) : NaN) : (v - axis.low) / (axis.high - axis.low);

function draw(figure, chart) { // the same as drawing.py, for another axis or smoothing
  const log = Boolean(figure.querySelector(".log input:checked")), axis = log ? chart.log : chart.linear, keep = Number(smooth.value);
  const up = (v) => Math.round((1 - share(axis, log, v)) * units), across = (x) => Math.round(x / data.end * units);
  const path = (xs, ys, step) => xs.map((x, i) => [across(x), up(ys[i])]).filter((p) => isFinite(p[1])).map(step).join("");
  const polyline = (p, i) => (i ? "L" : "M") + p[0] + " " + p[1], dot = (p) => "M" + p[0] + " " + p[1] + "h0";
  const svg = figure.querySelector(".plot > svg"), [errors, dots] = ["error", "dots"].map((name) => [...svg.querySelectorAll("." + name)]);
  svg.querySelectorAll(".raw").forEach((raw) => raw.remove());
  [...svg.querySelectorAll(".line")].forEach((line, n) => {
    const { x, y, e, m, dots: few } = chart.lines[n], eases = keep > 0 && !few, [places, means] = eases && m ? m : [x, y];
    let mean = means[0];
    const hold = keep ** (500 / means.length), smoothed = eases ? means.map((v) => mean = hold * mean + (1 - hold) * v) : y;
    if (eases) {
      const raw = line.cloneNode();
      raw.setAttribute("class", line.getAttribute("class").replace("line", "raw"));
      raw.setAttribute("d", path(x, y, polyline));
      line.before(raw);
    }
    line.setAttribute("d", path(places, smoothed, polyline));
    if (few) dots.shift().setAttribute("d", path(x, y, dot));
    if (e) errors.shift().setAttribute("d", path([...x, ...[...x].reverse()], [...y.map((v, i) => v + e[i]), ...y.map((v, i) => v - e[i]).reverse()], polyline) + "Z");
  });
  const band = svg.querySelector(".band");
  if (band) {
    const [low, high] = [chart.band[0] ?? axis.low, chart.band[1] ?? axis.high].map((v) => Math.min(units, Math.max(0, isNaN(up(v)) ? units : up(v))));
    band.setAttribute("y", high);
    band.setAttribute("height", low - high);
  }
  figure.querySelector(".up").replaceChildren(...axis.ticks.map(([v, text]) => {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.bottom = 100 * share(axis, log, v) + "%";
    return tick;
  }));
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] > x) high = middle; else low = middle;
  }
  return x - xs[low] > xs[high] - x ? high : low;
}

function show(x) { // one position in all charts; null: the end
  figures.forEach((figure, n) => {
    const cross = figure.querySelector(".cross");
    cross.hidden = x === null;
    if (x !== null) cross.style.left = 100 * x / data.end + "%";
    figure.querySelectorAll(".legend b").forEach((value, i) => {
      const line = data.charts[n].lines[i];
      value.textContent = figure3(line.y[x === null ? line.y.length - 1 : nearest(line.x, x)]);
    });
  });
  const near = x === null ? [] : data.marks.filter((mark) => Math.abs(mark[0] - x) < data.end / 120);
  said.textContent = x === null ? said0 : [Math.round(x).toLocaleString("en") + " images", ...near.map((mark) => mark[1])].join(" · ");
}

figures.forEach((figure, n) => {
  const plot = figure.querySelector(".plot");
  figure.querySelector(".log input")?.addEventListener("change", () => draw(figure, data.charts[n]));
  plot.addEventListener("pointermove", (event) => {
    const place = plot.getBoundingClientRect();
    show(Math.min(1, Math.max(0, (event.clientX - place.left) / place.width)) * data.end);
  });
  plot.addEventListener("pointerleave", () => show(null));
});
smooth.addEventListener("input", () => figures.forEach((figure, n) => draw(figure, data.charts[n])));

document.querySelectorAll(".film").forEach((film) => {
  const grids = [...film.querySelectorAll("img")], range = film.querySelector("input"), button = film.querySelector("button");
  const turn = () => {
    grids.forEach((grid, n) => grid.hidden = n !== Number(range.value));
    film.querySelector("figcaption").textContent = grids[range.value].alt;
  };
  range.addEventListener("input", () => { turn(); show(Number(grids[range.value].dataset.images)); });
  let timer = 0;
  button.addEventListener("click", () => {
    clearInterval(timer);
    if (timer) { timer = 0; button.textContent = "play"; return; }
    button.textContent = "stop";
    timer = setInterval(() => { range.value = (Number(range.value) + 1) % grids.length; turn(); }, 250);
  });
});
document.documentElement.dataset.ready = figures.length;
