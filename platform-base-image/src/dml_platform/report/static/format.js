// How times, amounts and states are said.

const grouped = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const rough = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 4 });

const number = (value) => (value === null || value === undefined ? "unknown" : grouped.format(value));
const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many || one + "s"}`;

function time(at) {
  return at === null || at === undefined ? "unknown" : new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

function when(at) {
  if (at === null || at === undefined) return "unknown";
  return h("time", { datetime: new Date(at * 1000).toISOString(), title: ago(at) }, time(at));
}

function span(s) {
  if (s === null || s === undefined) return "unknown";
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 90) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 96 * 3600) return `${Math.round(s / 3600)} h`;
  return `${grouped.format(Math.round(s / 86400))} days`;
}

function ago(at, now = D.now) {
  return at === null || now === null ? "" : at > now ? "just now" : `${span(now - at)} before this report`;
}

function bytes(size) {
  if (size === null || size === undefined) return "unknown";
  const step = Math.min(4, Math.floor(Math.log10(Math.max(size, 1)) / 3));
  return `${(size / 1000 ** step).toFixed(step ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}

const commit = (id) => (!id || id === "unknown" ? "unknown" : h("code", { title: id }, id.slice(0, 12)));

// The text after the project's name, which every table shares.
const shortName = (name) => (name.startsWith(D.project + ".") ? name.slice(D.project.length + 1) : name);
const lastName = (name) => (name.startsWith(D.project + ".source:") ? shortName(name) : name.split(".").at(-1) || name);

const WORDS = {
  pass: "passed", warn: "warning", fail: "failed", error: "error", skipped: "skipped", none: "no result",
  success: "succeeded", failed: "failed", running: "running", unchanged: "unchanged",
  fresh: "fresh", late: "late", unknown: "unknown", "no limit": "no limit",
};
// Each state has a colour, a shape and a word: none of them is needed to read the others.
const LOOK = {
  pass: "good", success: "good", fresh: "good", warn: "warn", late: "warn", fail: "bad", error: "bad", failed: "bad",
  running: "busy", unchanged: "calm", skipped: "calm", none: "calm", unknown: "calm", "no limit": "calm",
};
const SHAPES = {
  good: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13zM4.8 8.2l2.3 2.3 4.3-4.6",
  warn: "M8 1.8 15 14.2H1zM8 6v4M8 11.6v1",
  bad: "M5 1.5h6l3.5 3.5v6L11 14.5H5L1.5 11V5zM5.5 5.5l5 5M10.5 5.5l-5 5",
  busy: "M8 1.5a6.5 6.5 0 1 0 6.5 6.5M8 4v4l3 2",
  calm: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13zM5 8h6",
};

function icon(state) {
  const look = LOOK[state] || "calm";
  return s("svg", { class: `icon ${look}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: SHAPES[look] }));
}

function badge(state, text) {
  return h("span", { class: `badge ${LOOK[state] || "calm"}` }, icon(state), text || WORDS[state] || state);
}

const KINDS = {
  file: "file", stream: "connector stream", raw: "raw table", seed: "seed", staging: "staging model",
  intermediate: "intermediate model", mart: "mart", consumer: "consumer", other: "not described here",
};
const kindName = (part) => (part.kind === "consumer" ? part.type || "consumer" : KINDS[part.kind] || part.kind);

const nodeRoute = (name) => route(D.nodes.get(name)?.kind === "consumer" ? "consumer" : "table", name);
const nodeLink = (name, text) => (D.nodes.has(name) ? link(text || shortName(name), nodeRoute(name)) : name);
const runLink = (id) => (!id ? "unknown" : D.runById.has(id) ? link(id, route("run", id)) : h("span", { title: "not among the runs that this report has" }, id));
const testLink = (test) => link(test.name || test.id, route("test", test.id));

function ownerName(owner) {
  return owner ? owner.name || owner.email || "" : "";
}

function ownerLink(owner) {
  const name = ownerName(owner);
  return name ? link(name, route("owner", name)) : "nobody named";
}

// What a column's profile says: shares in per cent, the rest as it is.
function profileText(profile) {
  return Object.entries(profile || {}).filter(([, value]) => value !== null && typeof value !== "object").map(([name, value]) => {
    const share = name.match(/^(.*)_share$/);
    const shown = share && typeof value === "number" ? `${exact.format(value * 100)} %` : typeof value === "number" ? exact.format(value) : value;
    return `${(share ? share[1] : name).replaceAll("_", " ")} ${shown}`;
  }).join(" · ");
}

// Sources rest outside the lake; files and streams have nothing that SQL could ask.
const isInLake = (table) => !table.name.includes(".source:");
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const sqlCommand = (query) => `dml sql ${/["$`\\!]/.test(query) ? quoted(query) : `"${query}"`}`;
