// One function for each kind of state; each gives what stands in the page's main part.
const PAGE = 50;

function more(count, shown, state) {
  if (count <= shown) return null;
  return node("p", {}, node("a", { id: "more", href: address(state.kind, state.number, { ...state.options, n: shown + PAGE }) },
    `Show more of ${thousands(count)}`));
}

const SORTS = {
  use: { name: "latents made of it", of: i => core.metas.used[i] },
  share: { name: "share of them", of: i => core.metas.share[i] },
  stability: { name: "comes back", of: i => core.metas.stability ? core.metas.stability[i] : 0 },
};

function metaTable(state) {
  const { number, used, share, stability } = core.metas;
  const sort = state.options.sort in SORTS ? state.options.sort : "use";
  const order = [...number.keys()].sort((a, b) => SORTS[sort].of(b) - SORTS[sort].of(a));
  const shown = Number(state.options.n) || PAGE;
  const heads = [{ name: "meta latent" }, { name: SORTS.use.name, number: true }, { name: SORTS.share.name, number: true }];
  if (stability) heads.push({ name: SORTS.stability.name, number: true });
  const row = i => [named("meta", number[i]), thousands(used[i]), percent(share[i]),
    ...(stability ? [stability[i] === null ? "no partner" : stability[i].toFixed(2)] : [])];
  const keys = Object.keys(SORTS).filter(key => key !== "stability" || stability);
  return section("Meta latents", node("p", {}, "Sorted by ", keys.map((key, i) => [i ? ", " : "", key === sort
      ? node("strong", {}, SORTS[key].name)
      : node("a", { id: `sort-${key}`, href: address("start", null, { ...state.options, sort: key }) }, SORTS[key].name)])
      .flat(), "."),
    table("Meta latents that latents are made of", heads, order.slice(0, shown).map(row)),
    more(order.length, shown, state));
}

async function startView(state) {
  const given = (state.options.view || "").split(",").map(Number);
  const view = given.length === 4 && given.every(Number.isFinite) && given[0] < given[1] && given[2] < given[3] ? given : WHOLE;
  const rest = core.rest;
  return [
    node("h1", { tabindex: "-1" }, `What ${core.name} is made of`),
    node("p", { class: "lead" }, core.lead),
    core.notes.map(note => node("p", { class: "note" }, note)),
    core.metas.number.length ? metaMap(view) : null,
    node("div", { class: "columns" }, metaTable(state),
      node("div", {}, section("Decoder rows by what is left unexplained",
        bars("Latents by the share of their decoder row that no part explains", i => percent(rest.edges[i], 0), rest.counts, "unexplained")),
        section("Made with", node("dl", {}, core.facts.map(([name, value]) => [node("dt", {}, name), node("dd", {}, value)]))))),
  ];
}

// after an arrow stand tokens that are promoted, in the place of words that are fired on
function labelLine(label) {
  const said = label.startsWith("\u2192") ? "The tokens that it promotes: " : "The words that are most its own: ";
  return label ? node("p", { class: "lead" }, node("span", { class: "quiet" }, said), node("span", { class: "label" }, seen(label.replace("\u2192 ", "")))) : null;
}

function turn(kind, number, count) {
  return node("nav", { class: "turn", "aria-label": "Neighbours by number" },
    number > 0 ? node("a", { rel: "prev", href: address(kind, number - 1) }, `\u2190 ${number - 1}`) : null,
    number + 1 < count ? node("a", { rel: "next", href: address(kind, number + 1) }, `${number + 1} \u2192`) : null);
}

function partsTable(entry) {
  const largest = Math.max(...entry.parts.map(([, share]) => Math.abs(share)), Math.abs(entry.rest), 0.01);
  const rows = entry.parts.map(([meta, share]) => [named("meta", meta), [percent(share), bar(share, largest)]]);
  rows.push(["What every row gets", [percent(entry.constant), bar(entry.constant, largest, "rest")]]);
  rows.push(["Not explained", [percent(entry.rest), bar(entry.rest, largest, "rest")]]);
  return section("Parts", table("Shares of its decoder row; a striped bar points away from the row",
    [{ name: "part" }, { name: "share", number: true }], rows, ["Together", "100\u202f%"]));
}

