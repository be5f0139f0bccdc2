// What a column is made from and what is made from it, as far as that is known.

const WAYS = {
  copy: "copied from", transform: "computed from", filter: "its rows chosen by",
  declared: "declared to come from", unknown: "from an unknown column of",
};

const isUnsure = (edge) => edge.via === "unknown";

// Without a column an edge is of the rows as such, e.g. count(*), unless which columns go in is unknown.
const wayWords = (edge) => (edge.sourceColumn === null && !isUnsure(edge) ? "computed from the rows of" : WAYS[edge.via]);

// All edges to the left and right of a column. Where the column is unknown the path ends: nothing is guessed beyond it.
function columnPath(table, column) {
  const edges = new Set();
  const walk = (map, side) => {
    const seen = new Set([columnKey(table, column)]);
    const open = [[table, column]];
    while (open.length) {
      const [from, name] = open.pop();
      for (const edge of map.get(columnKey(from, name)) || []) {
        edges.add(edge);
        const [next, nextColumn] = side === "up" ? [edge.source, edge.sourceColumn] : [edge.target, edge.targetColumn];
        if (nextColumn === null || seen.has(columnKey(next, nextColumn))) continue;
        seen.add(columnKey(next, nextColumn));
        open.push([next, nextColumn]);
      }
      // A table that is read without knowing which columns may hold this one.
      if (side === "down") (map.get(columnKey(from, null)) || []).filter(isUnsure).forEach((edge) => edges.add(edge));
    }
  };
  walk(D.columnUp, "up");
  walk(D.columnDown, "down");
  return [...edges];
}

// Which columns of which tables the edges touch: table → set of columns.
function touched(edges, table, column) {
  const found = new Map([[table, new Set([column])]]);
  const touch = (name, part) => {
    if (!found.has(name)) found.set(name, new Set());
    if (part !== null) found.get(name).add(part);
  };
  for (const edge of edges) {
    touch(edge.source, edge.sourceColumn);
    touch(edge.target, edge.targetColumn);
  }
  return found;
}

const hasColumnLineage = (name) => {
  const table = D.nodes.get(name);
  return Boolean(table) && columnNames(table).some((column) => D.columnUp.has(columnKey(name, column)) || D.columnDown.has(columnKey(name, column)));
};

// Described columns, then those that only lineage knows.
function columnNames(table) {
  const names = new Set(table.columns.map((column) => column.name));
  for (const edges of [...(lineageColumns().get(table.name) || [])]) names.add(edges);
  return [...names];
}

let knownColumns = null;
function lineageColumns() {
  if (knownColumns) return knownColumns;
  knownColumns = new Map();
  for (const map of [D.columnUp, D.columnDown]) {
    for (const key of map.keys()) {
      const [table, column] = key.split("\n");
      if (!column) continue;
      if (!knownColumns.has(table)) knownColumns.set(table, new Set());
      knownColumns.get(table).add(column);
    }
  }
  return knownColumns;
}

const columnLink = (table, column) => link(column, route("lineage", table, column));

// A column's neighbours in words; also what a screen reader gets instead of the drawing.
function columnWords(table, column) {
  const up = D.columnUp.get(columnKey(table, column)) || [];
  if (!up.length) return null;
  return h("ul", { class: "from" }, up.map((edge) => h("li", { class: isUnsure(edge) ? "unsure" : null }, `${wayWords(edge)} `,
    nodeLink(edge.source), edge.sourceColumn === null ? null : [" . ", columnLink(edge.source, edge.sourceColumn)])));
}

// The whole way up, one entry a column, nearest first.
function wayUp(table, column) {
  const seen = new Set();
  const rows = [];
  let open = [[table, column]];
  while (open.length) {
    const next = [];
    for (const [name, part] of open) {
      if (part === null || seen.has(columnKey(name, part))) continue;
      seen.add(columnKey(name, part));
      const words = columnWords(name, part);
      const isEnd = !words && (D.nodes.get(name)?.up.length || 0) > 0;
      rows.push(h("li", {}, h("b", {}, nodeLink(name), " . ", columnLink(name, part)),
        words || h("p", { class: isEnd ? "unsure" : "soft" }, isEnd ? "What it is made from could not be derived." : "The start: nothing in this report comes before it.")));
      for (const edge of D.columnUp.get(columnKey(name, part)) || []) next.push([edge.source, edge.sourceColumn]);
    }
    open = next;
  }
  return h("ol", { class: "way" }, rows);
}

function wayDown(table, column) {
  const edges = columnPath(table, column).filter((edge) => !isUpstream(edge, table, column));
  const found = new Map(edges.map((edge) => [columnKey(edge.target, edge.targetColumn), edge]));
  if (!found.size) return note("Nothing in this report is made from it.");
  return h("ul", { class: "from" }, [...found.values()].map((edge) => h("li", { class: isUnsure(edge) ? "unsure" : null },
    nodeLink(edge.target), " . ", columnLink(edge.target, edge.targetColumn),
    isUnsure(edge) ? ` may hold it: which columns of ${shortName(edge.source)} go in could not be derived` : "")));
}

function isUpstream(edge, table, column) {
  const ends = reachColumns(table, column);
  return ends.has(columnKey(edge.target, edge.targetColumn));
}

let lastReach = { key: null, found: null };
function reachColumns(table, column) {
  const key = columnKey(table, column);
  if (lastReach.key === key) return lastReach.found;
  const found = new Set([key]);
  const open = [key];
  while (open.length) {
    for (const edge of D.columnUp.get(open.pop()) || []) {
      const next = columnKey(edge.source, edge.sourceColumn);
      if (edge.sourceColumn !== null && !found.has(next)) {
        found.add(next);
        open.push(next);
      }
    }
  }
  lastReach = { key, found };
  return found;
}
