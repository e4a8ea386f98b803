// Every state has an address: #/, #/latent/12, #/meta/3, #/search?q=Paris, each with ?values=1 and the like.
const KEPT = ["values"]; // options that go along from state to state

function address(kind, number = null, options = {}) {
  const wanted = new URLSearchParams();
  for (const name of KEPT) if (current && current.options[name]) wanted.set(name, current.options[name]);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined) wanted.delete(name);
    else wanted.set(name, value);
  }
  const path = kind === "start" ? "" : number === null ? kind : `${kind}/${number}`;
  return `#/${path}${wanted.size ? `?${wanted}` : ""}`;
}

function parsed(hash) {
  if (!hash.startsWith("#/")) return { kind: "start", number: null, options: {} };
  const [path, options] = hash.slice(2).split("?");
  const [kind, number] = path.split("/");
  return { kind: kind || "start", number: number === undefined ? null : Number(number),
    options: Object.fromEntries(new URLSearchParams(options || "")) };
}

const VIEWS = { start: startView, latent: latentView, meta: metaView, search: searchView };
let current = null, turnNumber = 0;

async function show() {
  if (current && location.hash && !location.hash.startsWith("#/")) return; // a place on the page
  const before = current, mine = ++turnNumber, main = document.getElementById("content");
  current = parsed(location.hash);
  const view = Object.hasOwn(VIEWS, current.kind) ? VIEWS[current.kind] : async () => missing("There is nothing at this address.");
  main.setAttribute("aria-busy", "true");
  const made = (await view(current)).flat(Infinity).filter(Boolean);
  if (mine !== turnNumber) return; // another address was opened meanwhile
  const focused = document.activeElement && document.activeElement.id, held = window.scrollY;
  main.replaceChildren(...made);
  main.removeAttribute("aria-busy");
  const title = main.querySelector("h1").textContent;
  document.title = current.kind === "start" ? `${core.name}: atlas` : `${title} \u2013 ${core.name}`;
  settle(before, focused, held);
}

// where the eye and the keyboard are after a change of state
function settle(before, focused, held) {
  const same = before && before.kind === current.kind && before.number === current.number;
  if (same && before.kind !== "search") {
    window.scrollTo(0, held);
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
  } else if (before) {
    const was = history.state && history.state.scroll;
    window.scrollTo(0, was || 0);
    document.querySelector("main h1").focus({ preventScroll: true });
  }
}

async function open() {
  core = await block("core");
  await show();
  history.scrollRestoration = "manual";
  window.addEventListener("hashchange", show);
  window.addEventListener("scrollend", () => history.replaceState({ scroll: window.scrollY }, ""));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

document.getElementById("search-form").addEventListener("submit", event => {
  event.preventDefault();
  location.hash = address("search", null, { q: document.getElementById("search").value });
});
document.addEventListener("keydown", event => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  document.getElementById("search").focus();
});
open();
