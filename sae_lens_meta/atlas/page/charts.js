// Drawn by uPlot. What a chart shows stands as text or in a table too.
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function bars(description, ticks, counts, axis) {
  const holder = node("div", { role: "img", "aria-label": description });
  const figure = node("figure", {}, holder, node("details", {}, node("summary", {}, "The same as a table"),
    table(description, [{ name: axis }, { name: "count", number: true }],
      counts.map((count, i) => [`${ticks(i)} to ${ticks(i + 1)}`, thousands(count)]))));
  drawn(holder, width => new uPlot({
    width, height: 200, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false, range: () => [0, counts.length] }, y: { range: (u, low, high) => [0, high * 1.05 || 1] } },
    axes: [
      { stroke: color("--quiet"), grid: { show: false }, values: (u, at) => at.map(i => Number.isInteger(i) ? ticks(i) : "") },
      { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, size: 60 },
    ],
    series: [{}, { fill: color("--part"), stroke: color("--part"), width: 0, points: { show: false },
      paths: uPlot.paths.bars({ size: [0.9, Infinity], align: 1 }) }],
  }, [counts.map((_, i) => i), counts], holder));
  return figure;
}

// a chart takes the width that its place has once it is on the page, and again when that changes
function drawn(holder, make) {
  let chart = null, width = 0;
  new ResizeObserver(() => {
    if (!holder.isConnected || holder.clientWidth === width) return;
    width = holder.clientWidth;
    if (chart) chart.destroy();
    chart = make(width);
  }).observe(holder);
}

const WHOLE = [-1.06, 1.06, -1.06, 1.06];

const N_WRITTEN = 60; // dots that may have their label beside them, the largest

