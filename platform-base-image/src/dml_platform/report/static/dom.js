// Elements. Texts become text nodes and never markup, so nothing that a document says can do anything.

const SVG = "http://www.w3.org/2000/svg";

function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "href") element.setAttribute("href", safeAddress(value));
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

// A document's addresses come from configuration: only what a browser opens without running it.
function safeAddress(address) {
  return /^(#|https?:\/\/|mailto:)/i.test(address) ? address : "#/";
}

const route = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");
const link = (text, address, attributes) => h("a", { href: address, ...attributes }, text);

function outside(text, address) {
  if (!/^https?:\/\//i.test(address || "")) return text;
  return h("a", { href: address, rel: "noreferrer", target: "_blank" }, text, h("span", { class: "unseen" }, " (another page)"));
}

function section(title, ...children) {
  const id = "part-" + title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

const note = (...children) => h("p", { class: "note" }, ...children);

// Rows for eyes and screen readers alike; narrow screens show each row as a card, so cells carry their column's name.
function grid(label, heads, rows, { more = 100 } = {}) {
  const body = h("tbody", { role: "rowgroup" });
  const table = h("table", { role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map((head) =>
      h("th", { scope: "col", role: "columnheader", class: head.class }, head.name || head)))), body);
  let shown = 0;
  const button = h("button", { type: "button", class: "more", onclick: () => {
    const first = shown;
    show(more * 5);
    body.children[first]?.querySelector("a,button")?.focus();
  } });
  function show(count) {
    for (const cells of rows.slice(shown, shown + count)) {
      body.append(h("tr", { role: "row" }, cells.map((cell, at) => h(at ? "td" : "th", {
        role: at ? "cell" : "rowheader", scope: at ? null : "row",
        class: heads[at].class, "data-label": heads[at].name || heads[at],
      }, cell))));
    }
    shown = Math.min(rows.length, shown + count);
    const left = rows.length - shown;
    button.textContent = `Show ${Math.min(left, more * 5)} more of ${number(rows.length)}`;
    button.hidden = !left;
  }
  show(more);
  return h("div", { class: "grid" }, table, button);
}

const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean).map(([term, ...what]) =>
  h("div", {}, h("dt", {}, term), h("dd", {}, ...what))));

function say(text) {
  const place = document.getElementById("said");
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

function copyButton(text, label) {
  const name = label || "Copy";
  const button = h("button", { type: "button", class: "quiet copy", "aria-label": `${name}: ${text.slice(0, 120)}`,
    onclick: async () => {
      const done = await copy(text);
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      say(done ? "Copied" : "The text is selected; press Ctrl+C");
      setTimeout(() => { button.textContent = name; }, 1500);
    } }, name);
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // A page from a file or plain http may not have the clipboard.
    const area = h("textarea", { readonly: true, class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const code = (text, label) => h("div", { class: "code" },
  h("pre", { tabindex: "0", role: "group", "aria-label": label || "Code" }, h("code", {}, text)), copyButton(text));

function saveButton(label, file, rows) {
  const csv = (value) => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  return h("button", { type: "button", class: "quiet", onclick: () => {
    const text = rows().map((row) => row.map((value) => csv(String(value ?? ""))).join(",")).join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    const anchor = document.createElement("a");
    anchor.href = address;
    anchor.download = file;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  } }, label);
}
