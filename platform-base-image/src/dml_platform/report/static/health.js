// The first page: is all well, and if not, what is not.

function healthView() {
  const last = D.runs[0];
  const bad = D.tests.filter((test) => RANK[test.status] >= RANK.warn).sort((a, b) => RANK[b.status] - RANK[a.status]);
  const late = D.tables.filter((table) => freshness(table).state === "late");
  const unsure = D.tables.filter((table) => freshness(table).state === "unknown");
  return [
    h("h1", { tabindex: "-1" }, `Health of ${D.project}`),
    h("p", { class: "lead" }, D.description || "", D.owner ? [D.description ? " " : "", "Owner: ", ownerLink(D.owner), "."] : ""),
    oldPage(),
    h("ul", { class: "tiles" },
      tile("Last run", last ? badge(last.status) : badge("none", "no run yet"), last ? [runLink(last.run_id), h("br"), ago(last.at) || "time unknown"] : "Nothing was recorded.", last ? route("run", last.run_id) : "#/runs"),
      testTile(bad),
      tile("Freshness", late.length ? badge("late", plural(late.length, "late table")) : badge(D.tables.some((table) => freshness(table).state === "fresh") ? "fresh" : "none", D.tables.some((table) => freshness(table).state === "fresh") ? "nothing late" : "nothing measured"),
        `${plural(D.tables.filter((table) => freshness(table).limit !== null).length, "table")} with a limit${unsure.length ? `, ${unsure.length} of unknown age` : ""}`, "#/freshness"),
      tile("Not known", D.notices.length ? badge("unknown", plural(D.notices.length, "notice")) : badge("pass", "nothing missing"), D.notices.length ? "What this report could not find out" : "Every part had its say.", "#part-what-is-not-known")),
    bad.length || late.length ? section("Needs a look", problems(bad, late)) : null,
    D.notices.length ? section("What is not known", h("ul", { class: "notices" }, D.notices.map((notice) => h("li", {}, icon("unknown"), h("span", {}, notice))))) : null,
    figuresOf(D.figures),
    section("Runs over time", D.runs.length ? runChart(D.runs) : note("No run was recorded yet. dml run makes one."), D.runs.length ? h("p", {}, link(`All ${plural(D.runs.length, "run")}`, "#/runs")) : null),
    section("What there is", inventory()),
  ];
}

function oldPage() {
  const age = D.now === null ? 0 : Date.now() / 1000 - D.now;
  return age > 86400 ? note(badge("late", "Old page"), ` It was written ${span(age)} ago, at ${time(D.now)}, and says what was true then.`) : null;
}

const tile = (name, state, text, address) => h("li", {}, h("h2", {}, link(name, address)), h("p", { class: "state" }, state), h("p", { class: "soft" }, text));

function testTile(bad) {
  const count = (states) => D.tests.filter((test) => states.includes(test.status)).length;
  const [failed, warned, silent] = [count(["fail", "error"]), count(["warn"]), count(["none", "skipped"])];
  const state = failed ? badge("fail", plural(failed, "failing test")) : warned ? badge("warn", plural(warned, "warning")) : silent ? badge("none", `${number(silent)} without a result`) : D.tests.length ? badge("pass", "none failing") : badge("none", "no tests");
  const also = [failed && warned ? plural(warned, "warning") : null, `${number(count(["pass"]))} of ${plural(D.tests.length, "test")} passed`, silent && (failed || warned) ? `${number(silent)} without a result` : null];
  return tile("Tests", state, also.filter(Boolean).join(", "), bad.length ? "#/tests?state=attention" : "#/tests");
}

function problems(bad, late) {
  const rows = [
    ...bad.map((test) => [testLink(test), badge(test.status), test.table ? [nodeLink(test.table), test.column ? ` . ${test.column}` : ""] : "the project", ownerLink(D.nodes.get(test.table)?.owner || D.owner),
      test.last.message || (test.last.failures ? plural(test.last.failures, "failing row") : "")]),
    ...late.map((table) => {
      const { age, limit } = freshness(table);
      return [nodeLink(table.name), badge("late"), nodeLink(table.name), ownerLink(table.owner || D.owner), `newest data is ${span(age * 3600)} old, limit ${span(limit * 3600)}`];
    }),
  ];
  return grid("What needs a look", ["What", "State", "Table", "Owner", { name: "Why", class: "wide" }], rows, { more: 25 });
}

function figuresOf(figures) {
  if (!figures.length) return null;
  return section("Key figures", h("div", { class: "charts" }, figures.slice(0, 12).map((figure) => h("div", {},
    figureChart(figure.points, figure), h("p", { class: "doubt" }, "From ", nodeLink(figure.table), D.nodes.has(figure.table) ? [" · ", link("where this number comes from", route("table", figure.table, "origin"))] : "")))),
  figures.length > 12 ? note(`${figures.length - 12} more are on the pages of their tables.`) : null);
}

function inventory() {
  const kinds = new Map();
  for (const table of D.tables) kinds.set(table.kind, (kinds.get(table.kind) || 0) + 1);
  return facts([
    ["Tables", D.tables.length ? [link(number(D.tables.length), "#/tables"), ": ", [...kinds].map(([kind, count]) => plural(count, KINDS[kind])).join(", ")] : "none"],
    ["Tests", D.tests.length ? link(number(D.tests.length), "#/tests") : "none"],
    ["Consumers", D.consumers.length ? link(number(D.consumers.length), "#/pipelines") : "none"],
    ["Column lineage", `${plural((D.column_edges || []).length, "edge")}, ${number((D.column_edges || []).filter((edge) => D.ways[edge[4]] === "unknown").length)} unknown`],
    ["Commit", commit(D.git_commit)],
    D.image && ["Image", h("code", {}, D.image)],
    ["Written", when(D.now)],
    D.dagster_url && ["Dagster", outside(D.dagster_url, D.dagster_url)],
  ]);
}
