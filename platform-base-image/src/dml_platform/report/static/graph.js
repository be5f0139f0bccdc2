// Draws tables as boxes and what is made from what as curves. Boxes and columns are links, so keys and readers reach them.

const BOX = { width: 210, head: 40, column: 22, foot: 6 };

// `boxes`: name → { columns, chosen, more }; `edges`: [source, target, { state }]; `fine`: edges between columns.
function drawGraph({ boxes, edges, fine = [], focus = null, label }) {
  const sizes = new Map([...boxes].map(([name, box]) => [name, {
    width: BOX.width, height: BOX.head + (box.columns.length + (box.more ? 1 : 0)) * BOX.column + (box.columns.length ? BOX.foot : 0),
  }]));
  const laid = layOut(sizes, edges.map(([source, target]) => [source, target]), { gapX: 46 });
  const margin = 12;
  const svg = s("svg", { class: "graph", viewBox: `${-margin} ${-margin} ${laid.width + 2 * margin} ${laid.height + 2 * margin}`, role: "group", "aria-label": label });
  const lines = s("g", { "aria-hidden": "true" });
  svg.append(lines);
  const bends = (source, target) => laid.bends.get(`${source}\n${target}`) || [];
  for (const [source, target, { state } = {}] of edges) {
    lines.append(s("path", { class: `edge ${state || ""}`, d: curve(port(laid, source, null, "right"), bends(source, target), port(laid, target, null, "left")) }));
  }
  for (const edge of fine) {
    const from = port(laid, edge.source, rowOf(boxes, edge.source, edge.sourceColumn), "right");
    const to = port(laid, edge.target, rowOf(boxes, edge.target, edge.targetColumn), "left");
    lines.append(s("path", { class: `edge on ${edge.via}`, d: curve(from, bends(edge.source, edge.target), to) }));
  }
  for (const [name, box] of boxes) svg.append(drawBox(name, box, laid.place.get(name), name === focus));
  return { svg, width: laid.width + 2 * margin, height: laid.height + 2 * margin, centre: centreOf(laid, focus, margin) };
}

function centreOf(laid, focus, margin) {
  const place = laid.place.get(focus);
  return place ? { x: place.x + place.width / 2 + margin, y: place.y + Math.min(place.height, 120) / 2 + margin } : null;
}

const rowOf = (boxes, name, column) => (column === null ? null : boxes.get(name)?.columns.indexOf(column) ?? null);

function port(laid, name, row, side) {
  const place = laid.place.get(name);
  const y = place.y + (row === null || row < 0 ? BOX.head / 2 : BOX.head + row * BOX.column + BOX.column / 2);
  return { x: side === "right" ? place.x + place.width : place.x, y };
}

function curve(from, bends, to) {
  let d = `M${from.x} ${from.y}`;
  let last = from;
  for (const point of [...bends, to]) {
    const middle = (last.x + point.x) / 2;
    const bow = point.x <= last.x ? 60 : 0; // backwards, in a circle
    d += `C${bow ? last.x + bow : middle} ${last.y} ${bow ? point.x - bow : middle} ${point.y} ${point.x} ${point.y}`;
    last = point;
    if (point.width) {
      d += `H${point.x + point.width}`;
      last = { x: point.x + point.width, y: point.y };
    }
  }
  return d;
}

