// One index over everything that has a name, and the box that asks it.

const ORDER = ["table", "consumer", "column", "test", "owner", "run"];
const SHOWN = 12;
let entries = null;

function searchIndex() {
  if (entries) return entries;
  entries = [];
  const put = (kind, name, hint, address, more) => entries.push({ kind, name, hint, address, text: `${name} ${hint}`.toLowerCase(), lower: name.toLowerCase(), last: (kind === "table" ? lastName(name) : name).toLowerCase(), ...more });
  for (const table of D.tables) put("table", table.name, `${kindName(table)} ${table.tags.join(" ")}`, route("table", table.name));
  for (const consumer of D.consumers) put("consumer", consumer.name, `${consumer.label || ""} ${consumer.kind}`.trim(), route("consumer", consumer.name));
  for (const test of D.tests) put("test", test.name || test.id, test.table ? shortName(test.table) : "", route("test", test.id));
  for (const run of D.runs) put("run", run.run_id, `${WORDS[run.status]} ${time(run.at)}`, route("run", run.run_id));
  for (const name of ownersOf().keys()) if (name) put("owner", name, "", route("owner", name));
  for (const table of D.tables) {
    for (const column of columnNames(table)) put("column", column, shortName(table.name), route("lineage", table.name, column), { table: table.name, column });
  }
  return entries;
}

// Every word must occur; names that begin with what was typed come first, tables before columns.
function find(text, kinds) {
  const words = text.toLowerCase().split(/[\s/]+/).filter(Boolean);
  if (!words.length) return [];
  const ranked = [];
  for (const entry of searchIndex()) {
    if (kinds && !kinds.includes(entry.kind) || !words.every((word) => entry.text.includes(word))) continue;
    const fit = entry.last === words[0] ? 0 : entry.last.startsWith(words[0]) ? 1 : entry.lower.includes(words[0]) ? 2 : 3;
    (ranked[fit * ORDER.length + ORDER.indexOf(entry.kind)] ||= []).push(entry);
  }
  // Short names first, among those that are shown.
  let before = 0;
  for (const rank of ranked) {
    if (rank && before < SHOWN) rank.sort((a, b) => a.name.length - b.name.length);
    before += rank?.length || 0;
  }
  return ranked.flat();
}

let boxes = 0;

// A combobox as the ARIA practices describe it: the focus stays in the field, arrows walk the list.
function searchBox({ label, kinds = null, to = (entry) => entry.address, onfind = null, id = `find-${(boxes += 1)}` }) {
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": "Found", hidden: true });
  const input = h("input", { id, type: "search", role: "combobox", "aria-expanded": "false", "aria-controls": list.id, "aria-autocomplete": "list",
    "aria-label": label, placeholder: label, autocomplete: "off", spellcheck: "false" });
  let shown = [];
  let active = -1;
  const close = () => { list.hidden = true; active = -1; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const go = (entry) => { close(); input.value = ""; onfind?.([], ""); location.hash = to(entry).slice(1); };
  const update = () => {
    const found = find(input.value, kinds);
    onfind?.(found, input.value.trim());
    shown = found.slice(0, SHOWN);
    active = -1;
    list.replaceChildren(...shown.map((entry, at) => h("li", { id: `${id}-${at}`, role: "option", "aria-selected": "false",
      onpointerdown: (event) => event.preventDefault(), onclick: () => go(entry) },
    h("b", {}, entry.kind === "table" ? shortName(entry.name) : entry.name), " ", h("span", { class: "soft" }, `${entry.kind}${entry.hint ? ` · ${entry.hint}` : ""}`))));
    if (found.length > shown.length) list.append(h("li", { role: "presentation", class: "soft" }, `and ${number(found.length - shown.length)} more`));
    if (input.value.trim() && !found.length) list.append(h("li", { role: "presentation", class: "soft" }, "Nothing has that name."));
    list.hidden = !input.value.trim();
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
    if (input.value.trim()) say(plural(found.length, "result"));
  };
  const mark = (next) => {
    const options = list.querySelectorAll("[role=option]");
    options[active]?.setAttribute("aria-selected", "false");
    active = (next + options.length) % options.length;
    options[active].setAttribute("aria-selected", "true");
    options[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", options[active].id);
  };
  input.addEventListener("input", update);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && shown.length) mark(active + 1);
    else if (event.key === "ArrowUp" && shown.length) mark(active < 0 ? shown.length - 1 : active - 1);
    else if (event.key === "Enter" && shown.length) go(shown[Math.max(0, active)]);
    else if (event.key === "Escape" && !list.hidden) close();
    else return;
    event.preventDefault();
  });
  input.addEventListener("focus", () => { if (input.value.trim()) update(); });
  input.addEventListener("blur", close);
  return h("div", { class: "find" }, input, list);
}
