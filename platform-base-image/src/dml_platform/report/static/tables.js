// All tables, and all tables by their age.

function tablesView() {
  const heads = ["Table", "Kind", "Tests", "Freshness", { name: "Rows", class: "number" }, "Owner", { name: "Description", class: "wide" }];
  const kinds = [...new Set(D.tables.map((table) => table.kind))];
  const tags = [...new Set(D.tables.flatMap((table) => table.tags))].sort();
  return [h("h1", { tabindex: "-1" }, "Tables"),
    filtered({
      list: D.tables, what: "table",
      text: (table) => `${table.name} ${table.description} ${table.tags.join(" ")} ${ownerName(table.owner)}`,
      choices: [
        { name: "Kind", options: kinds.map((kind) => [kind, KINDS[kind]]), test: (table, kind) => table.kind === kind },
        { name: "Tag", options: tags.map((tag) => [tag, tag]), test: (table, tag) => table.tags.includes(tag) },
      ],
      draw: (tables) => [grid("Tables", heads, tables.map((table) => [
        nodeLink(table.name), kindName(table), testState(table), freshState(table), number(table.row_count ?? null), ownerLink(table.owner), clip(table.description, 160),
      ])), h("p", { class: "tools" }, copyButton(tables.map((table) => table.name).join("\n"), "Copy their names"),
        saveButton("Save as CSV", `${D.project}-tables.csv`, () => [["table", "kind", "rows", "owner", "description"], ...tables.map((table) => [table.name, table.kind, table.row_count, ownerName(table.owner), table.description])]))],
    })];
}

const testState = (table) => (table.tests.length ? badge(worst(table.tests), `${WORDS[worst(table.tests)]} (${table.tests.length})`) : h("span", { class: "soft" }, "no tests"));

function freshState(table) {
  const found = freshness(table);
  if (found.limit === null) return h("span", { class: "soft" }, "no limit");
  return badge(found.state, found.age === null ? "unknown age" : `${WORDS[found.state]}: ${span(found.age * 3600)} of ${span(found.limit * 3600)}`);
}

function freshnessView() {
  const order = { late: 0, unknown: 1, fresh: 2, "no limit": 3 };
  const rows = D.tables.map((table) => ({ table, ...freshness(table) }))
    .sort((a, b) => order[a.state] - order[b.state] || (b.age / b.limit || 0) - (a.age / a.limit || 0));
  const limited = rows.filter((row) => row.limit !== null);
  const free = rows.filter((row) => row.limit === null && row.table.published_at);
  return [h("h1", { tabindex: "-1" }, "Freshness"),
    h("p", { class: "lead" }, `How old the newest data of each table was when this report was written, ${time(D.now)}, against the age that its owners allow.`),
    section("Tables with a limit", limited.length ? grid("Freshness", ["Table", "State", "Age and limit", "Newest data", "Owner"], limited.map((row) => [
      nodeLink(row.table.name), badge(row.state), [ageBar(row), ` ${row.age === null ? "unknown" : span(row.age * 3600)} of ${span(row.limit * 3600)}`], when(row.at), ownerLink(row.table.owner || D.owner),
    ])) : note("No table has a limit. In dbt it is a source's freshness.")),
    free.length ? section("Published tables without a limit", grid("Tables without a limit", ["Table", "Published", "Newest data"], free.map((row) => [
      nodeLink(row.table.name), [when(seconds(row.table.published_at)), " ", h("span", { class: "soft" }, ago(seconds(row.table.published_at)))], row.at === null ? "not measured" : when(row.at),
    ]))) : null];
}

// A list with a text filter and choices; the count is announced.
function filtered({ list, what, text, choices, draw, chosen = {} }) {
  const texts = list.map((item) => text(item).toLowerCase());
  const place = h("div", {});
  const count = h("p", { class: "soft", role: "status" });
  const input = h("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false", oninput: () => update() });
  const selects = choices.filter((choice) => choice.options.length > 1).map((choice) => ({
    choice, select: h("select", { id: `choice-${choice.name}`, onchange: () => update() }, h("option", { value: "" }, "all"), choice.options.map(([value, name]) => h("option", { value }, name))),
  }));
  for (const { choice, select } of selects) if (chosen[choice.name]) select.value = chosen[choice.name];
  function update() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = list.filter((item, at) => words.every((word) => texts[at].includes(word)) && selects.every(({ choice, select }) => !select.value || choice.test(item, select.value)));
    count.textContent = found.length === list.length ? plural(list.length, what) : `${number(found.length)} of ${plural(list.length, what)}`;
    place.replaceChildren(...(found.length ? [draw(found)].flat() : [note(list.length ? `No ${what} is like that.` : `The project has no ${what}s.`)]));
  }
  update();
  return h("div", {}, list.length ? h("div", { class: "filters" }, h("label", { for: "filter" }, "Filter ", input),
    selects.map(({ choice, select }) => h("label", { for: select.id }, `${choice.name} `, select))) : null, count, place);
}
