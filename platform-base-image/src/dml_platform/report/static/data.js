// The document, read back from its short form (`encode.py` is the other half), with every part knowing its neighbours.

const STATUS = { p: "pass", w: "warn", f: "fail", e: "error", s: "skipped" };
const RANK = { none: 0, skipped: 1, pass: 2, warn: 3, fail: 4, error: 5 };
const BAD = new Set(["fail", "error"]);

const D = readDocument(JSON.parse(document.getElementById("document").textContent));

function readDocument(page) {
  const list = (name) => page[name] || [];
  const d = { ...page, notices: list("notices"), pipelines: list("pipelines"), consumers: list("consumers"), figures: list("figures").map(readFigure).filter((figure) => figure.points.length) };
  d.now = seconds(page.generated_at);
  d.nodes = new Map();
  d.tables = list("tables").map((table) => readTable(table, page));
  d.tables.forEach((table) => d.nodes.set(table.name, table));
  for (const consumer of d.consumers) d.nodes.set(consumer.name, node({ ...consumer, type: consumer.kind, kind: "consumer" }));
  // An edge may name a table that is not described here, e.g. another project's.
  list("names").filter((name) => !d.nodes.has(name)).forEach((name) => d.nodes.set(name, node({ name, kind: "other" })));
  readEdges(d, page);
  readTests(d, page);
  d.runs = list("runs").map((run) => readRun(run, page));
  d.runById = new Map(d.runs.map((run) => [run.run_id, run]));
  return d;
}

// A value that is no number cannot be drawn.
function readFigure(figure) {
  return { title: "", unit: "", ...figure, points: (figure.points || []).filter(([, value]) => Number.isFinite(value)) };
}

function node(part) {
  return { description: "", tags: [], columns: [], tests: [], up: [], down: [], columnTests: new Map(), ...part };
}

function readTable(table, page) {
  const found = node(table);
  found.snapshot = table.snapshot === undefined ? null : page.snapshots[table.snapshot];
  found.run = table.run === undefined ? null : page.run_ids[table.run];
  found.history = (table.history || []).map(([snapshot, at, rows, run, commit]) => ({
    snapshot: page.snapshots[snapshot], at, rows, run: run < 0 ? null : page.run_ids[run],
    commit: commit === 0 ? table.git_commit : commit,
  }));
  return found;
}

function readEdges(d, page) {
  const named = page.names || [];
  const joined = new Set();
  const join = (source, target) => {
    if (source === target || joined.has(`${source}\n${target}`)) return;
    joined.add(`${source}\n${target}`);
    d.nodes.get(source).down.push(target);
    d.nodes.get(target).up.push(source);
  };
  for (const [source, target] of page.table_edges || []) join(named[source], named[target]);
  for (const consumer of d.consumers) {
    for (const source of consumer.depends_on || []) {
      if (!d.nodes.has(source)) d.nodes.set(source, node({ name: source, kind: "other" }));
      join(source, consumer.name);
    }
  }
  d.columnUp = new Map();
  d.columnDown = new Map();
  for (const [source, column, target, to, way] of page.column_edges || []) {
    const edge = {
      source: named[source], sourceColumn: column < 0 ? null : page.column_names[column],
      target: named[target], targetColumn: page.column_names[to], via: page.ways[way],
    };
    join(edge.source, edge.target);
    add(d.columnUp, columnKey(edge.target, edge.targetColumn), edge);
    add(d.columnDown, columnKey(edge.source, edge.sourceColumn), edge);
  }
}

function readTests(d, page) {
  d.tests = (page.tests || []).map((test) => {
    const results = [...(test.statuses || "")].map((letter, at) => ({
      status: STATUS[letter], run: page.run_ids[page.series[test.in][at]],
      at: at ? page.run_times[page.series[test.in][at]] ?? null : test.at, ...(test.more[at] || {}),
    }));
    return { severity: "error", ...test, results, last: results[0] || null, status: results[0]?.status || "none" };
  });
  d.testById = new Map(d.tests.map((test) => [test.id, test]));
  for (const test of d.tests) {
    const table = d.nodes.get(test.table);
    if (!table) continue;
    table.tests.push(test);
    if (test.column) add(table.columnTests, test.column, test);
  }
}

function readRun(run, page) {
  const pin = ([name, snapshot]) => ({ name: page.names[name], snapshot: page.snapshots[snapshot] });
  const steps = (run.steps || []).map((step) => ({
    ...step, inputs: (step.inputs || []).map(pin), outputs: (step.outputs || []).map(pin),
    rows: new Map((step.rows || []).map(([name, rows]) => [page.names[name], rows])),
  }));
  return { git_commit: "unknown", ...run, steps, at: seconds(run.started_at) };
}

function add(map, key, value) {
  if (map.has(key)) map.get(key).push(value);
  else map.set(key, [value]);
}

function columnKey(table, column) {
  return `${table}\n${column ?? ""}`;
}

function seconds(text) {
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : at / 1000;
}

// pass < warn < fail < error; a table without a result has "none".
const worst = (tests) => tests.reduce((found, test) => (RANK[test.status] > RANK[found] ? test.status : found), "none");

// How old the newest data is, in hours at the time of the report, and whether that is over the table's limit.
function freshness(table) {
  const at = table.fresh_as_of ? seconds(table.fresh_as_of) : null;
  const limit = table.max_age_hours ?? null;
  const age = at === null || D.now === null ? null : Math.max(0, (D.now - at) / 3600);
  const state = limit === null ? "no limit" : age === null ? "unknown" : age > limit ? "late" : "fresh";
  return { at, age, limit, state };
}

// Everything that is made from a node, or that it is made from; the node itself is not in it.
function reach(name, side) {
  const found = new Set();
  const open = [name];
  while (open.length) {
    for (const next of D.nodes.get(open.pop())?.[side] || []) {
      if (next !== name && !found.has(next)) {
        found.add(next);
        open.push(next);
      }
    }
  }
  return found;
}
