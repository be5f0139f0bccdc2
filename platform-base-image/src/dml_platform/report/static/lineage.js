// The lineage page: the whole project, one table with all before and after it, or one column's way.

function lineageView(table, column) {
  if (table && !D.nodes.has(table)) return missing("table", table);
  if (table && column) return columnView(table, column);
  return table ? tableView(table) : projectView();
}

const legend = () => h("p", { class: "legend" },
  ["raw", "staging", "intermediate", "mart", "consumer"].map((kind) => h("span", {}, h("i", { class: `swatch kind ${kind}` }), KINDS[kind])),
  h("span", {}, h("i", { class: "swatch dashed" }), "dashed: could not be derived"));

function finder(svg) {
  const box = searchBox({
    label: "Find a table or column in the lineage", kinds: ["table", "column", "consumer"],
    to: (entry) => (entry.kind === "column" ? route("lineage", entry.table, entry.column) : route("lineage", entry.name)),
    onfind: (found, text) => {
      const names = new Set(found.map((entry) => entry.table || entry.name));
      for (const part of svg.querySelectorAll(".box")) part.classList.toggle("dim", Boolean(text) && !names.has(part.dataset.name));
    },
  });
  box.classList.add("finder");
  return box;
}

function projectView() {
  const edges = [...D.nodes.values()].flatMap((part) => part.down.map((target) => [part.name, target]));
  const boxes = new Map([...D.nodes.keys()].map((name) => [name, { columns: [] }]));
  if (!boxes.size) return [h("h1", { tabindex: "-1" }, "Lineage"), note("The document names no tables.")];
  const drawn = drawGraph({ boxes, edges, label: `Lineage of ${plural(boxes.size, "table and consumer", "tables and consumers")}` });
  return [h("h1", { tabindex: "-1" }, "Lineage"),
    h("p", { class: "lead" }, "What is made from what, left to right. Choose a table to see all before and after it, then a column to follow it."),
    finder(drawn.svg), graphPane(drawn)];
}

function tableView(name) {
  const [up, down] = [reach(name, "up"), reach(name, "down")];
  const shown = new Set([name, ...up, ...down]);
  const columns = columnNames(D.nodes.get(name));
  const boxes = new Map([...shown].map((key) => [key, { columns: key === name ? columns : [] }]));
  const edges = [...shown].flatMap((key) => D.nodes.get(key).down.filter((target) => shown.has(target) && isOnOneSide(key, target, name, up, down))
    .map((target) => [key, target, { state: key === name || target === name ? "near" : "" }]));
  const drawn = drawGraph({ boxes, edges, focus: name, label: `Lineage of ${shortName(name)}: ${up.size} before it, ${down.size} after it` });
  const part = D.nodes.get(name);
  return [h("h1", { tabindex: "-1" }, "Lineage of ", wrapName(shortName(name))),
    h("p", { class: "lead" }, nodeLink(name, `Open the page of ${lastName(name)}`), " · ", link("whole project", "#/lineage"), ". ",
      columns.length ? "Choose one of its columns to follow it. " : "",
      hasColumnLineage(name) || part.kind === "consumer" ? "" : "From which columns its own are made is not known."),
    finder(drawn.svg), graphPane(drawn),
    h("div", { class: "two" }, section("Made from", nameList(part.up, "Nothing: it is where the data begins.")), section("Used by", nameList(part.down, "Nothing that this report knows of.")))];
}

// Between what is before and what is after a table there may be ways around it; they are another table's story.
const isOnOneSide = (source, target, name, up, down) => (up.has(source) && (target === name || up.has(target))) || ((source === name || down.has(source)) && down.has(target));

const nameList = (names, nothing) => (names.length ? h("ul", { class: "names" }, names.map((name) => h("li", {}, nodeLink(name), " ",
  h("span", { class: "soft" }, kindName(D.nodes.get(name)))))) : note(nothing));

function columnView(table, column) {
  const part = D.nodes.get(table);
  const title = h("h1", { tabindex: "-1" }, "Lineage of ", wrapName(`${lastName(table)} . ${column}`));
  if (!columnNames(part).includes(column)) return missing("column", `${table}.${column}`);
  const fine = columnPath(table, column);
  const parts = touched(fine, table, column);
  const boxes = new Map([...parts].map(([name, some]) => {
    const all = columnNames(D.nodes.get(name));
    const columns = all.filter((each) => some.has(each));
    return [name, { columns, chosen: name === table ? column : null, more: name === table ? all.length - columns.length : 0 }];
  }));
  const pairs = new Map(fine.map((edge) => [`${edge.source}\n${edge.target}`, [edge.source, edge.target, { state: "hidden" }]]));
  const drawn = drawGraph({ boxes, edges: [...pairs.values()], fine, focus: table, label: `Way of column ${column} of ${shortName(table)}; the same is below in words` });
  const described = part.columns.find((each) => each.name === column);
  const unsure = fine.filter(isUnsure);
  return [title,
    h("p", { class: "lead" }, described?.description || "", " ", nodeLink(table, `Open the page of ${lastName(table)}`), " · ", link("all columns", route("lineage", table)), " · ", link("whole project", "#/lineage")),
    unsure.length ? h("p", { class: "note unsure" }, badge("unknown", "Partly unknown"), ` ${plural(unsure.length, "step")} could not be derived and ${unsure.length === 1 ? "is" : "are"} drawn dashed: `,
      [...new Set(unsure.map((edge) => `${lastName(edge.source)} → ${lastName(edge.target)}`))].join(", "), ".") : null,
    finder(drawn.svg), graphPane(drawn),
    h("div", { class: "two" }, section("Where it comes from", wayUp(table, column)), section("What is made from it", wayDown(table, column)))];
}
