// Run in the page by test_accessibility.py; gives a list of sentences, one a fault.
() => {
  const faults = [];
  const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".unseen");
  const all = (selector) => [...document.querySelectorAll(selector)].filter(visible);
  const told = (element) => `<${element.tagName.toLowerCase()}> ${(element.outerHTML || "").slice(0, 90)}`;

  // Names: every control says what it is.
  for (const control of all("a, button, input, select, summary, [role=img], svg[role], [role=region], table")) {
    const name = control.getAttribute("aria-label") || control.textContent.trim()
      || document.getElementById(control.getAttribute("aria-labelledby"))?.textContent || control.labels?.[0]?.textContent || "";
    if (!name.trim()) faults.push(`no name: ${told(control)}`);
  }
  // Headings: one of level 1, first, and no level left out.
  const levels = all("h1, h2, h3, h4").map((heading) => Number(heading.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1 || levels[0] !== 1) faults.push(`headings ${levels}`);
  levels.forEach((level, at) => { if (at && level > levels[at - 1] + 1) faults.push(`heading level ${levels[at - 1]} is followed by ${level}`); });
  // Ids are unique, references lead somewhere.
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  ids.filter((id, at) => ids.indexOf(id) !== at).forEach((id) => faults.push(`id ${id} twice`));
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-controls], label[for]")) {
    const id = element.getAttribute("aria-labelledby") || element.getAttribute("aria-controls") || element.htmlFor;
    if (!document.getElementById(id)) faults.push(`nothing has the id ${id}`);
  }
  // Landmarks, language, what scrolls is reached by keys.
  for (const landmark of ["header", "nav", "main", "footer"]) if (all(landmark).length !== 1) faults.push(`${landmark}: ${all(landmark).length}`);
  if (!document.documentElement.lang) faults.push("no language");
  for (const element of all("main *")) {
    const style = getComputedStyle(element);
    const scrolls = (element.scrollWidth > element.clientWidth + 1 && /auto|scroll/.test(style.overflowX)) || (element.scrollHeight > element.clientHeight + 1 && /auto|scroll/.test(style.overflowY));
    if (scrolls && element.tabIndex < 0 && element.clientWidth) faults.push(`scrolls without keys: ${told(element)}`);
  }
  // Targets are at least 24 pixels high, unless they stand in a line of text.
  for (const control of all("button, select, input, nav a")) {
    if (control.getBoundingClientRect().height < 23.5) faults.push(`too small: ${told(control)}`);
  }

  // Contrast: 4.5, or 3 for large letters, against what is painted behind.
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * channel(red / 255) + 0.7152 * channel(green / 255) + 0.0722 * channel(blue / 255);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const ground = rgba(getComputedStyle(at).backgroundColor);
      if (ground[3] > 250) return ground;
      if (at.classList.contains("box")) return rgba(getComputedStyle(at.querySelector(".head")).fill);
    }
    return rgba(getComputedStyle(document.body).backgroundColor);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (seen.has(element) || !walker.currentNode.data.trim() || /^(SCRIPT|NOSCRIPT|OPTION|title)$/.test(element.tagName) || !visible(element)) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const text = rgba(element.namespaceURI.includes("svg") ? style.fill : style.color);
    const [one, two] = [light(text), light(behind(element))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const size = parseFloat(style.fontSize);
    const enough = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (contrast < enough) faults.push(`contrast ${contrast.toFixed(2)}: ${told(element)}`);
  }
  return [...new Set(faults)];
}
