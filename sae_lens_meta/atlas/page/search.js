// Search by number, by word, by explanation, and by label where no text was read.
const plain = text => text.toLowerCase().trim();

function wordsLike(words, wanted) {
  const found = [];
  words.forEach(([text], i) => {
    const word = plain(text);
    if (!word.includes(wanted)) return;
    found.push([word === wanted ? 0 : word.startsWith(wanted) ? 1 : 2, i]);
  });
  // exact ones first, then the more frequent: that is the order they stand in
  return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, i]) => words[i]);
}

function byNumber(query) {
  const given = /^(?:(meta|latent)?\s*(?:latent)?\s*#?\s*)(\d+)$/i.exec(query);
  if (!given) return null;
  const number = Number(given[2]), rows = [];
  if ((given[1] || "").toLowerCase() !== "meta" && number < core.n_latents) rows.push(node("li", {}, named("latent", number)));
  if ((given[1] || "").toLowerCase() !== "latent" && number < core.n_metas) rows.push(node("li", {}, named("meta", number)));
  return rows.length ? section("By number", node("ul", { class: "plain" }, rows)) : null;
}

async function byWord(wanted, shown) {
  if (!core.n_words) return [];
  const found = wordsLike(await block("words"), wanted);
  return found.slice(0, shown).map(([text, count, latents]) => section(`Latents that fire on \u201c${seen(text)}\u201d`,
    latents.length ? table(`It stands ${thousands(count)} times in the text; most its own first, by phi`,
      [{ name: "latent" }, { name: "fires on", number: true }],
      latents.map(([latent, together]) => [named("latent", latent), `${thousands(together)} of ${thousands(count)}`]))
      : node("p", {}, "None does.")));
}

async function byExplanation(wanted) {
  if (!core.explained.length) return null;
  const found = (await block("explanations")).filter(([, text]) => text !== null && plain(text).includes(wanted));
  return found.length ? section("By explanation", node("ul", { class: "plain" },
    found.slice(0, 100).map(([latent, text]) => node("li", {}, link("latent", latent), ` \u201c${text}\u201d`)))) : null;
}

function byLabel(wanted, kind, shown) {
  const labels = (kind === "latent" ? core.latents : core.metas).label, found = [];
  labels.forEach((label, number) => { if (plain(label).includes(wanted)) found.push(number); });
  if (!found.length) return null;
  return section(kind === "latent" ? "Latents by label" : "Meta latents by label", node("ul", { class: "plain" },
    found.slice(0, shown).map(number => node("li", {}, named(kind, number)))),
    found.length > shown ? node("p", { class: "quiet" }, `${thousands(shown)} of ${thousands(found.length)}`) : null);
}

async function searchView(state) {
  const query = state.options.q || "", wanted = plain(query), shown = Number(state.options.n) || 4;
  document.getElementById("search").value = query;
  const title = node("h1", { tabindex: "-1" }, `Search for \u201c${query}\u201d`);
  if (!wanted) return [title, node("p", {}, "Give a word, a number or a part of an explanation.")];
  const parts = [byNumber(query.trim()), ...await byWord(wanted, shown), await byExplanation(wanted),
    byLabel(wanted, "meta", PAGE), core.n_words ? null : byLabel(wanted, "latent", PAGE)].filter(Boolean);
  document.getElementById("status").textContent = parts.length ? `${parts.length} lists found` : "Nothing found";
  if (!parts.length) return [title, node("p", {}, core.n_words ? "Nothing here: no word of the text, number, label or explanation is like it."
    : "Nothing here. This atlas was made without text, and has no words to search; it has numbers and labels.")];
  return [title, core.words_left_out ? node("p", { class: "quiet" }, core.words_left_out) : null, node("div", { class: "columns" }, parts)];
}