function metaMap(view) {
  const { x, y, used, share } = core.metas;
  const places = [...core.metas.number.keys()];
  const most = Math.max(...used), ordered = [...share].sort((a, b) => a - b);
  // a few meta latents are all of a row or two, and would leave one colour for the rest
  const [low, high] = [0.05, 0.95].map(at => ordered[Math.round(at * (ordered.length - 1))]);
  const tip = node("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const holder = node("div", { class: "map", id: "map", tabindex: "0", role: "application",
    "aria-label": "Map of the meta latents. Arrow keys go from one to the next, Enter opens it." });
  const radius = i => 2 + 9 * Math.sqrt(used[i] / most);
  const shades = [0, 1, 2, 3, 4].map(step => color(`--map-${step}`));
  const shadeOf = i => shades[high > low ? Math.round(4 * Math.max(0, Math.min(1, (share[i] - low) / (high - low)))) : 2];
  const bySize = [...places].sort((a, b) => used[b] - used[a]);
  const inside = i => x[i] >= view[0] && x[i] <= view[1] && y[i] >= view[2] && y[i] <= view[3];
  let chart = null, chosen = null;

  const at = i => [chart.valToPos(x[i], "x"), chart.valToPos(y[i], "y")];

  function points(u, series) {
    uPlot.orient(u, series, (s, dx, dy, scaleX, scaleY, posX, posY, left, top, width, height) => {
      const ctx = u.ctx;
      ctx.save();
      ctx.lineWidth = uPlot.pxRatio;
      for (const i of places) {
        if (!inside(i)) continue;
        ctx.beginPath();
        ctx.arc(posX(x[i], scaleX, width, left), posY(y[i], scaleY, height, top), radius(i) * uPlot.pxRatio, 0, 2 * Math.PI);
        ctx.fillStyle = shadeOf(i);
        ctx.strokeStyle = i === chosen ? color("--chosen") : color("--map-edge");
        ctx.lineWidth = (i === chosen ? 4 : 1) * uPlot.pxRatio;
        ctx.fill();
        ctx.stroke();
      }
      write(ctx, i => [posX(x[i], scaleX, width, left), posY(y[i], scaleY, height, top)], left + width);
      ctx.restore();
    });
    return null;
  }

  // the first words of the labels of the largest dots, where there is room
  function write(ctx, at, right) {
    const taken = [], height = 15 * uPlot.pxRatio;
    ctx.font = `${12 * uPlot.pxRatio}px system-ui, sans-serif`;
    ctx.fillStyle = color("--text");
    ctx.textBaseline = "middle";
    for (const i of bySize.filter(inside).slice(0, N_WRITTEN)) {
      const text = seen(core.metas.label[core.metas.number[i]]).split(" ")[0];
      const [a, b] = at(i), from = a + (radius(i) + 3) * uPlot.pxRatio, to = from + ctx.measureText(text).width;
      const free = taken.every(([l, r, y]) => to < l || from > r || Math.abs(y - b) > height);
      if (!free || to > right) continue;
      taken.push([from, to, b]);
      ctx.fillText(text, from, b);
    }
  }

  function choose(i, said) {
    chosen = i;
    chart.redraw(false);
    tip.hidden = i === null;
    if (i === null) return;
    const number = core.metas.number[i];
    tip.textContent = `Meta latent ${number}: ${seen(core.metas.label[number])} (${thousands(used[i])} latents)`;
    const [left, top] = at(i);
    tip.style.left = `${Math.max(0, Math.min(left + 12, holder.clientWidth - 290))}px`;
    tip.style.top = `${top + 12}px`;
    if (said) document.getElementById("status").textContent = tip.textContent;
  }

  function nearest(left, top, within) {
    let best = null, distance = within;
    for (const i of places) {
      if (!inside(i)) continue;
      const [a, b] = at(i);
      const d = Math.hypot(a - left, b - top) - radius(i);
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  function towards(dx, dy) {
    if (chosen === null) return nearest(chart.over.clientWidth / 2, chart.over.clientHeight / 2, Infinity);
    const [a, b] = at(chosen);
    let best = chosen, cost = Infinity;
    for (const i of places) {
      if (i === chosen || !inside(i)) continue;
      const [c, d] = at(i);
      const along = (c - a) * dx + (d - b) * dy, across = Math.abs((c - a) * dy) + Math.abs((d - b) * dx);
      if (along > 0 && along + 2 * across < cost) [best, cost] = [i, along + 2 * across];
    }
    return best;
  }

  const open = i => { if (i !== null) location.hash = address("meta", core.metas.number[i]); };

  holder.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) choose(towards(...step), true);
    else if (event.key === "Enter") open(chosen);
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  });

  drawn(holder, width => {
    const height = Math.max(280, Math.min(width, 560));
    chart = new uPlot({
      mode: 2, width, height, legend: { show: false }, padding: [8, 8, 8, 8],
      cursor: { points: { show: false }, x: false, y: false, drag: { x: true, y: true, setScale: false } },
      scales: { x: { time: false, range: () => view.slice(0, 2) }, y: { range: () => view.slice(2) } },
      axes: [{ show: false }, { show: false }],
      series: [{}, { paths: points, facets: [{ scale: "x", auto: true }, { scale: "y", auto: true }] }],
      hooks: { setSelect: [u => {
        if (u.select.width < 8 || u.select.height < 8) return;
        const { left, top, width: w, height: h } = u.select;
        zoomTo([u.posToVal(left, "x"), u.posToVal(left + w, "x"), u.posToVal(top + h, "y"), u.posToVal(top, "y")]);
      }] },
    }, [null, [x, y]], holder);
    let from = null;
    chart.over.addEventListener("mousemove", event => choose(nearest(event.offsetX, event.offsetY, 8)));
    chart.over.addEventListener("mouseleave", () => choose(null));
    chart.over.addEventListener("mousedown", event => { from = [event.clientX, event.clientY]; });
    chart.over.addEventListener("click", event => {
      const moved = from && Math.hypot(event.clientX - from[0], event.clientY - from[1]);
      if (moved < 5) open(nearest(event.offsetX, event.offsetY, 12));
    });
    return chart;
  });

  function zoomed(factor) {
    const centre = chosen === null ? [(view[0] + view[1]) / 2, (view[2] + view[3]) / 2] : [x[chosen], y[chosen]];
    const half = [(view[1] - view[0]) * factor / 2, (view[3] - view[2]) * factor / 2];
    if (half[0] >= 1.05) return zoomTo(null);
    zoomTo([centre[0] - half[0], centre[0] + half[0], centre[1] - half[1], centre[1] + half[1]]);
  }
  const zoomTo = to => { location.hash = address("start", null, { view: to && to.map(v => v.toFixed(3)).join() }); };
  const button = (id, name, act, off) => {
    const made = node("button", { id, type: "button", disabled: off }, name);
    made.addEventListener("click", act);
    return made;
  };
  const isWhole = view === WHOLE;
  holder.append(tip);
  return node("figure", { class: "wide" }, holder, node("figcaption", {}, node("div", { class: "legend" },
    node("span", {}, "Each dot is a meta latent, near those of similar direction. Large: many latents are made of it. "),
    node("span", {}, "Its share of their rows is ", percent(low), " or less ",
      node("span", { class: "scale", role: "img", "aria-label": "to" }), " ", percent(high), " or more on average."),
    button("zoom-in", "Zoom in", () => zoomed(0.5)), button("zoom-out", "Zoom out", () => zoomed(2), isWhole),
    button("zoom-all", "Show all", () => zoomTo(null), isWhole))));
}
