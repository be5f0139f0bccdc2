// Pipelines and when they run, consumers, owners.

function pipelinesView() {
  return [h("h1", { tabindex: "-1" }, "Pipelines and consumers"),
    section("Pipelines", D.pipelines.length ? D.pipelines.map(pipelinePart) : note("The project defines no jobs.")),
    section("Consumers", D.consumers.length ? grid("Consumers", ["Consumer", "Kind", "Owner", "Reads", { name: "Description", class: "wide" }], D.consumers.map((consumer) => [
      nodeLink(consumer.name, consumer.label || consumer.name), consumer.kind, ownerLink(consumer.owner), plural((consumer.depends_on || []).length, "table"), consumer.description || "",
    ])) : note("No consumer is declared. In dbt it is an exposure."))];
}

function pipelinePart(pipeline) {
  const tables = pipeline.tables || [];
  return h("div", { class: "step" }, h("h3", {}, pipeline.name), pipeline.description ? h("p", {}, pipeline.description) : null,
    facts([
      ["Runs by itself", pipeline.schedule ? [cronWords(pipeline.schedule), " ", h("code", {}, pipeline.schedule), " (UTC)"] : (pipeline.sensors || []).length ? "when a sensor says so" : "never: somebody starts it"],
      (pipeline.sensors || []).length && ["Sensors", pipeline.sensors.join(", ")],
    ]),
    tables.length ? lazyDetails(`Makes ${plural(tables.length, "table")}`, () => h("ul", { class: "names" }, tables.map((name) => h("li", {}, nodeLink(name))))) : null);
}

// The everyday forms of a cron expression in words; the rest as it is.
function cronWords(cron) {
  const [minute, hour, day, month, weekday] = cron.trim().split(/\s+/);
  const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
  const isNumber = (part) => /^\d+$/.test(part || "");
  if (!isNumber(minute) || day !== "*" && !isNumber(day) || month !== "*") return "";
  const at = `${String(hour).padStart(2, "0")}:${minute.padStart(2, "0")}`;
  if (hour === "*" && day === "*" && weekday === "*") return `every hour, ${minute} min past`;
  if (!isNumber(hour)) return "";
  if (day === "*" && weekday === "*") return `every day at ${at}`;
  if (day === "*" && isNumber(weekday) && days[weekday]) return `every ${days[weekday]} at ${at}`;
  return isNumber(day) && weekday === "*" ? `on day ${day} of every month at ${at}` : "";
}

function consumerPage(name) {
  const consumer = D.nodes.get(name);
  if (!consumer || consumer.kind !== "consumer") return missing("consumer", name);
  return [h("p", { class: "crumb" }, link("Pipelines and consumers", "#/pipelines"), " / ", consumer.type),
    h("h1", { tabindex: "-1" }, consumer.label || consumer.name), h("p", { class: "lead" }, consumer.description || "It has no description."),
    facts([["Owner", ownerLink(consumer.owner)], ["Kind", consumer.type], consumer.url && ["Address", outside(consumer.url, consumer.url)], ["Name", [h("code", {}, consumer.name), " ", copyButton(consumer.name)]]]),
    section("Reads", nameList(consumer.up, "No table is declared.")), h("p", {}, link("See it drawn", route("lineage", consumer.name)))];
}

function ownersOf() {
  const owners = new Map();
  const put = (owner, what, part) => {
    const name = ownerName(owner) || "";
    if (!owners.has(name)) owners.set(name, { owner, tables: [], consumers: [] });
    owners.get(name)[what].push(part);
  };
  D.tables.forEach((table) => put(table.owner, "tables", table));
  D.consumers.forEach((consumer) => put(consumer.owner, "consumers", consumer));
  return owners;
}

function ownersView() {
  const rows = [...ownersOf()].sort(([a], [b]) => (a === "") - (b === "") || a.localeCompare(b)).map(([name, { owner, tables, consumers }]) => [
    name ? link(name, route("owner", name)) : link("Nobody named", route("owner", "")), owner?.email ? link(owner.email, `mailto:${owner.email}`) : "",
    number(tables.length), number(consumers.length), testState({ tests: tables.flatMap((table) => table.tests) }), number(tables.filter((table) => freshness(table).state === "late").length),
  ]);
  const heads = ["Owner", "Address", { name: "Tables", class: "number" }, { name: "Consumers", class: "number" }, "Tests", { name: "Late", class: "number" }];
  return [h("h1", { tabindex: "-1" }, "Owners"), rows.length ? grid("Owners", heads, rows) : note("There are no tables to own.")];
}

function ownerPage(name) {
  const found = ownersOf().get(name) || (name && name === ownerName(D.owner) ? { owner: D.owner, tables: [], consumers: [] } : null);
  if (!found) return missing("owner", name);
  return [h("p", { class: "crumb" }, link("Owners", "#/owners")), h("h1", { tabindex: "-1" }, name || "Nobody named"),
    facts([found.owner?.email && ["Address", link(found.owner.email, `mailto:${found.owner.email}`)], name && name === ownerName(D.owner) && ["Project", `owner of ${D.project}`]]),
    section("Tables", found.tables.length ? grid("Tables", ["Table", "Kind", "Tests", "Freshness"], found.tables.map((table) => [nodeLink(table.name), kindName(table), testState(table), freshState(table)])) : note("None.")),
    found.consumers.length ? section("Consumers", nameList(found.consumers.map((consumer) => consumer.name), "None.")) : null];
}
