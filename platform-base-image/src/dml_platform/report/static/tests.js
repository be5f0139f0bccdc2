// All tests with their history, and one test with its query.

const TEST_KINDS = { data: "data test", unit: "unit test", check: "asset check", freshness: "freshness", anomaly: "anomaly" };

function testsView(query) {
  const chosen = { State: query.get("state") || "" };
  return [h("h1", { tabindex: "-1" }, "Tests"),
    filtered({
      list: [...D.tests].sort((a, b) => RANK[b.status] - RANK[a.status]), what: "test", chosen,
      text: (test) => `${test.name} ${test.table || ""} ${test.column || ""} ${test.description || ""}`,
      choices: [
        { name: "State", options: [["attention", "warning, failed or error"], ...["pass", "warn", "fail", "error", "skipped", "none"].map((state) => [state, WORDS[state]])],
          test: (test, state) => (state === "attention" ? RANK[test.status] >= RANK.warn : test.status === state) },
        { name: "Kind", options: [...new Set(D.tests.map((test) => test.kind))].map((kind) => [kind, TEST_KINDS[kind]]), test: (test, kind) => test.kind === kind },
      ],
      draw: (tests) => testGrid(tests),
    })];
}

function testGrid(tests) {
  const hasTable = new Set(tests.map((test) => test.table)).size > 1;
  const heads = [{ name: "Test", class: "wide" }, "State", hasTable && "Table", "Last results", { name: "Last message", class: "wide" }].filter(Boolean);
  return grid("Tests", heads, tests.map((test) => [
    [testLink(test), test.severity === "warn" ? h("span", { class: "tag" }, "warns only") : ""], badge(test.status),
    hasTable && (test.table ? [nodeLink(test.table), test.column ? ` . ${test.column}` : ""] : "the project"),
    spark(test.results), lastMessage(test)].filter((cell) => cell !== false)), { more: 60 });
}

function lastMessage(test) {
  const told = test.results.find((result) => result.message || result.failures);
  if (!told) return test.last ? h("span", { class: "soft" }, "never failed here") : h("span", { class: "soft" }, "has not run");
  const text = told.message || plural(told.failures, "failing row");
  return told === test.last ? clip(text, 200) : [h("span", { class: "soft" }, `${time(told.at).slice(0, 10)}: `), clip(text, 160)];
}

function testPage(id) {
  const test = D.testById.get(id);
  if (!test) return missing("test", id);
  const cut = test.results_total > test.results.length ? ` The newest ${test.results.length} of ${test.results_total} are here.` : "";
  return [h("p", { class: "crumb" }, link("Tests", "#/tests"), " / ", TEST_KINDS[test.kind]),
    h("h1", { tabindex: "-1" }, wrapName(test.name || test.id)),
    h("p", { class: "states" }, badge(test.status), " ", spark(test.results)),
    test.description ? h("p", { class: "lead" }, test.description) : null,
    facts([
      ["Table", test.table ? nodeLink(test.table) : "the project"],
      test.column && ["Column", test.table ? columnLink(test.table, test.column) : test.column],
      ["When it fails", test.severity === "error" ? "nothing of the run is published" : "it warns; the run publishes"],
      ["Owner", ownerLink(D.nodes.get(test.table)?.owner || D.owner)],
      test.last && ["Last result", [badge(test.status), " ", when(test.last.at), ", run ", runLink(test.last.run)]],
      test.last?.message && ["It said", test.last.message],
      ["Id", [h("code", { class: "break" }, test.id), " ", copyButton(test.id)]],
    ]),
    test.sql ? section(test.kind === "unit" ? "Its query" : "The failing rows", test.kind === "unit" ? null : h("p", { class: "soft" }, "This query gives the rows that fail, inside the run that made the table."), code(test.sql, "Query")) : null,
    section("History", test.results.length ? grid("Results", ["When", "Result", { name: "Failing rows", class: "number" }, "Took", "Run", { name: "Message", class: "wide" }], test.results.map((result) => [
      when(result.at), badge(result.status), result.failures === undefined ? (result.status === "pass" ? "0" : "") : number(result.failures), result.duration_s === undefined ? "" : span(result.duration_s), runLink(result.run), result.message || "",
    ]), { more: 40 }) : note("It has not run yet."), cut ? note(cut.trim()) : null)];
}