function drawBox(name, box, { x, y, width, height }, isFocus) {
  const part = D.nodes.get(name);
  const state = worst(part.tests);
  const words = `${lastName(name)} ${kindName(part)}${state === "none" ? "" : `, tests: ${WORDS[state]}`}`;
  const group = s("g", { class: `box ${part.kind} ${isFocus ? "focus" : ""} ${box.state || ""}`, "data-name": name, transform: `translate(${x} ${y})` },
    s("title", {}, `${name}\n${words}`),
    s("rect", { class: "body", width, height, rx: 6 }),
    s("a", { href: route("lineage", name), "aria-label": words, "aria-current": isFocus ? "true" : null },
      s("rect", { class: "head", width, height: BOX.head, rx: 6 }),
      s("rect", { class: "stripe", width: 5, height: BOX.head, rx: 2 }),
      s("text", { x: 14, y: 17, class: "name" }, clip(lastName(name), 24)), " ",
      s("text", { x: 14, y: 32, class: "kind" }, clip(kindName(part), 28)),
      RANK[state] > RANK.pass && s("svg", { x: width - 24, y: 12, width: 16, height: 16, viewBox: "0 0 16 16", class: `icon ${LOOK[state]}` }, s("path", { d: SHAPES[LOOK[state]] }))));
  box.columns.forEach((column, row) => {
    const top = BOX.head + row * BOX.column;
    group.append(s("a", { href: route("lineage", name, column), class: `column ${column === box.chosen ? "chosen" : ""}`, "aria-label": `${lastName(name)}.${column}`, "aria-current": column === box.chosen ? "true" : null },
      s("title", {}, column),
      s("rect", { x: 1, y: top + 1, width: width - 2, height: BOX.column - 1 }),
      s("text", { x: 14, y: top + 15 }, clip(column, 25))));
  });
  if (box.more) {
    group.append(s("text", { x: 14, y: BOX.head + box.columns.length * BOX.column + 15, class: "kind" }, `and ${plural(box.more, "other column")}`));
  }
  group.append(s("rect", { class: "frame", width, height, rx: 6 }));
  return group;
}

// The drawing in a pane that scrolls both ways, with buttons for its size. A mouse may also drag it.
function graphPane(drawn) {
  let zoom = 1;
  const pane = h("div", { class: "pane", tabindex: "0", role: "region", "aria-label": "Lineage drawing; scrolls both ways" }, drawn.svg);
  const set = (next) => {
    zoom = Math.max(0.12, Math.min(2, next));
    drawn.svg.setAttribute("width", drawn.width * zoom);
    drawn.svg.setAttribute("height", drawn.height * zoom);
  };
  const fit = () => Math.min(1, (pane.clientWidth - 4) / drawn.width, (pane.clientHeight - 4) / drawn.height);
  const toCentre = () => {
    if (!drawn.centre) return;
    pane.scrollLeft = drawn.centre.x * zoom - pane.clientWidth / 2;
    pane.scrollTop = drawn.centre.y * zoom - pane.clientHeight / 2;
  };
  const button = (name, text, next) => h("button", { type: "button", class: "quiet", "aria-label": name, onclick: () => { set(next()); toCentre(); } }, text);
  dragToScroll(pane);
  requestAnimationFrame(() => {
    set(drawn.centre ? Math.max(0.8, fit()) : Math.max(0.7, Math.min(1, (pane.clientWidth - 4) / drawn.width)));
    pane.style.height = `${Math.max(110, Math.min(drawn.height * zoom + 18, window.innerHeight * 0.72))}px`;
    toCentre();
  });
  return h("div", { class: "drawing" }, h("div", { class: "above" }, legend(), h("div", { class: "tools" },
    button("+ larger", "+", () => zoom * 1.25), button("− smaller", "−", () => zoom / 1.25),
    button("Whole drawing", "Whole", fit), button("1 : 1, full size", "1 : 1", () => 1))), pane);
}

function dragToScroll(pane) {
  let from = null;
  pane.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) from = { x: event.clientX + pane.scrollLeft, y: event.clientY + pane.scrollTop, moved: false };
  });
  pane.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [left, top] = [from.x - event.clientX, from.y - event.clientY];
    if (Math.abs(left - pane.scrollLeft) + Math.abs(top - pane.scrollTop) > 4) from.moved = true;
    pane.scrollTo(left, top);
  });
  const end = () => { if (from?.moved) pane.dataset.dragged = "yes"; from = null; };
  pane.addEventListener("pointerup", end);
  pane.addEventListener("pointerleave", end);
  pane.addEventListener("dragstart", (event) => event.preventDefault());
  // The click that ends a drag opens nothing.
  pane.addEventListener("click", (event) => {
    if (pane.dataset.dragged) event.preventDefault();
    delete pane.dataset.dragged;
  }, true);
}
