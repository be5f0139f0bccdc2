// Places the nodes of a directed graph in layers from left to right (after Sugiyama): what a table is made from is left
// of it. Knows nothing of tables: nodes have a size, edges are pairs of keys.

// Gives { width, height, place: key → {x, y}, bends: "a\nb" → points between }.
function layOut(sizes, edges, { gapX = 70, gapY = 14 } = {}) {
  const keys = [...sizes.keys()];
  const [above, below] = [new Map(keys.map((key) => [key, []])), new Map(keys.map((key) => [key, []]))];
  for (const [from, to] of edges) {
    below.get(from).push(to);
    above.get(to).push(from);
  }
  const layer = findLayers(keys, above, below);
  const { layers, chains, links } = splitLongEdges(keys, edges, layer);
  orderLayers(layers, links);
  return placeAll(layers, links, chains, sizes, { gapX, gapY });
}

// Longest path from the left; then everything that only feeds things further right moves next to them.
function findLayers(keys, above, below) {
  const layer = new Map();
  const open = new Set();
  const visit = (key) => {
    if (layer.has(key)) return layer.get(key);
    if (open.has(key)) return -1; // a circle: this edge is drawn backwards
    open.add(key);
    const at = above.get(key).reduce((most, parent) => Math.max(most, visit(parent) + 1), 0);
    open.delete(key);
    layer.set(key, at);
    return at;
  };
  keys.forEach(visit);
  for (const key of [...keys].sort((a, b) => layer.get(b) - layer.get(a))) {
    const next = below.get(key).map((child) => layer.get(child)).filter((at) => at > layer.get(key));
    if (next.length) layer.set(key, Math.min(...next) - 1);
  }
  return layer;
}

// An edge over several layers gets an invisible node in each, so that it bends around what is between.
function splitLongEdges(keys, edges, layer) {
  const layers = [];
  const links = { left: new Map(), right: new Map() };
  const put = (key, at) => {
    (layers[at] ||= []).push(key);
    links.left.set(key, []);
    links.right.set(key, []);
  };
  keys.forEach((key) => put(key, layer.get(key)));
  for (let at = 0; at < layers.length; at += 1) layers[at] ||= [];
  const chains = new Map();
  for (const [from, to] of edges) {
    const chain = [];
    let last = from;
    for (let at = layer.get(from) + 1; at < layer.get(to); at += 1) {
      const bend = `${from}\n${to}\n${at}`;
      put(bend, at);
      chain.push(bend);
      links.right.get(last).push(bend);
      links.left.get(bend).push(last);
      last = bend;
    }
    if (layer.get(to) > layer.get(from)) {
      links.right.get(last).push(to);
      links.left.get(to).push(last);
    }
    chains.set(`${from}\n${to}`, chain);
  }
  return { layers, chains, links };
}

// Fewer crossings: each layer is sorted by the middle of its neighbours, to the right and back, some times.
function orderLayers(layers, links) {
  const rank = new Map();
  const note = (row) => row.forEach((key, at) => rank.set(key, at));
  layers.forEach(note);
  for (let round = 0; round < 10; round += 1) {
    const [side, rows] = round % 2 ? ["right", [...layers].reverse()] : ["left", layers];
    for (const row of rows) {
      const weight = new Map(row.map((key) => [key, mean(links[side].get(key).map((other) => rank.get(other)), rank.get(key))]));
      row.sort((a, b) => weight.get(a) - weight.get(b));
      note(row);
    }
  }
}

const mean = (values, otherwise) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : otherwise);

function placeAll(layers, links, chains, sizes, { gapX, gapY }) {
  const height = (key) => sizes.get(key)?.height ?? 4;
  const centre = new Map();
  for (const row of layers) {
    let y = 0;
    for (const key of row) {
      centre.set(key, y + height(key) / 2);
      y += height(key) + gapY;
    }
  }
  for (let round = 0; round < 8; round += 1) {
    const [side, rows] = round % 2 ? ["right", [...layers].reverse()] : ["left", layers];
    for (const row of rows) settle(row, (key) => mean(links[side].get(key).map((other) => centre.get(other)), centre.get(key)), height, gapY, centre);
  }
  const top = Math.min(...[...centre].map(([key, y]) => y - height(key) / 2), Infinity);
  const place = new Map();
  let x = 0;
  for (const row of layers) {
    const wide = Math.max(0, ...row.map((key) => sizes.get(key)?.width ?? 0));
    for (const key of row) place.set(key, { x, y: centre.get(key) - height(key) / 2 - top, width: wide, height: height(key) });
    x += wide + gapX;
  }
  const bends = new Map([...chains].map(([key, chain]) => [key, chain.map((bend) => ({ ...place.get(bend), y: place.get(bend).y + 2 }))]));
  const bottom = Math.max(0, ...[...place.values()].map(({ y, height: tall }) => y + tall));
  return { width: Math.max(0, x - gapX), height: bottom, place, bends };
}

// As near as possible to where each wants to be, without overlap and in order: neighbours that collide share their mean.
function settle(row, wish, height, gap, centre) {
  const blocks = [];
  let before = 0;
  for (const key of row) {
    const offset = before + height(key) / 2;
    blocks.push({ keys: [[key, offset]], sum: wish(key) - offset, count: 1 });
    before += height(key) + gap;
    while (blocks.length > 1 && blocks.at(-2).sum / blocks.at(-2).count > blocks.at(-1).sum / blocks.at(-1).count) {
      const last = blocks.pop();
      const into = blocks.at(-1);
      into.keys.push(...last.keys);
      into.sum += last.sum;
      into.count += last.count;
    }
  }
  for (const block of blocks) for (const [key, offset] of block.keys) centre.set(key, block.sum / block.count + offset);
}
