// The pictures of pairs by firing rate. A region that is marked in one is marked in all, and its pairs are listed.
const pairs = JSON.parse(document.getElementById("pairs-data").textContent);
const [N_ROWS, MAX_LISTED, MIN_PAIRS] = [pairs.n_rows, 100, 100];
const FRAME = { left: 46, right: 8, top: 8, bottom: 32 };
const DASHES = ["", "6 3", "6 3 1 3", "2 3"];
const used = pairs.maps.flatMap(map => map.counts.map((rows, c) => rows.some(n => n) ? c : -1)).filter(c => c >= 0);
const [FIRST, LAST] = [Math.min(...used), Math.max(...used)];  // columns, the most frequent first
const usedRows = pairs.maps.flatMap(map => map.counts.flatMap(rows => rows.map((n, r) => n ? r : -1))).filter(r => r >= 0);
const [LOWEST, HIGHEST] = [Math.min(...usedRows), Math.max(...usedRows)];
const rate = edge => 2 ** (-edge / 2);  // column c lies between the edges c and c + 1
const phi = edge => edge === 0 ? 0 : 10 ** (edge / 4 - 5);
const total = map => map.counts.flat().reduce((sum, n) => sum + n, 0);
const number = value => value === 0 ? "0" : value >= 0.001 ? String(Number(value.toPrecision(2))) : value.toExponential(0);
let region = null;  // { c0, c1, r0, r1 }, cells inclusive

function shape(tag, attributes, content) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content !== undefined) node.textContent = content;
  return node;
}

// rates grow to the right: column FIRST, the highest, is the last one
function frame(svg, height, ticks) {
  const box = { x: FRAME.left, y: FRAME.top, w: 360 - FRAME.left - FRAME.right, h: height - FRAME.top - FRAME.bottom };
  const x = edge => box.x + box.w * (LAST + 1 - edge) / (LAST + 1 - FIRST);
  svg.append(shape("rect", { class: "frame", x: box.x, y: box.y, width: box.w, height: box.h }));
  for (const tick of [1, 0.1, 0.01, 0.001, 1e-4]) {
    const at = x(-2 * Math.log2(tick));
    if (at < box.x - 1 || at > box.x + box.w + 1) continue;
    svg.append(shape("line", { class: "tick", x1: at, x2: at, y1: box.y, y2: box.y + box.h }));
    svg.append(shape("text", { x: at, y: box.y + box.h + 13, "text-anchor": "middle" }, number(tick)));
  }
  svg.append(shape("text", { x: box.x + box.w / 2, y: box.y + box.h + 27, "text-anchor": "middle" }, "firing rate"));
  for (const [at, content] of ticks(box)) {
    svg.append(shape("text", { x: box.x - 4, y: at + 4, "text-anchor": "end" }, content));
  }
  return { box, x };
}

function curve(id, valueOf, log) {
  const svg = document.getElementById(id);
  const values = pairs.maps.map(map => map.counts.map((rows, c) => valueOf(map, c)));
  const all = values.flat().filter(v => v > 0);
  const top = Math.max(...all), bottom = log ? Math.min(...all) : 0;
  const share = v => log ? Math.log(v / bottom) / Math.log(top / bottom) : v / top;
  const y = (box, v) => box.y + box.h * (1 - 0.9 * share(v));
  const { box, x } = frame(svg, 170, box => [bottom, top].map(v => [y(box, v), number(v)]));
  values.forEach((of, m) => {
    const points = of.map((v, c) => [x(c + 0.5), v, c]).filter(([, v, c]) => v > 0 && c >= FIRST && c <= LAST);
    const path = points.map(([at, v], i) => `${i ? "L" : "M"}${at.toFixed(1)} ${y(box, v).toFixed(1)}`).join("");
    const look = { style: `stroke: var(--series-${pairs.maps[m].series % 8})`, "stroke-dasharray": DASHES[m % DASHES.length] };
    svg.append(shape("path", { d: path, ...look }));
    const key = box.y + 12 + 14 * m;
    svg.append(shape("path", { d: `M${box.x + 6} ${key}h22`, ...look }));
    svg.append(shape("text", { x: box.x + 32, y: key + 4 }, pairs.maps[m].called));
  });
  const said = pairs.maps.map((map, m) => {
    const c = values[m].indexOf(Math.max(...values[m].filter(v => v > 0)));
    return `${map.called}: highest, ${number(values[m][c])}, at a rate of ${number(rate(c + 0.5))}`;
  });
  svg.setAttribute("aria-label", said.join("; "));
  const band = shape("rect", { class: "region", y: box.y, height: box.h, visibility: "hidden" });
  svg.append(band);
  return () => {
    band.setAttribute("visibility", region ? "visible" : "hidden");
    if (!region) return;
    band.setAttribute("x", x(region.c1 + 1));
    band.setAttribute("width", x(region.c0) - x(region.c1 + 1));
  };
}

