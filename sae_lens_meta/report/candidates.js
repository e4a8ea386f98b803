const PAGE = 25;
const data = JSON.parse(document.getElementById("splitting").textContent);
const list = document.getElementById("candidates");
const text = token => data.vocabulary[token];
let shown = PAGE;

function context(peak) {
  const line = element("div", "context", peak.activation.toFixed(2) + "  ");
  peak.tokens.forEach((token, i) => {
    const span = element("span", i === peak.place ? "peak" : "", text(token));
    const strength = peak.activations[i] / peak.activation;
    if (strength > 0) span.style.background = `rgb(var(--heat) / ${0.7 * strength})`;
    line.append(span);
  });
  return line;
}

function latent(atlas, id, name, rest, contexts) {
  const title = element("div", "latent");
  title.append(latentLink(atlas, id, name), rest);
  return [title, ...contexts.peaks.map(context)];
}

function candidate(entry) {
  const { latent: id, fired, parts, parts_phi: between, score } = entry.candidate;
  const details = element("details", "candidate");
  const shares = parts.map(p => `${p.latent} (phi ${p.phi.toFixed(2)})`).join(", ");
  details.append(element("summary", "", `${data.baseline} ${id}, ${fired} tokens: ${data.group} ${shares}; between them ${between.toFixed(2)}; score ${score === null ? "not taken" : score.toFixed(2)}`));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;  // filled when it is first opened
    details.append(...latent(data.baseline_atlas, id, `${data.baseline} latent ${id}`, "", entry.contexts));
    parts.forEach((part, i) => details.append(...latent(
      data.group_atlas, part.latent, `${data.group} latent ${part.latent}`,
      `: phi ${part.phi.toFixed(3)}, fires on ${part.fired} tokens, ` +
      `covers ${(100 * part.covers).toFixed(0)} % of the ${data.baseline} latent's`,
      entry.part_contexts[i])));
  });
  return details;
}

const keys = {
  score: entry => -entry.candidate.score,
  fired: entry => -entry.candidate.fired,
  latent: entry => entry.candidate.latent,
};

function matches(entry, wanted) {
  return [entry.contexts, ...entry.part_contexts].some(contexts =>
    contexts.peaks.some(peak => peak.tokens.map(text).join("").toLowerCase().includes(wanted)));
}

function refresh() {
  const wanted = document.getElementById("search").value.toLowerCase();
  const key = keys[document.getElementById("sort").value];
  const found = data.candidates.filter(entry => !wanted || matches(entry, wanted));
  found.sort((a, b) => key(a) - key(b));
  list.replaceChildren(...found.slice(0, shown).map(candidate));
  document.getElementById("count").textContent =
    `${Math.min(shown, found.length)} of ${found.length}`;
  document.getElementById("more").hidden = shown >= found.length;
}

document.getElementById("search").addEventListener("input", () => { shown = PAGE; refresh(); });
document.getElementById("sort").addEventListener("change", refresh);
document.getElementById("more").addEventListener("click", () => { shown += PAGE; refresh(); });
refresh();
