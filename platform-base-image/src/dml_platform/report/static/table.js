// One table: where its numbers come from first, then all that is known of it.

function tablePage(name) {
  const table = D.nodes.get(name);
  if (!table || table.kind === "consumer") return missing("table", name);
  if (table.kind === "other") return otherPage(table);
  const parts = [
    ["origin", "Where its numbers come from", () => origin(table)],
    ["columns", "Columns", () => columnsOf(table)],
    ["figures", "Key figures", () => tableFigures(table)],
    ["tests", "Tests", () => (table.tests.length ? testGrid(table.tests) : note("It has no tests."))],
    ["rows", "Row counts over time", () => rowsOf(table)],
    ["lineage", "Made from and used by", () => neighbours(table)],
    ["sql", "Compiled SQL", () => (table.sql ? lazyDetails(`Show the SQL${table.path ? ` of ${table.path}` : ""}`, () => code(table.sql, "Compiled SQL"), { open: table.sql.length < 1200 }) : null)],
    ["names", "Names", () => namesOf(table)],
  ].map(([id, title, make]) => ({ id, title, content: make() })).filter((part) => part.content);
  return [
    h("p", { class: "crumb" }, link("Tables", "#/tables"), " / ", kindName(table)),
    h("h1", { tabindex: "-1" }, wrapName(shortName(name)), " ", copyButton(name, "Copy name")),
    h("p", { class: "states" }, testState(table), " ", freshState(table), table.tags.map((tag) => h("span", { class: "tag" }, tag))),
    h("p", { class: "lead" }, table.description || "It has no description."),
    facts([
      ["Grain", table.grain || "not stated"],
      (table.unique_key || []).length && ["Key", h("code", {}, table.unique_key.join(", "))],
      ["Owner", ownerLink(table.owner)],
      table.snapshot !== null && ["Rows", number(table.row_count ?? null)],
      table.size_bytes !== undefined && ["Size", bytes(table.size_bytes)],
      ["Published", table.published_at ? [when(seconds(table.published_at)), " ", h("span", { class: "soft" }, ago(seconds(table.published_at)))] : ["staging", "intermediate"].includes(table.kind) ? "lives inside a run only" : "not published"],
    ]),
    h("p", { class: "jumps" }, h("span", { class: "soft" }, "On this page: "), parts.map((part) => link(part.title, route("table", name, part.id)))),
    parts.map((part) => {
      const made = section(part.title, part.content);
      made.dataset.part = part.id;
      made.querySelector("h2").tabIndex = -1;
      return made;
    }),
  ];
}

// A long name may break after its dots and underscores.
const wrapName = (name) => name.split(/(?<=[._])/).flatMap((part, at) => (at ? [h("wbr"), part] : [part]));

function otherPage(table) {
  return [h("h1", { tabindex: "-1" }, table.name), h("p", { class: "lead" }, "It is named by the lineage, but this report does not describe it: it may belong to another project."), neighbours(table)];
}

// The steps a person takes who doubts a number.
function origin(table) {
  const run = D.runById.get(table.run);
  const steps = [];
  const tests = table.tests.length ? [plural(table.tests.length, "test"), ", the worst: ", badge(worst(table.tests)), " ", link("see them", route("table", table.name, "tests"))] : ["Nothing tests it."];
  if (table.snapshot !== null) {
    steps.push(["Published", ["Snapshot ", h("code", {}, table.snapshot), ", ", when(seconds(table.published_at)), ", by run ", runLink(table.run), run ? [" ", badge(run.status)] : ""]]);
    steps.push(["Code", ["Commit ", commit(table.git_commit), table.git_commit && table.git_commit !== "unknown" ? [" ", copyButton(table.git_commit, "Copy commit")] : "", table.path ? [", file ", h("code", {}, table.path)] : ""]]);
  } else if (table.path) {
    steps.push(["Code", ["File ", h("code", {}, table.path), ", at commit ", commit(D.git_commit)]]);
  }
  steps.push(["Tested", tests]);
  steps.push(["Answered for by", [ownerLink(table.owner || D.owner), table.owner ? "" : D.owner ? " (the project's owner)" : ""]]);
  const pins = inputsOf(table, run);
  const read = [...pins.keys()].filter((name) => D.nodes.has(name));
  if (read.length) {
    steps.push([`Read by that run`, h("ul", { class: "names" }, read.map((name) => h("li", {}, nodeLink(name), " at snapshot ", h("code", {}, pins.get(name)))))]);
  }
  const sources = [table.name, ...reach(table.name, "up")].map((name) => D.nodes.get(name)).filter((part) => part.kind === "raw" || part.kind === "seed");
  const outsideLake = (part) => part.up.map((name) => D.nodes.get(name)).filter((each) => ["file", "stream"].includes(each.kind));
  steps.push(["Source rows", sources.length ? h("ul", { class: "sources" }, sources.map((part) => h("li", {},
    h("p", {}, nodeLink(part.name), outsideLake(part).length ? [" from ", outsideLake(part).map((each, at) => [at ? ", " : "", kindName(each), " ", nodeLink(each.name, lastName(each.name)), each.description ? ` (${each.description.replace(/\.$/, "")})` : ""])] : "",
      ", snapshot ", h("code", {}, pins.get(part.name) || part.snapshot || "unknown"), pins.has(part.name) ? " (as that run read it)" : part.snapshot ? " (the newest)" : "", part.run ? [", landed by run ", runLink(part.run)] : ""),
    code(sourceQuery(part, pins.get(part.name)), `Command that shows rows of ${shortName(part.name)}`)))) : table.kind === "file" || table.kind === "stream" ? "It is a source itself, outside the lake." : "No source table is known."]);
  if (table.kind === "mart" || table.snapshot !== null) steps.push(["Its own rows", code(sqlCommand(`from ${table.name} limit 20`), "Command that shows its rows")]);
  return h("dl", { class: "steps" }, steps.map(([name, what]) => h("div", {}, h("dt", {}, name), h("dd", {}, what))));
}

