// One signal over time as SVG: the curve, the spread where readings were thinned, a threshold, and what was cited.

import { h, s } from "./dom.js";
import { clock, number } from "./i18n.js";

const HEIGHT = 104, LEFT = 34, RIGHT = 6, TOP = 8, BOTTOM = 18;

// points: [time, lowest, highest, last]; marks: [{t, label}] on the curve; steps: the value holds until the next one.
export function chart({ title, unit = "", points, from, to, width = 480, digits = 0, threshold = null, marks = [], floor = null, ceiling = null,
  steps = false, percent = false }) {
  const show = (value) => (percent ? `${number(value * 100)} %` : number(value, digits));
  const newest = points.at(-1);
  const caption = h("figcaption", {}, h("span", {}, title), h("b", {}, newest ? `${show(newest[3])} ${percent ? "" : unit}`.trim() : "–"));
  let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[2]));
  if (threshold !== null) { low = Math.min(low, threshold); high = Math.max(high, threshold); }
  if (floor !== null) low = floor;
  if (ceiling !== null) high = Math.max(high, ceiling);
  if (!points.length) { low = floor ?? 0; high = ceiling ?? 1; }
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  if (floor === null) low -= room;
  high += room;
  const x = (time) => LEFT + ((time - from) / (to - from || 1)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const inside = points.filter((p) => p[0] >= from);
  const label = newest
    ? `${title}: ${show(newest[3])} ${unit}, ${show(Math.min(...points.map((p) => p[1])))} – ${show(Math.max(...points.map((p) => p[2])))}, ${clock(from)} – ${clock(to)}`
    : `${title}: –`;
  const drawing = s("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const value of [low + (high - low) * 0.08, (low + high) / 2, high - (high - low) * 0.08]) {
    drawing.append(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      s("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, percent ? number(value * 100) : number(value, high - low < 3 ? 1 : 0)));
  }
  const count = width > 420 ? 4 : 2;
  for (let at = 0; at <= count; at += 1) {
    const time = from + ((to - from) * at) / count;
    const anchor = at === 0 ? "start" : at === count ? "end" : "middle";
    drawing.append(s("text", { x: x(time), y: HEIGHT - 4, "text-anchor": anchor }, clock(time)));
  }
  if (inside.some((p) => p[2] > p[1])) {
    const upper = inside.map((p) => `${x(p[0])},${y(p[2])}`), lower = inside.map((p) => `${x(p[0])},${y(p[1])}`).reverse();
    drawing.append(s("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
  }
  if (inside.length === 1) drawing.append(s("circle", { cx: x(inside[0][0]), cy: y(inside[0][3]), r: 3, class: "curve" }));
  if (inside.length) {
    const line = [];
    inside.forEach((p, at) => {
      if (steps && at) line.push(`${x(p[0])},${y(inside[at - 1][3])}`);
      line.push(`${x(p[0])},${y(p[3])}`);
    });
    if (steps) line.push(`${x(to)},${y(inside.at(-1)[3])}`);
    drawing.append(s("polyline", { class: "curve", points: line.join(" ") }));
  }
  if (threshold !== null) drawing.append(s("line", { class: "threshold", x1: LEFT, x2: width - RIGHT, y1: y(threshold), y2: y(threshold) }));
  for (const mark of marks) {
    const before = points.filter((p) => p[0] <= mark.t);
    const point = before.at(-1);
    if (!point || point[0] < from) continue;
    drawing.append(s("line", { class: "evidence-line", x1: x(point[0]), x2: x(point[0]), y1: TOP, y2: HEIGHT - BOTTOM }),
      s("circle", { class: "evidence-mark", cx: x(point[0]), cy: y(point[3]), r: 6 }, s("title", {}, mark.label)));
  }
  return h("figure", { class: marks.length ? "cited" : null }, caption, drawing);
}
