// Starts the page: which address shows what, the theme, the keys.

const PAGES = [["", "Health"], ["tables", "Tables"], ["lineage", "Lineage"], ["tests", "Tests"], ["runs", "Runs"], ["freshness", "Freshness"], ["pipelines", "Pipelines"], ["owners", "Owners"]];
const BELONGS = { table: "tables", test: "tests", run: "runs", consumer: "pipelines", owner: "owners" };
const VIEWS = {
  "": () => healthView(), tables: () => tablesView(), table: (name) => tablePage(name), lineage: (table, column) => lineageView(table, column),
  tests: (name, part, query) => testsView(query), test: (id) => testPage(id), runs: () => runsView(), run: (id) => runPage(id),
  freshness: () => freshnessView(), pipelines: () => pipelinesView(), consumer: (name) => consumerPage(name), owners: () => ownersView(), owner: (name) => ownerPage(name),
};

function missing(what, name) {
  return [h("h1", { tabindex: "-1" }, `No such ${what}`), h("p", { class: "lead" }, "This report has no ", what, " ", h("code", { class: "break" }, name), ". It may be gone, or the link is of another report."), h("p", {}, link("Health of the project", "#/"))];
}

const places = new Map(); // where each page was scrolled to, for the way back
let shown = null;

function show(event) {
  if (!location.hash.startsWith("#/") && location.hash) return; // a place on the page, e.g. the skip link's
  const [path, query] = location.hash.slice(2).split("?");
  const parts = path.split("/").map(decode);
  const [page, ...rest] = parts;
  if (shown !== null) places.set(shown, window.scrollY);
  const isSame = shown !== null && page === "table" && rest[1] && shown.split("/")[2] === location.hash.split("/")[2];
  const view = VIEWS[page] || (() => missing("page", path));
  const main = document.getElementById("main");
  const from = performance.now();
  if (!isSame) main.replaceChildren(...[view(rest[0], rest[1], new URLSearchParams(query || ""))].flat(Infinity).filter(Boolean));
  performance.measure("view", { start: from, end: performance.now() });
  const title = main.querySelector("h1");
  document.title = `${title?.textContent.replace(/Copy name$/, "").trim()} · ${D.project} data report`;
  for (const item of document.querySelectorAll("#nav a")) {
    const isHere = item.dataset.page === (BELONGS[page] || page);
    if (isHere) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
    if (isHere) item.parentElement.parentElement.scrollLeft = item.offsetLeft - 40;
  }
  const target = page === "table" && rest[1] ? main.querySelector(`[data-part="${CSS.escape(rest[1])}"] h2`) : null;
  shown = location.hash;
  if (target) { target.focus({ preventScroll: true }); target.scrollIntoView(); } else if (event) {
    title?.focus({ preventScroll: true });
    window.scrollTo(0, places.get(location.hash) || 0);
  }
}

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function startTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("dml-report-theme"); } catch { return null; } };
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme || "";
    const isDark = theme ? theme === "dark" : dark.matches;
    button.textContent = isDark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark ? "light" : "dark"} colours`);
  };
  apply(stored());
  dark.addEventListener("change", () => apply(stored()));
  button.addEventListener("click", () => {
    const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : dark.matches;
    try { localStorage.setItem("dml-report-theme", isDark ? "light" : "dark"); } catch { /* stays for this page only */ }
    apply(isDark ? "light" : "dark");
  });
}

function start() {
  startTheme();
  document.getElementById("nav").append(h("ul", {}, PAGES.map(([page, name]) => h("li", {}, h("a", { href: `#/${page}`, "data-page": page }, name)))));
  document.getElementById("search").append(searchBox({ label: "Search tables, columns, tests, runs, owners", id: "search-all" }));
  document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
  document.getElementById("foot").append(h("p", {}, `Written ${time(D.now)}`, D.git_commit && D.git_commit !== "unknown" ? ` at commit ${D.git_commit.slice(0, 12)}` : "", D.platform_version ? ` by dml ${D.platform_version}` : "", ". This page asks no server for anything."));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName)) {
      event.preventDefault();
      document.getElementById("search-all").focus();
    }
  });
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest?.('a[href^="#part-"]');
    if (!anchor) return;
    event.preventDefault();
    document.getElementById(anchor.getAttribute("href").slice(1))?.scrollIntoView();
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.make?.(); part.open = true; }));
  window.addEventListener("hashchange", show);
  history.scrollRestoration = "manual";
  show(null);
  (window.requestIdleCallback || setTimeout)(searchIndex);
}

start();
