// Every text goes in as text: nothing that comes from data is ever read as markup.
function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined));
  return made;
}

const thousands = number => number.toLocaleString("en");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u202f%`;
const seen = text => text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5").replace(/\r/g, "\u240d");
const significant = (value, digits = 3) => Number(value.toPrecision(digits)).toString();

function link(kind, number) {
  const name = kind === "latent" ? `Latent ${number}` : `Meta latent ${number}`;
  return node("a", { href: address(kind, number) }, name);
}

function named(kind, number) {
  const label = (kind === "latent" ? core.latents : core.metas).label[number];
  return [link(kind, number), " ", node("span", { class: "label" }, seen(label))];
}

function table(caption, heads, rows, foot = null) {
  const numeric = heads.map(head => head.number ? "number" : null);
  const row = (cells, first) => node("tr", {}, cells.map((cell, i) =>
    node(i === 0 ? "th" : "td", { class: numeric[i], scope: i === 0 ? first : null }, cell)));
  return node("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, node("table", {},
    node("caption", {}, caption),
    node("thead", {}, node("tr", {}, heads.map((head, i) =>
      node("th", { scope: "col", class: numeric[i] }, head.name)))),
    node("tbody", {}, rows.map(cells => row(cells, "row"))),
    foot ? node("tfoot", {}, row(foot, "row")) : null));
}

function section(title, ...children) {
  return node("section", {}, node("h2", {}, title), ...children);
}

function bar(share, largest, kind = "") {
  const width = `${Math.min(100, 100 * Math.abs(share) / largest)}%`;
  const made = node("span", { class: `bar ${kind || (share < 0 ? "against" : "")}`, "aria-hidden": "true" });
  made.style.width = width;
  return made;
}

function context([tokens, place, active], vocabulary, withValues) {
  const values = new Map();
  for (let i = 0; i < active.length; i += 2) values.set(active[i], active[i + 1]);
  const peak = values.get(place);
  const shown = tokens.map((token, i) => {
    const text = seen(vocabulary[token]), value = values.get(i);
    if (value === undefined) return text;
    const marked = node("mark", { class: i === place ? "peak" : null, title: significant(value) }, text);
    marked.style.setProperty("--strength", (0.15 + 0.85 * Math.min(1, Math.abs(value / peak))).toFixed(2));
    return withValues ? node("ruby", {}, marked, node("rt", {}, significant(value, 2))) : marked;
  });
  return node("li", {}, node("span", { class: "number quiet" }, significant(peak)),
    node("p", { class: "context" }, shown));
}

function contexts(found, vocabulary, withValues) {
  return node("ol", { class: "contexts" }, found.map(one => context(one, vocabulary, withValues)));
}

function promoted(entry, vocabulary) {
  const list = (title, pairs) => node("div", {}, node("h3", {}, title), node("ul", { class: "plain" },
    pairs.map(([token, by]) => node("li", { class: "pair" },
      node("span", { class: "word" }, seen(vocabulary[token]) || "(empty)"),
      node("span", { class: "number" }, by.toFixed(1))))));
  return [node("div", { class: "columns" }, list("Promoted", entry.up), list("Suppressed", entry.down)),
    node("p", { class: "quiet" }, "What the direction adds to the logits past all later layers, in standard " +
      "deviations over the vocabulary.")];
}