// Snapshots that the step which published the table read: only what is before the table counts.
function inputsOf(table, run) {
  const step = (run?.steps || []).find((each) => each.outputs.some((output) => output.name === table.name && output.snapshot === table.snapshot));
  const before = reach(table.name, "up");
  return new Map((step?.inputs || []).filter((input) => before.has(input.name)).map((input) => [input.name, input.snapshot]));
}

// Landed rows say when: those up to the snapshot are the rows that the run saw.
function sourceQuery(part, snapshot) {
  const state = part.history.find((each) => each.snapshot === snapshot);
  const isStamped = part.columns.some((column) => column.name === "_loaded_at");
  const isOlder = state && part.history[0]?.snapshot !== snapshot && state.at !== null;
  const until = isStamped && isOlder ? ` where _loaded_at <= '${new Date(state.at * 1000 + 999).toISOString()}'` : "";
  return sqlCommand(`from ${part.name}${until} limit 20`);
}

function columnsOf(table) {
  if (!table.columns.length) return note("Its columns are not described.");
  const hasProfile = table.columns.some((column) => profileText(column.profile));
  const follows = hasColumnLineage(table.name);
  const heads = ["Column", "Type", { name: "Description", class: "wide" }, hasProfile && "Profile", "Tests", "Made from"].filter(Boolean);
  return [grid(`Columns of ${table.name}`, heads, table.columns.map((column) => {
    const tests = table.columnTests.get(column.name) || [];
    const up = D.columnUp.get(columnKey(table.name, column.name)) || [];
    const from = up.length ? [columnWords(table.name, column.name), link("follow", route("lineage", table.name, column.name), { "aria-label": `follow ${column.name}` })]
      : follows ? link("follow", route("lineage", table.name, column.name), { "aria-label": `follow ${column.name}` }) : h("span", { class: "soft" }, "unknown");
    return [h("code", {}, wrapName(column.name)), column.type ? h("code", {}, wrapName(column.type)) : h("span", { class: "soft" }, "unknown"),
      [column.description || h("span", { class: "soft" }, "none"), (column.tags || []).map((tag) => h("span", { class: "tag" }, tag))],
      hasProfile && (profileText(column.profile) || h("span", { class: "soft" }, "none")),
      tests.length ? tests.map((test, at) => [at ? h("br") : "", link(testKind(test), route("test", test.id), { class: "plain" }), " ", test.status === "pass" ? "" : badge(test.status)]) : h("span", { class: "soft" }, "none"), from]
      .filter((cell) => cell !== false);
  })),
  h("p", { class: "tools" }, copyButton(table.columns.map((column) => column.name).join("\n"), "Copy column names"),
    saveButton("Save as CSV", `${table.name.replaceAll(/[^\w.-]/g, "_")}-columns.csv`, () => [["column", "type", "description"], ...table.columns.map((column) => [column.name, column.type, column.description])]))];
}

// "not_null_fct_orders_order_id" is "not_null" beside the column.
const testKind = (test) => (test.name.includes(`_${lastName(test.table || "")}`) ? test.name.split(`_${lastName(test.table)}`)[0] : test.name);

function tableFigures(table) {
  const own = D.figures.filter((figure) => figure.table === table.name);
  return own.length ? h("div", { class: "charts" }, own.map((figure) => figureChart(figure.points, figure))) : null;
}

function rowsOf(table) {
  const history = table.history;
  if (!history.length) return null;
  const points = history.filter((point) => point.rows !== null).map((point) => [time(point.at).slice(0, 16), point.rows]).reverse();
  const cut = table.history_total > history.length ? ` The newest ${history.length} of ${table.history_total} are shown.` : "";
  return [points.length > 1 ? figureChart(points, { title: `Rows of ${shortName(table.name)}`, unit: "rows", width: room() }) : null,
    lazyDetails(`${plural(history.length, "published state")}, newest first.${cut}`, () => grid("Published states", ["Published", { name: "Rows", class: "number" }, "Snapshot", "Run", "Commit"], history.map((point) => [
      when(point.at), number(point.rows), h("code", {}, point.snapshot), runLink(point.run), commit(point.commit),
    ]), { more: 20 }), { open: points.length < 2 })];
}

function neighbours(table) {
  return [h("div", { class: "two" },
    h("div", {}, h("h3", {}, "Made from"), nameList(table.up, "Nothing: it is where the data begins.")),
    h("div", {}, h("h3", {}, "Used by"), nameList(table.down, "Nothing that this report knows of."))),
  h("p", {}, link("See it drawn, with columns", route("lineage", table.name)))];
}

function namesOf(table) {
  const key = table.name.split(".").join("/");
  const asset = D.dagster_url ? outside(key, `${D.dagster_url.replace(/\/$/, "")}/assets/${key.split("/").map(encodeURIComponent).join("/")}`) : h("code", {}, key);
  return facts([
    ["Table", [h("code", {}, wrapName(table.name)), " ", copyButton(table.name)]],
    isInLake(table) && ["Dagster asset", [asset, " ", copyButton(key)]],
    table.path && ["Defined in", [h("code", {}, wrapName(table.path)), " ", copyButton(table.path)]],
    ["This page", [h("code", {}, wrapName(route("table", table.name).replaceAll("%3A", ":"))), " ", copyButton(location.href.split("#")[0] + route("table", table.name), "Copy link")]],
  ]);
}
