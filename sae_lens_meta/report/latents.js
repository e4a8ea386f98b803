// What the lists of the page share: elements whose text is never read as markup, and links into an atlas.
function element(tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.textContent = content;
  return node;
}

// `atlas` is null where none lies beside the report
function latentLink(atlas, latent, content) {
  if (!atlas) return element("span", "", content);
  const link = element("a", "", content);
  link.href = `${atlas}#/latent/${latent}`;
  return link;
}