function firing(number, entry) {
  const fired = core.latents.fired[number];
  const says = fired === 0 ? `It fires on none of the ${thousands(core.n_tokens)} tokens read.`
    : `Fires on ${thousands(fired)} of ${thousands(core.n_tokens)} tokens (${percent(fired / core.n_tokens, 3)}).`;
  return node("p", {}, says);
}

function valuesSwitch(state) {
  const box = node("input", { type: "checkbox", id: "values", checked: state.options.values === "1" });
  box.addEventListener("change", () => {
    location.hash = address(state.kind, state.number, { ...state.options, values: box.checked ? "1" : null });
  });
  return node("p", {}, node("label", {}, box, " Show each token's activation as a number"));
}

function contextSections(entry, state, vocabulary) {
  if (!entry.top || !entry.top.length) return [];
  const withValues = state.options.values === "1";
  const parts = [section("Strongest contexts", node("p", { class: "quiet" }, "One of each passage, its peak underlined; the darker a token, the stronger."),
    valuesSwitch(state), contexts(entry.top, vocabulary, withValues))];
  if (entry.sample.length) {
    parts.push(section("Drawn from all others", node("p", { class: "quiet" },
      "One of each fifth of the other contexts it fires in, by strength."), contexts(entry.sample, vocabulary, withValues)));
  }
  return [node("div", { class: "wide" }, parts)];
}

function histogram(entry) {
  if (!entry.hist) return null;
  const [first, counts] = entry.hist;
  const edge = i => significant(10 ** core.log_edges[first + i], 2);
  return section("How strongly it fires", bars("Tokens by activation", edge, counts, "activation"));
}

function wordTable(entry) {
  if (!entry.words || !entry.words.length) return null;
  return section("Words it fires on", table("Most its own first, by phi", [{ name: "word" }, { name: "fires on", number: true }, { name: "of", number: true }],
    entry.words.map(([word, together, count]) => [node("a", { class: "word", href: address("search", null, { q: word }) }, seen(word)),
      thousands(together), thousands(count)])));
}

function explanation(found) {
  if (!found) return null;
  return section("A judge's explanation", node("p", {}, found.text === null ? "It gave none that could be read." : `\u201c${found.text}\u201d`),
    table(`Scores by ${core.judge}, with what chance gives`, [{ name: "score" }, { name: "value", number: true }, { name: "chance", number: true }],
      found.scores.map(([name, value, chance]) => [name, typeof value === "number" ? value.toFixed(2) : value, String(chance)])));
}

function latentList(title, caption, pairs, what, show) {
  if (!pairs || !pairs.length) return null;
  return section(title, table(caption, [{ name: "latent" }, { name: what, number: true }],
    pairs.map(([latent, value]) => [named("latent", latent), show(value)])));
}

async function siblings(number, entry) {
  const groups = [];
  for (const [meta, share] of entry.parts.filter(([, share]) => share > 0).slice(0, 4)) {
    const others = (await entryOf("metas", meta)).rows.filter(([latent, of]) => latent !== number && of > 0).slice(0, 6);
    if (others.length) groups.push(node("h3", {}, "Through ", named("meta", meta)), node("ul", { class: "plain" },
      others.map(([latent, of]) => node("li", { class: "pair" }, node("span", {}, named("latent", latent)), node("span", { class: "number" }, percent(of))))));
  }
  return groups.length ? section("Siblings that share a part", groups) : null;
}

const entryOf = (kind, number) => entry(kind, number);

function matchOf(entry, vocabulary, state) {
  if (!core.match) return null;
  const lines = [];
  if (entry.match) lines.push(node("p", {}, `Latent ${entry.match[0]} of ${core.match}, by cosine ${entry.match[1].toFixed(3)} of the decoder rows.`));
  else if (core.has_match) lines.push(node("p", {}, "None is left for it in the one-to-one matching."));
  for (const split of entry.splits || []) {
    lines.push(node("p", {}, split.text), contexts(split.contexts, vocabulary, state.options.values === "1"));
  }
  return lines.length ? section(`In ${core.match}`, lines) : null;
}

