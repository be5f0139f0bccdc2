// The runs over time, and one run with its steps, what it read and what it published.

function runsView() {
  if (!D.runs.length) return [h("h1", { tabindex: "-1" }, "Runs"), note("No run was recorded yet. dml run makes one.")];
  const cut = D.runs_total > D.runs.length ? note(`The newest ${D.runs.length} of ${D.runs_total} runs are here.`) : null;
  return [h("h1", { tabindex: "-1" }, "Runs"), section("Over time", runChart(D.runs)),
    section("Every run", grid("Runs", ["Run", "State", "Started", { name: "Took", class: "number" }, "Commit", { name: "What failed", class: "wide" }], D.runs.map((run) => [
      runLink(run.run_id), badge(run.status), when(run.at), span(run.duration_s), commit(run.git_commit), clip(firstError(run), 180),
    ]), { more: 50 }), cut)];
}

const firstError = (run) => {
  const step = run.steps.find((each) => each.error);
  return step ? `${step.name}: ${step.error.split("\n")[0]}` : "";
};

function runPage(id) {
  const run = D.runById.get(id);
  if (!run) return missing("run", id);
  const failing = D.tests.flatMap((test) => test.results.filter((result) => result.run === id && RANK[result.status] >= RANK.warn).slice(0, 1).map((result) => ({ test, result })));
  return [h("p", { class: "crumb" }, link("Runs", "#/runs")),
    h("h1", { tabindex: "-1" }, "Run ", wrapName(id)),
    h("p", { class: "states" }, badge(run.status)),
    facts([
      ["Started", [when(run.at), " ", h("span", { class: "soft" }, ago(run.at))]],
      ["Took", span(run.duration_s)],
      ["Commit", [commit(run.git_commit), run.git_commit === "unknown" ? "" : [" ", copyButton(run.git_commit, "Copy commit")]]],
      run.image && ["Image", h("code", { class: "break" }, run.image)],
      run.url && ["In Dagster", outside("open the run", run.url)],
      ["Again", [h("code", {}, `dml reproduce ${id}`), " ", copyButton(`dml reproduce ${id}`)]],
    ]),
    failing.length ? section("Tests that did not pass", grid("Tests that did not pass", ["Test", "State", "Table", { name: "Message", class: "wide" }], failing.map(({ test, result }) => [
      testLink(test), badge(result.status), test.table ? nodeLink(test.table) : "the project", result.message || (result.failures ? plural(result.failures, "failing row") : ""),
    ]))) : null,
    section("Steps", run.steps.length ? run.steps.map(stepPart) : note("No step was recorded."), run.is_short ? note("What an older run read and published is left out here; the run record has it.") : null),
    run.dvc && Object.keys(run.dvc).length ? section("Versioned files", grid("Versioned files", ["File", "Hash"], Object.entries(run.dvc).map(([path, hash]) => [h("code", {}, path), h("code", { class: "break" }, hash)]))) : null];
}

function stepPart(step) {
  const inputs = step.inputs.length ? lazyDetails(`Read ${plural(step.inputs.length, "table")}`, () => pinGrid("Tables read", step.inputs)) : null;
  const outputs = step.outputs.length ? lazyDetails(`Published ${plural(step.outputs.length, "table")}`, () => pinGrid("Tables published", step.outputs, step.rows), { open: step.outputs.length < 12 }) : null;
  return h("div", { class: "step" }, h("h3", {}, step.name, " ", badge(step.status)), h("p", { class: "soft" }, `${time(seconds(step.started_at))}, took ${span(step.duration_s)}`),
    step.error ? h("pre", { class: "error", tabindex: "0", role: "group", "aria-label": `Error of ${step.name}` }, step.error) : null, inputs, outputs);
}

const pinGrid = (label, pins, rows) => grid(label, ["Table", "Snapshot", rows && { name: "Rows", class: "number" }].filter(Boolean), pins.map((pin) => [
  nodeLink(pin.name), h("code", {}, pin.snapshot), rows && number(rows.get(pin.name) ?? null)].filter((cell) => cell !== undefined && cell !== false)));
