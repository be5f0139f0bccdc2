// Small charts as SVG. Each has a sentence that says the same, and the big ones a table of their values.

// Results of a test, oldest first. The worse the taller, so that it can be read without its colours.
function spark(results) {
  const shown = results.slice(0, 30).reverse();
  const heights = { good: 7, warn: 12, bad: 18, calm: 3 };
  const paths = {};
  shown.forEach(({ status }, at) => {
    const look = LOOK[status] || "calm";
    paths[look] = (paths[look] || "") + `M${at * 5 + 2} 19v-${heights[look]}`;
  });
  const counts = {};
  for (const { status } of results) counts[status] = (counts[status] || 0) + 1;
  const label = results.length ? Object.entries(counts).map(([status, count]) => `${count} ${WORDS[status]}`).join(", ") : "no result";
  return s("svg", { class: "spark", viewBox: `0 0 ${Math.max(5, shown.length * 5)} 20`, width: Math.max(5, shown.length * 5), height: 20,
    role: "img", "aria-label": `Last results: ${label}` },
  Object.entries(paths).map(([look, d]) => s("path", { d, class: `stroke ${look}` })));
}

function ticks(low, high, count = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const found = [];
  for (let value = Math.floor(low / step) * step; value < high + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

const clip = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

// As wide as the page has room, so that letters keep their size; half of it where two stand side by side.
const room = () => Math.max(280, Math.min(1168, document.documentElement.clientWidth - 72));
const halfRoom = () => (room() > 860 ? (room() - 32) / 2 : room());

// The frame that all charts share: axes, grid lines, units, and a scale for values.
function frame({ width, height = 200, values, unit, labels, right = 12 }) {
  const low = Math.min(0, ...values);
  const high = Math.max(...values, low === 0 ? 0 : low);
  const marks = ticks(low, high === low ? low + 1 : high);
  const [bottom, top] = [marks[0], marks.at(-1)];
  const left = Math.max(...marks.map((mark) => short.format(mark).length)) * 7 + 14;
  const area = { left, right: width - right, top: 24, bottom: height - 24 };
  const y = (value) => area.bottom - ((value - bottom) / (top - bottom || 1)) * (area.bottom - area.top);
  const parts = marks.map((mark) => s("g", {},
    s("line", { x1: area.left, x2: area.right, y1: y(mark), y2: y(mark), class: mark === 0 ? "axis" : "rule" }),
    s("text", { x: area.left - 8, y: y(mark) + 4, class: "tick", "text-anchor": "end" }, short.format(mark))));
  if (unit) parts.push(s("text", { x: 2, y: 12, class: "tick" }, unit));
  for (const { x, text, anchor } of labels(area)) {
    parts.push(s("text", { x, y: height - 6, class: "tick", "text-anchor": anchor || "middle" }, text));
  }
  return { area, y, parts, width, height };
}

function picture({ width, height }, label, ...children) {
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, ...children);
}

// At most so many labels, evenly apart; each as long as there is room for.
function apart(count, area, text, most) {
  const wanted = Math.max(1, Math.min(count, most));
  const letters = Math.max(4, Math.floor((area.right - area.left) / wanted / 7));
  return [...Array(wanted).keys()].map((at) => {
    const index = wanted === 1 ? 0 : Math.round((at * (count - 1)) / (wanted - 1));
    return { index, text: clip(String(text(index)), letters), anchor: wanted > 1 && at === 0 ? "start" : wanted > 1 && at === wanted - 1 ? "end" : "middle" };
  });
}

// Few points or names: bars. Many points: a line.
function figureChart(points, { title, unit, width = halfRoom() }) {
  const values = points.map(([, value]) => value);
  const line = points.length > 16;
  let x;
  const made = frame({ width, values, unit, labels: (area) => {
    const step = (area.right - area.left) / (line ? Math.max(1, points.length - 1) : points.length);
    x = (at) => area.left + step * (line ? at : at + 0.5);
    return apart(points.length, area, (index) => points[index][0], line ? Math.floor(width / (24 + 10 * Math.min(16, String(points[0][0]).length))) : points.length).map((label) => ({ ...label, x: x(label.index), anchor: line ? label.anchor : "middle" }));
  } });
  const [first, last] = [points[0], points.at(-1)];
  const high = points.reduce((best, point) => (point[1] > best[1] ? point : best));
  const low = points.reduce((best, point) => (point[1] < best[1] ? point : best));
  const amount = (value) => `${(Math.abs(value) >= 100 ? rough : exact).format(value)}${unit ? " " + unit : ""}`;
  const words = `${title}: ${plural(points.length, "value")} from ${first[0]} to ${last[0]}. Last ${amount(last[1])}; `
    + `highest ${amount(high[1])} (${high[0]}), lowest ${amount(low[1])} (${low[0]}).`;
  const drawn = line
    ? s("path", { class: "line", d: points.map(([, value], at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${made.y(value).toFixed(1)}`).join("") })
    : points.map(([label, value], at) => {
      const wide = Math.min(48, ((made.area.right - made.area.left) / points.length) * 0.7);
      const [from, to] = [made.y(Math.max(0, value)), made.y(Math.min(0, value))];
      return s("rect", { class: "bar", x: x(at) - wide / 2, y: from, width: wide, height: Math.max(1, to - from) }, s("title", {}, `${label}: ${amount(value)}`));
    });
  return h("figure", {}, h("figcaption", {}, title),
    picture(made, words, made.parts, drawn),
    h("p", { class: "words" }, words),
    lazyDetails("The values as a table", () => grid(`${title}, values`, ["", unit || "value"], points.map(([label, value]) => [label, exact.format(value)]))));
}

// Made when it is first opened, or printed: a closed part costs nothing.
function lazyDetails(title, content, attributes) {
  const details = h("details", attributes, h("summary", {}, title));
  details.make = () => {
    if (details.children.length === 1) append(details, [content()]);
  };
  if (details.open) details.make();
  details.addEventListener("toggle", () => { if (details.open) details.make(); });
  return details;
}

// Runs as bars, oldest first: height is the duration; fill, outline and the sign on top say how it ended.
function runChart(runs) {
  const shown = runs.slice(0, 40).reverse();
  const made = frame({ values: shown.map((run) => run.duration_s), unit: "seconds", width: room(), height: 190, labels: (area) =>
    apart(shown.length, area, (index) => (shown[index].at === null ? "?" : time(shown[index].at).slice(5, 16)), Math.floor(room() / 130)).map((label) => {
      const step = (area.right - area.left) / shown.length;
      return { ...label, x: label.anchor === "end" ? area.right : label.anchor === "start" ? area.left : area.left + step * (label.index + 0.5) };
    }) });
  const { area, y } = made;
  const step = (area.right - area.left) / shown.length;
  const wide = Math.min(22, step * 0.74);
  const bars = shown.map((run, at) => {
    const x = area.left + step * (at + 0.5);
    const top = Math.min(y(run.duration_s), area.bottom - 2);
    const words = `${run.run_id}: ${WORDS[run.status]}, ${span(run.duration_s)}, ${time(run.at)}`;
    const sign = { failed: `M${x - 3.5} ${top - 11}l7 7m0 -7l-7 7`, running: `M${x - 3} ${top - 11}l6 3.5l-6 3.5z`, unchanged: `M${x - 3.5} ${top - 7}h7` }[run.status];
    return s("a", { href: route("run", run.run_id), "aria-label": words, class: "run" },
      s("title", {}, words),
      s("rect", { x: x - step / 2, y: area.top - 10, width: step, height: area.bottom - area.top + 12, class: "catch" }),
      s("rect", { x: x - wide / 2, y: top, width: wide, height: area.bottom - top, class: `runbar ${LOOK[run.status] || "calm"} ${run.status}` }),
      sign && s("path", { d: sign, class: `stroke thin ${LOOK[run.status]}` }));
  });
  const ended = {};
  for (const run of shown) ended[run.status] = (ended[run.status] || 0) + 1;
  const words = `The last ${plural(shown.length, "run")}: ${Object.entries(ended).map(([status, count]) => `${count} ${WORDS[status]}`).join(", ")}; the newest took ${span(shown.at(-1).duration_s)}.`;
  const chart = s("svg", { class: "chart", viewBox: `0 0 ${made.width} ${made.height}`, width: made.width, height: made.height, role: "group", "aria-label": words }, made.parts, bars);
  return h("figure", {}, chart, h("p", { class: "words" }, words), h("p", { class: "legend", "aria-hidden": "true" },
    ["success", "failed", "running", "unchanged"].map((state) => h("span", {}, h("i", { class: `swatch ${LOOK[state]} ${state}` }), WORDS[state]))));
}

// Age against its limit: the bar is full at the limit.
function ageBar({ age, limit, state }) {
  if (limit === null || age === null) return null;
  const part = Math.min(1, age / (limit * 1.25 || 1));
  return s("svg", { class: "agebar", viewBox: "0 0 100 10", width: 100, height: 10, "aria-hidden": "true" },
    s("rect", { x: 0, y: 2, width: 100, height: 6, class: "track" }),
    s("rect", { x: 0, y: 2, width: Math.max(2, part * 100), height: 6, class: `fill ${LOOK[state]}` }),
    s("line", { x1: 80, x2: 80, y1: 0, y2: 10, class: "limit" }));
}