async function latentView(state) {
  const number = state.number;
  if (!(number >= 0 && number < core.n_latents)) return missing(`There is no latent ${number}: they are 0 to ${core.n_latents - 1}.`);
  const [found, vocabulary] = await Promise.all([entryOf("latents", number), block("vocabulary")]);
  return [
    node("h1", { tabindex: "-1" }, `Latent ${number}`),
    labelLine(core.latents.label[number]),
    turn("latent", number, core.n_latents),
    core.n_tokens ? firing(number, found) : null,
    node("div", { class: "columns" }, node("div", {}, partsTable(found)), node("div", {}, explanation(found.explained), wordTable(found)),
      contextSections(found, state, vocabulary), histogram(found),
      found.up ? section("Tokens it promotes and suppresses", promoted(found, vocabulary)) : null,
      await siblings(number, found),
      latentList("Nearest decoder rows", "By cosine", found.near, "cosine", value => value.toFixed(3)),
      latentList("Latents it fires with", "By phi over the tokens read", found.with, "phi", value => value.toFixed(3)),
      matchOf(found, vocabulary, state)),
  ];
}

async function metaView(state) {
  const number = state.number;
  if (!(number >= 0 && number < core.n_metas)) return missing(`There is no meta latent ${number}: they are 0 to ${core.n_metas - 1}.`);
  const [found, vocabulary] = await Promise.all([entryOf("metas", number), block("vocabulary")]);
  const shown = Number(state.options.n) || PAGE;
  const largest = Math.max(...found.rows.map(([, share]) => Math.abs(share)), 0.01);
  const explained = found.rows.filter(([latent]) => core.explained.includes(latent)).length;
  return [
    node("h1", { tabindex: "-1" }, `Meta latent ${number}`),
    labelLine(core.metas.label[number]),
    turn("meta", number, core.n_metas),
    node("p", {}, found.used ? `${thousands(found.used)} latents are made of it; it is ${percent(found.share)} of their rows on average.` : "No latent is made of it."),
    found.stability ? node("p", {}, found.stability) : null,
    explained ? node("p", {}, `A judge has explained ${explained} of these latents.`) : null,
    node("div", { class: "columns" },
      found.rows.length ? section("Latents made of it", table(
        found.used > found.rows.length ? `The ${thousands(found.rows.length)} of ${thousands(found.used)} of which it is the largest share` : "By its share of their row",
        [{ name: "latent" }, { name: "share", number: true }],
        found.rows.slice(0, shown).map(([latent, share]) => [named("latent", latent), [percent(share), bar(share, largest)]])),
        more(found.rows.length, shown, state)) : null,
      node("div", {},
        found.common ? section("What their contexts have in common", table("Words on which its latents fire more than others do, in shares of all words they fire on",
          [{ name: "word" }, { name: "its latents", number: true }, { name: "all latents", number: true }],
          found.common.map(([word, own, all]) => [node("a", { class: "word", href: address("search", null, { q: word }) }, seen(word)), percent(own), percent(all)]))) : null,
        found.up ? section("Tokens it promotes and suppresses", promoted(found, vocabulary)) : null,
        metaList("Occurs with", "Meta latents in the same decoder rows, by phi over rows", found.with, [["phi", v => v.toFixed(3)], ["rows of both", thousands]]),
        metaList("Near it", "By cosine of the directions", found.near, [["cosine", v => v.toFixed(3)]]))),
  ];
}

function metaList(title, caption, rows, columns) {
  if (!rows || !rows.length) return null;
  return section(title, table(caption, [{ name: "meta latent" }, ...columns.map(([name]) => ({ name, number: true }))],
    rows.map(([meta, ...values]) => [named("meta", meta), ...values.map((value, i) => columns[i][1](value))])));
}

function missing(text) {
  return [node("h1", { tabindex: "-1" }, "Not in this atlas"), node("p", {}, text)];
}