function heat(map) {
  const figure = element("figure");
  const svg = shape("svg", { class: "map", viewBox: "0 0 360 260", role: "img" });
  const caption = element("figcaption", "", `${map.called} (${map.name}): pairs by firing rate and |phi|; the fuller, the darker.`);
  figure.append(svg, caption);
  document.getElementById("maps").append(figure);
  const n = HIGHEST + 1 - LOWEST;
  const y = (box, edge) => box.y + box.h * (HIGHEST + 1 - edge) / n;
  const edges = [...Array(N_ROWS / 4 + 1).keys()].map(i => 4 * i).filter(e => e > 0 && e >= LOWEST && e <= HIGHEST + 1);
  const { box, x } = frame(svg, 260, box => edges.map(e => [y(box, e), number(phi(e))]));
  svg.append(shape("text", { x: 4, y: box.y + 8 }, "|phi|"));
  const most = Math.log1p(Math.max(...map.counts.flat()));
  map.counts.forEach((rows, c) => rows.forEach((count, r) => {
    if (!count) return;
    svg.append(shape("rect", { x: x(c + 1), y: y(box, r + 1), width: x(c) - x(c + 1), height: box.h / n,
      style: `fill: var(--series-${map.series % 8})`, "fill-opacity": (0.12 + 0.88 * Math.log1p(count) / most).toFixed(3) }));
  }));
  const fullest = map.counts.flat().indexOf(Math.max(...map.counts.flat()));
  svg.setAttribute("aria-label", `${map.called}: ${total(map).toLocaleString("en")} pairs; most have |phi| about ` +
    `${number(phi(fullest % N_ROWS + 0.5))} at a firing rate of ${number(rate(Math.floor(fullest / N_ROWS) + 0.5))}`);
  const marked = shape("rect", { class: "region", visibility: "hidden" });
  svg.append(marked);

  const cell = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
    return {
      c: clamp(LAST - Math.floor((at.x - box.x) / box.w * (LAST + 1 - FIRST)), FIRST, LAST),
      r: clamp(HIGHEST - Math.floor((at.y - box.y) / box.h * n), LOWEST, HIGHEST),
    };
  };
  let from = null;
  svg.addEventListener("pointerdown", event => {
    from = cell(event);
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
    mark(from, from);
  });
  svg.addEventListener("pointermove", event => { if (from) mark(from, cell(event)); });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { from = null; });
  return () => {
    marked.setAttribute("visibility", region ? "visible" : "hidden");
    if (!region) return;
    marked.setAttribute("x", x(region.c1 + 1));
    marked.setAttribute("width", x(region.c0) - x(region.c1 + 1));
    marked.setAttribute("y", y(box, region.r1 + 1));
    marked.setAttribute("height", (region.r1 + 1 - region.r0) * box.h / n);
  };
}

function mark(a, b) {
  region = { c0: Math.min(a.c, b.c), c1: Math.max(a.c, b.c), r0: Math.min(a.r, b.r), r1: Math.max(a.r, b.r) };
  show();
}

// the bounds as selects, for those who do not point
function bound(name, label, first, last, content) {
  const select = element("select");
  select.id = `bound-${name}`;
  for (let cell = first; cell !== last; cell += first < last ? 1 : -1) {
    const option = element("option", "", content(cell));
    option.value = cell;
    select.append(option);
  }
  const holder = element("label", "", `${label} `);
  holder.append(select);
  document.getElementById("bounds").append(holder);
  select.addEventListener("change", () => {
    const [c1, c0, r0, r1] = ["c1", "c0", "r0", "r1"].map(n => Number(document.getElementById(`bound-${n}`).value));
    mark({ c: c0, r: r0 }, { c: c1, r: r1 });
  });
}

const inside = (column, row) => region && column >= region.c0 && column <= region.c1 && row >= region.r0 && row <= region.r1;

function row(cells) {
  const line = element("tr");
  cells.forEach((content, i) => {
    const cell = element(i ? "td" : "th");
    if (!i) cell.scope = "row";
    cell.append(content);
    line.append(cell);
  });
  return line;
}

function listed(map) {
  const { cell, a, b, phi, rate_a, rate_b } = map.kept;
  return cell.map((of, i) => ({ map, column: Math.floor(of / N_ROWS), row: of % N_ROWS,
                                a: a[i], b: b[i], phi: phi[i], rate_a: rate_a[i], rate_b: rate_b[i] }));
}

function show() {
  for (const redraw of pictures) redraw();
  const bounds = region || { c0: FIRST, c1: LAST, r0: LOWEST, r1: HIGHEST };
  for (const [name, cell] of Object.entries(bounds)) document.getElementById(`bound-${name}`).value = cell;
  document.querySelector("#region-counts tbody").replaceChildren(...pairs.maps.map(map => {
    let n = 0;
    map.counts.forEach((rows, c) => rows.forEach((count, r) => { if (inside(c, r)) n += count; }));
    const share = (100 * n / total(map)).toPrecision(3);
    return row([`${map.called} (${map.name})`, n.toLocaleString("en"), `${share} %`]);
  }));
  const found = pairs.maps.flatMap(listed).filter(pair => inside(pair.column, pair.row));
  found.sort((p, q) => Math.abs(q.phi) - Math.abs(p.phi));
  document.getElementById("region-said").textContent = region
    ? `Firing rates ${number(rate(region.c1 + 1))} to ${number(rate(region.c0))}, |phi| ${number(phi(region.r0))} to ` +
      `${number(phi(region.r1 + 1))}: ${found.length} pairs kept, ${Math.min(found.length, MAX_LISTED)} listed.`
    : "No region is marked.";
  document.querySelector("#pairs-list tbody").replaceChildren(...found.slice(0, MAX_LISTED).map(pair => row([
    pair.map.called,
    latentLink(pair.map.atlas, pair.a, pair.a),
    latentLink(pair.map.atlas, pair.b, pair.b),
    pair.phi.toPrecision(3),
    `${(100 * pair.rate_a).toPrecision(2)} %`,
    `${(100 * pair.rate_b).toPrecision(2)} %`,
  ])));
}

const pictures = [
  curve("share", (map, c) => map.counts[c].reduce((sum, n) => sum + n, 0) / total(map), false),
  // of a few pairs a mean says little
  curve("mean", (map, c) => map.counts[c].reduce((sum, n) => sum + n, 0) < MIN_PAIRS ? 0 : map.corrected[c], true),
  ...pairs.maps.map(heat),
];
bound("c1", "Firing rate from", LAST, FIRST - 1, c => number(rate(c + 1)));
bound("c0", "to", LAST, FIRST - 1, c => number(rate(c)));
bound("r0", "|phi| from", LOWEST, HIGHEST + 1, r => number(phi(r)));
bound("r1", "to", LOWEST, HIGHEST + 1, r => number(phi(r + 1)));
const clear = element("button", "", "Clear");
clear.type = "button";
clear.addEventListener("click", () => { region = null; show(); });
document.getElementById("bounds").append(clear);
show();
