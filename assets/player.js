/* The ShardLab player: draws a Trace on canvas, in one file without dependencies.

   One payload (parallel_core/views/player.py) and three hosts: Streamlit components v2, anywidget,
   and a static page. All that is heavy is painted once to an off-screen canvas; a frame of
   playing or scrubbing copies that picture and outlines what runs now, found by binary search.

     1  numbers and words        5  layout              9  the popover's content
     2  payload -> columns       6  level of detail    10  markup, style
     3  search and events        7  theme              11  the player
     4  logical steps, path      8  painting           12  hosts

   A "row" is a span's position in the columns. Times are nanoseconds since the trace's start. */

// ---------------------------------------------------------------- 1 numbers and words

function three(value) {
  const size = Math.abs(value);
  const digits = size >= 100 || value === Math.trunc(value) ? 0 : size >= 10 ? 1 : 2;
  const k = 10 ** digits;
  return (Math.floor(value * k + 0.5) / k).toFixed(digits);
}

/** The unit that fits a duration: [nanoseconds in it, its name]. */
export function unitOf(ns) {
  const size = Math.abs(ns);
  if (size < 2e3) return [1, "ns"];
  if (size < 2e6) return [1e3, "µs"];
  return size < 2e10 ? [1e6, "ms"] : [1e9, "s"];
}

/** 3100000 -> "3.10 ms"; the unit fits `scale`. */
export function timeText(ns, scale = ns) {
  const [per, unit] = unitOf(scale);
  return `${three(ns / per)} ${unit}`;
}

export function bytesText(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (Math.abs(count) >= 1024 && power < 4) [count, power] = [count / 1024, power + 1];
  return power ? `${three(count)} ${units[power]}` : `${Math.round(count)} B`;
}

/** The instruction's short name: "F layer3 mb0". */
export function label(t, i) {
  const mb = t.mb[i] < 0 ? "" : `mb${t.mb[i]}`;
  return [t.ops[t.op[i]].name, t.names.where[t.where[i]], mb].filter(Boolean).join(" ");
}

/** "waits 3.10 ms for rank 2, which was in B layer1 mb0": the same words as account.wait_text. */
export function waitText(t, w) {
  const least = w.length * 0.02, whole = timeText(w.length), parts = [];
  if (w.late > least) parts.push([w.late, lateText(t, w)]);
  if (w.queue > least) parts.push([w.queue, "queued behind other messages"]);
  if (w.wire > least) parts.push([w.wire, "on the wire"]);
  if (parts.length === 1 && w.late > least) return `waits ${whole} ${parts[0][1]}`;
  if (parts.length === 1) return `waits ${whole} for ${label(t, w.message)}, ${parts[0][1]}`;
  const list = parts.map(([ns, what]) => `${timeText(ns)} ${what}`).join("; ");
  return `waits ${whole} for ${label(t, w.message)}: ${list}`;
}

function lateText(t, w) {
  const who = `for rank ${t.rank[w.culprit]}`;
  if (w.doing < 0) return who;
  if (t.ops[t.op[w.doing]].name === "wait") return `${who}, which was waiting itself`;
  const slow = w.slow ? ` (${w.slow.toFixed(1)} times its median)` : "";
  return `${who}, which was in ${label(t, w.doing)}${slow}`;
}

// ---------------------------------------------------------------- 2 payload -> columns

// A column whose values are all equal travels as that one value.
function column(values, n, Type = Float64Array) {
  return Array.isArray(values) ? Type.from(values) : new Type(n).fill(values);
}

function undelta(values, n) {
  const out = column(values, n);
  for (let i = 1; i < n; i++) out[i] += out[i - 1];
  return out;
}

/** One layer of the payload as typed columns, with the indices that drawing needs. */
export function decode(layer) {
  const n = layer.n, c = layer.columns;
  const t = { n, kind: layer.kind, badge: layer.badge, account: layer.account,
    names: layer.names, lanes: layer.lanes, span: layer.span, shift: layer.shift || 0,
    ops: layer.ops.map(([name, phase, short]) => ({ name, phase, short })) };
  for (const key of ["op", "where", "axis", "peers", "source"]) t[key] = column(c[key], n, Uint16Array);
  t.mb = column(c.mb, n, Int32Array);
  t.msg = column(c.message, n, Int32Array);
  t.bytes = column(c.bytes, n);
  t.cpu = column(c.cpu, n);
  for (const key of ["start", "index", "memory", "step"]) t[key] = undelta(c[key], n);
  const duration = column(c.duration, n), lead = column(c.lead, n);
  t.done = t.start.map((s, i) => s + duration[i]);
  t.post = t.start.map((s, i) => s - lead[i]);
  t.rank = new Uint16Array(n);
  t.lane = new Uint8Array(n);
  t.head = new Uint8Array(n); // 1 where a lane of a rank begins
  let at = 0;
  t.segs = layer.segments.map(([rank, lane, count]) => {
    const seg = { rank, lane, from: at, to: at + count };
    t.rank.fill(rank, at, at + count);
    t.lane.fill(lane, at, at + count);
    if (count) t.head[at] = 1;
    at += count;
    return seg;
  });
  [t.depFrom, t.dep] = unfoldDeps(column(c.dep_count, n, Uint16Array), layer.deps, n);
  t.ends = ends(t);
  t.waits = waitTable(layer.waits);
  t.waitAt = new Map(t.waits.map((w) => [w.row, w]));
  t.memoryOf = memoryTracks(t, layer.world_size);
  t.busy = busyShares(t, layer.world_size);
  return t;
}

// Dependencies travel as distances back to a row; here: a flat list and where each row's begin.
function unfoldDeps(counts, flat, n) {
  const from = new Uint32Array(n + 1), dep = new Int32Array(flat.length);
  for (let i = 0; i < n; i++) {
    from[i + 1] = from[i] + counts[i];
    for (let k = from[i]; k < from[i + 1]; k++) dep[k] = i - flat[k];
  }
  return [from, dep];
}

function ends(t) {
  const out = [];
  for (let i = 0; i < t.n; i++) if (t.msg[i] >= 0) (out[t.msg[i]] ||= []).push(i);
  return out;
}

function waitTable(columns) {
  const keys = Object.keys(columns);
  return columns.row.map((_, i) => {
    const w = {};
    for (const key of keys) w[key] = columns[key][i];
    w.wire = w.length - w.late - w.queue;
    return w;
  });
}

// Per rank the moments at which its memory changes, and what it is from then on.
function memoryTracks(t, ranks) {
  const rows = Array.from({ length: ranks }, () => []);
  for (let i = 0; i < t.n; i++) if (t.memory[i] > 0) rows[t.rank[i]].push(i);
  return rows.map((list) => {
    list.sort((a, b) => t.done[a] - t.done[b]);
    const bytes = Float64Array.from(list, (i) => t.memory[i]);
    return { time: Float64Array.from(list, (i) => t.done[i]), bytes,
      floor: bytes.reduce((a, b) => Math.min(a, b), Infinity),
      peak: bytes.reduce((a, b) => Math.max(a, b), 0) };
  });
}

function busyShares(t, ranks) {
  const out = new Float64Array(ranks);
  for (let i = 0; i < t.n; i++)
    if (t.lane[i] === 0 && t.msg[i] < 0 && t.ops[t.op[i]].name !== "wait")
      out[t.rank[i]] += (t.done[i] - t.start[i]) / Math.max(1, t.span);
  return out;
}

// ---------------------------------------------------------------- 3 search and events

/** The last i in [from, to) with xs[i] <= x, or from - 1. */
export function lastUpTo(xs, x, from = 0, to = xs.length) {
  let low = from, high = to;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (xs[mid] <= x) low = mid + 1;
    else high = mid;
  }
  return low - 1;
}

/** The row of a lane that runs at x, or -1. */
export function running(X0, X1, seg, x) {
  const i = lastUpTo(X0, x, seg.from, seg.to);
  return i >= seg.from && X1[i] > x ? i : -1;
}

/** Every distinct moment at which something starts, and the last end, ascending. */
export function events(X0, X1) {
  const all = Float64Array.from(X0).sort();
  const out = [];
  for (const x of all) if (!out.length || x > out[out.length - 1]) out.push(x);
  let end = 0;
  for (const x of X1) end = Math.max(end, x);
  if (!out.length || end > out[out.length - 1]) out.push(end);
  return Float64Array.from(out);
}

/** What is worth a look: the longest waits (exposed communication is one) and the memory peak. */
export function strange(t, most = 20) {
  const named = t.waits.filter((w) => w.why !== "fill");
  const still = named.filter((w) => t.lane[w.row] === 0);
  const waits = (still.length ? still : named).slice().sort((a, b) => b.length - a.length);
  const out = waits.slice(0, most).map((w) =>
    ({ x: w.start, row: w.row, wait: w, text: `rank ${t.rank[w.row]} ${waitText(t, w)}` }));
  let peak = -1;
  for (let i = 0; i < t.n; i++) if (t.memory[i] > 0 && !(peak >= 0 && t.memory[i] <= t.memory[peak])) peak = i;
  if (peak >= 0)
    out.push({ x: t.start[peak], row: peak,
      text: `memory peaks at ${bytesText(t.memory[peak])} on rank ${t.rank[peak]}, in ${label(t, peak)}` });
  return out.sort((a, b) => a.x - b.x);
}

// ---------------------------------------------------------------- 4 logical steps, critical path

const isSend = (t, i) => t.ops[t.op[i]].name === "send";
const isPair = (t, i) => isSend(t, i) || t.ops[t.op[i]].name === "recv";

/** Per row its dependency step: one after the latest of its lane, its inputs and its group. */
export function logicalSteps(t) {
  const node = Int32Array.from({ length: t.n }, (_, i) => i);
  for (const list of t.ends) if (list && !isPair(t, list[0])) for (const i of list) node[i] = list[0];
  const next = Array.from({ length: t.n }, () => []), missing = new Int32Array(t.n);
  const edge = (from, to) => {
    if (node[from] === node[to]) return;
    next[node[from]].push(node[to]);
    missing[node[to]]++;
  };
  for (let i = 0; i < t.n; i++) {
    if (!t.head[i]) edge(i - 1, i);
    for (let k = t.depFrom[i]; k < t.depFrom[i + 1]; k++) edge(t.dep[k], i);
  }
  for (const list of t.ends)
    if (list && isPair(t, list[0]))
      for (const a of list) for (const b of list) if (isSend(t, a) && !isSend(t, b)) edge(a, b);
  const level = new Float64Array(t.n), ready = [];
  for (let i = 0; i < t.n; i++) if (node[i] === i && !missing[i]) ready.push(i);
  while (ready.length) {
    const i = ready.pop();
    for (const j of next[i]) {
      level[j] = Math.max(level[j], level[i] + 1);
      if (!--missing[j]) ready.push(j);
    }
  }
  return level.map((_, i) => level[node[i]]);
}

/** Of a message the end that was posted last: whoever kept the others waiting. */
function lastPosted(t, message) {
  return t.ends[message].reduce((a, b) => (t.post[b] > t.post[a] ? b : a));
}

/** The rows that decide the makespan, first to last: from the last end back, always to the
    latest thing that had to be there. */
export function criticalPath(t) {
  if (!t.n) return [];
  let i = 0;
  for (let k = 1; k < t.n; k++) if (t.done[k] > t.done[i]) i = k;
  const seen = new Uint8Array(t.n), path = [];
  while (i >= 0 && !seen[i]) {
    path.push(i);
    seen[i] = 1;
    if (t.msg[i] >= 0) {
      const last = lastPosted(t, t.msg[i]);
      if (t.post[last] > t.start[i] && t.done[i] > t.post[last] && !seen[last]) {
        path.push((i = last));
        seen[i] = 1;
      }
    }
    let before = t.head[i] ? -1 : i - 1;
    for (let k = t.depFrom[i]; k < t.depFrom[i + 1]; k++)
      if (before < 0 || t.done[t.dep[k]] >= t.done[before]) before = t.dep[k];
    i = before;
  }
  return path.reverse();
}

// ---------------------------------------------------------------- 5 layout

/** Where everything stands, in CSS pixels. `thin` is the number of lanes beside compute. */
export function layout({ width, ranks, thin = 1, memory = true, most = 760 }) {
  const narrow = width < 560;
  const full = { memory: memory ? 18 : 0, gap: memory ? 3 : 0, cell: 28, lane: 9, between: 14 };
  const height = (s) => s.memory + s.gap + s.cell + thin * (s.lane + 2) + s.between;
  const shrink = Math.min(1, most / (ranks * height(full)));
  const s = {};
  for (const key in full) s[key] = full[key] && Math.max(key === "cell" ? 3 : 1, Math.floor(full[key] * shrink));
  const pitch = height(s) - (shrink < 0.5 ? thin : 0), apart = shrink < 0.5 ? 1 : 2;
  const left = narrow ? 34 : 84, right = narrow ? 8 : 16, top = 30;
  const rows = Array.from({ length: ranks }, (_, rank) => {
    const y = top + rank * pitch, cellY = y + s.memory + s.gap;
    const lanes = Array.from({ length: thin }, (_, k) => cellY + s.cell + apart + k * (s.lane + apart));
    return { y, memoryY: y, memoryH: s.memory, cellY, cellH: s.cell, lanes, laneH: s.lane,
      bottom: cellY + s.cell + thin * (s.lane + apart) };
  });
  const bottom = ranks ? rows[ranks - 1].bottom + 6 : top + 20;
  return { width, narrow, left, right, top, rows, bottom, plot: Math.max(40, width - left - right),
    height: bottom + 30, labelEvery: Math.max(1, Math.ceil(13 / pitch)) };
}

/** Round axis values that cover [a, b], at most `most` of them. */
export function ticks(a, b, most) {
  const raw = (b - a) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
  const out = [];
  for (let k = Math.ceil(a / step - 1e-9); k * step <= b + step * 1e-9; k++) out.push(k * step);
  return out;
}

// ---------------------------------------------------------------- 6 level of detail

/** One phase per pixel column, 0 for blank, where spans are thinner than pixels.

    Each column goes to the phase that covers most of it. What a column could not show is carried
    to the next, so that over a few pixels every phase gets its share: a thin F among long Bs is
    not lost. A mark always wins a column against blank unless blank is a whole pixel in credit. */
export function pixelColumns(X0, X1, phase, { from, to, a, perPixel, width, phases }) {
  const out = new Uint8Array(width), cover = new Float64Array(phases + 1);
  const credit = new Float64Array(phases + 1);
  let i = from;
  for (let x = 0; x < width; x++) {
    const left = a + x * perPixel, right = left + perPixel;
    while (i < to && X1[i] <= left) i++;
    cover.fill(0);
    let covered = 0;
    for (let k = i; k < to && X0[k] < right; k++) {
      const part = (Math.min(X1[k], right) - Math.max(X0[k], left)) / perPixel;
      if (phase[k] && X1[k] > left) [cover[phase[k]], covered] = [cover[phase[k]] + Math.max(part, 1e-9), covered + part];
    }
    if (!covered && !cover.some((c) => c > 0)) {
      credit.fill(0);
      continue;
    }
    cover[0] = Math.max(0, 1 - covered);
    let best = -1;
    for (let p = 1; p <= phases; p++) {
      credit[p] = cover[p] ? credit[p] + cover[p] : 0;
      if (cover[p] && (best < 0 || credit[p] > credit[best])) best = p;
    }
    credit[0] += cover[0];
    if (credit[0] >= 1) best = 0;
    credit[best] -= 1;
    out[x] = best;
  }
  return out;
}

// ---------------------------------------------------------------- 7 theme

const hex = (n) => Math.round(n).toString(16).padStart(2, "0");
const channels = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));

/** `share` of colour a laid over colour b, both #rrggbb. */
export function mix(a, b, share) {
  const [p, q] = [channels(a), channels(b)];
  return "#" + p.map((v, i) => hex(v * share + q[i] * (1 - share))).join("");
}

export function isDark(colour) {
  const [r, g, b] = channels(colour);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
}

function hexOf(css) {
  const found = css.match(/[\d.]+/g);
  if (!found) return "#ffffff";
  const scale = css.startsWith("color(") ? 255 : 1; // color(srgb 0.1 0.2 0.3)
  return "#" + found.slice(0, 3).map((v) => hex(v * scale)).join("");
}

function theme(root, palette) {
  const style = getComputedStyle(root);
  const page = hexOf(style.backgroundColor), ink = hexOf(style.color), dark = isDark(page);
  const phases = {};
  for (const [key, s] of Object.entries(palette.phases)) {
    const fill = dark ? s.dark : s.light;
    phases[key] = { key, fill, ink: dark ? s.dark_ink : s.light_ink, letter: s.letter, hatch: s.hatch,
      meaning: s.meaning, wash: mix(fill, page, dark ? 0.34 : 0.26) };
  }
  return { page, ink, dark, phases, font: style.fontFamily, muted: mix(ink, page, 0.62),
    line: mix(ink, page, 0.1), track: mix(ink, page, 0.045), hatchInk: mix(ink, page, 0.5),
    memory: mix(ink, page, 0.2), edge: "rgba(0,0,0,.55)", patterns: new Map() };
}

const STROKES = { // on a tile of 6 x 6
  "/": (c) => (c.moveTo(-1, 7), c.lineTo(7, -1), c.moveTo(-1, 1), c.lineTo(1, -1), c.moveTo(5, 7), c.lineTo(7, 5)),
  "\\": (c) => (c.moveTo(-1, -1), c.lineTo(7, 7), c.moveTo(5, -1), c.lineTo(7, 1), c.moveTo(-1, 5), c.lineTo(1, 7)),
  "|": (c) => (c.moveTo(3, 0), c.lineTo(3, 6)),
  "-": (c) => (c.moveTo(0, 3), c.lineTo(6, 3)),
  x: (c) => (STROKES["/"](c), STROKES["\\"](c)),
  ".": (c) => (c.rect(1, 1, 0.6, 0.6), c.rect(4, 4, 0.6, 0.6)),
};
export const HATCH_OF = { "late peer": "\\", "late receiver": "/", "link busy": ".", wire: "-", straggler: "\\", fill: "" };

function pattern(T, ctx, kind, colour, ratio) {
  const key = kind + colour + ratio;
  if (!T.patterns.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6 * ratio;
    const c = tile.getContext("2d");
    c.scale(ratio, ratio);
    c.strokeStyle = colour;
    c.lineWidth = 1;
    c.beginPath();
    STROKES[kind](c);
    c.stroke();
    const made = ctx.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(1 / ratio));
    T.patterns.set(key, made);
  }
  return T.patterns.get(key);
}

// ---------------------------------------------------------------- 8 painting

const LATE = ["#DCE6F0", "#064E8B"], LATE_DARK = ["#22303F", "#9CC2FF"]; // lateness, one hue

/** Paints all rows of a scene: {ctx, t, X0, X1, view, box, T, ratio, logical, late, path, model}. */
function paintScene(s) {
  const { ctx, box, T } = s;
  ctx.setTransform(s.ratio, 0, 0, s.ratio, 0, 0);
  ctx.fillStyle = T.page;
  ctx.fillRect(0, 0, box.width, box.height);
  ctx.textBaseline = "middle";
  s.px = (x) => box.left + ((x - s.view.a) / (s.view.b - s.view.a)) * box.plot;
  paintAxis(s);
  paintLabels(s);
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left - 1, 0, box.plot + 2, box.bottom);
  ctx.clip();
  if (!s.logical) paintMemory(s);
  ctx.globalAlpha = s.path ? 0.35 : 1;
  paintRows(s);
  if (!s.logical) for (const w of s.t.waits) paintWait(s, w);
  ctx.globalAlpha = 1;
  if (s.model) paintModel(s);
  if (s.path) paintPath(s);
  ctx.restore();
}

function paintAxis(s) {
  const { ctx, box, T, view } = s;
  const [per, unit] = s.logical ? [1, "dependency step"] : unitOf(s.t.span);
  ctx.font = `11px ${T.font}`;
  ctx.textAlign = "center";
  for (const v of ticks(view.a / per, view.b / per, box.plot / 90)) {
    if (s.logical && v !== Math.trunc(v)) continue;
    const x = Math.round(s.px(v * per)) + 0.5;
    ctx.fillStyle = T.line;
    ctx.fillRect(x - 0.5, box.top - 6, 1, box.bottom - box.top + 6);
    ctx.fillStyle = T.muted;
    const text = String(+v.toPrecision(6));
    ctx.fillText(text, Math.min(Math.max(x, box.left + 4), box.width - box.right - 6), box.bottom + 12);
  }
  ctx.textAlign = s.logical && box.narrow ? "left" : "right";
  ctx.fillText(unit, ctx.textAlign === "left" ? 4 : box.left - 12, box.bottom + (box.narrow && s.logical ? 26 : 12));
  if (!s.logical && s.steps.length > 1)
    for (const [step, at] of s.steps) {
      const x = Math.round(s.px(at)) + 0.5;
      if (x < box.left - 1 || x > box.left + box.plot) continue;
      ctx.fillStyle = mix(T.ink, T.page, 0.35);
      ctx.fillRect(x - 0.5, box.top - 12, 1, box.bottom - box.top + 12);
      ctx.fillStyle = T.muted;
      ctx.textAlign = "left";
      if (s.steps.length < box.plot / 60) ctx.fillText(`step ${step}`, x + 5, box.top - 13);
    }
}

function paintLabels(s) {
  const { ctx, box, T, t } = s;
  box.rows.forEach((row, rank) => {
    ctx.fillStyle = T.track;
    ctx.fillRect(box.left, row.cellY, box.plot, row.cellH);
    for (const y of row.lanes) ctx.fillRect(box.left, y, box.plot, row.laneH);
    if (rank % box.labelEvery) return;
    const middle = row.cellY + row.cellH / 2, tall = row.cellH >= 24 && !box.narrow;
    ctx.textAlign = "right";
    ctx.fillStyle = T.ink;
    ctx.font = `600 12px ${T.font}`;
    ctx.fillText(box.narrow ? `r${rank}` : `rank ${rank}`, box.left - 12, middle - (tall ? 7 : 0));
    if (!tall) return;
    ctx.fillStyle = T.muted;
    ctx.font = `11px ${T.font}`;
    ctx.fillText(`${Math.round(100 * t.busy[rank])} % busy`, box.left - 12, middle + 8);
  });
}

// The strip's height is what is live above the least the rank ever holds; its cap is the maximum.
function paintMemory(s) {
  const { ctx, box, T, t, px } = s;
  const scale = Math.max(1, ...t.memoryOf.map((m) => (m.time.length ? m.peak - m.floor : 0)));
  box.rows.forEach((row, rank) => {
    const m = t.memoryOf[rank];
    if (!row.memoryH || !m.time.length) return;
    const base = row.memoryY + row.memoryH;
    const y = (bytes) => base - ((bytes - m.floor) / scale) * (row.memoryH - 1);
    const from = Math.max(0, lastUpTo(m.time, s.view.a)), to = m.time.length;
    ctx.beginPath();
    ctx.moveTo(px(m.time[from]), base);
    let column = -1, top = base;
    for (let i = from; i < to && m.time[i] <= s.view.b; i++) {
      const x = px(m.time[i]), end = px(i + 1 < to ? m.time[i + 1] : t.span);
      if (Math.floor(x) !== column) top = base;
      [column, top] = [Math.floor(x), Math.min(top, y(m.bytes[i]))]; // a pixel shows its maximum
      ctx.lineTo(x, top);
      ctx.lineTo(Math.max(end, x + 0.5), Math.floor(end) === column ? top : y(m.bytes[i]));
    }
    ctx.lineTo(Math.min(px(t.span), box.left + box.plot + 2), base);
    ctx.fillStyle = T.memory;
    ctx.fill();
    if (row.memoryH < 6) return;
    ctx.fillStyle = T.muted;
    ctx.fillRect(box.left, Math.round(y(m.peak)), box.plot, 1);
  });
}

function paintRows(s) {
  const { t, box, X0, view } = s;
  const dense = [];
  let visible = 0;
  const parts = t.segs.map((seg) => {
    const from = Math.max(seg.from, lastUpTo(X0, view.a, seg.from, seg.to));
    const to = lastUpTo(X0, view.b, seg.from, seg.to) + 1;
    visible += Math.max(0, to - from);
    return { seg, from, to };
  });
  const most = box.plot / (visible > 20000 ? 8 : 3);
  for (const part of parts) {
    const row = box.rows[part.seg.rank];
    if (!row) continue;
    const y = part.seg.lane ? row.lanes[part.seg.lane - 1] : row.cellY;
    const h = part.seg.lane ? row.laneH : row.cellH;
    if (part.to - part.from > most) dense.push({ ...part, y, h });
    else for (let i = part.from; i < part.to; i++) paintCell(s, i, y, h);
  }
  if (dense.length) paintDense(s, dense);
}

function looks(s, i) {
  const look = s.T.phases[s.t.ops[s.t.op[i]].phase];
  if (!s.logical) return look;
  const [low, high] = s.T.dark ? LATE_DARK : LATE;
  const fill = mix(high, low, s.late[i]);
  return { ...look, fill, wash: fill, ink: isDark(fill) ? "#ffffff" : "#000000", hatch: "" };
}

function paintCell(s, i, y, h) {
  const { ctx, t, T } = s;
  if (t.ops[t.op[i]].name === "wait") return;
  const x = s.px(s.X0[i]), w = Math.max(0.75, s.px(s.X1[i]) - x);
  const look = looks(s, i), model = t.kind === "modelled" && !s.logical;
  const gap = w > 4 ? 0.5 : 0;
  const round = h >= 16 && w >= 8 ? 2.5 : h >= 6 && w >= 6 ? 1.5 : 0;
  ctx.beginPath();
  ctx.roundRect(x + gap, y, w - 2 * gap, h, round);
  ctx.fillStyle = model ? look.wash : look.fill;
  ctx.fill();
  if (look.hatch === "half") paintHalf(s, x + gap, y, w - 2 * gap, h, model);
  else if (look.hatch && w > 3) {
    ctx.fillStyle = pattern(T, ctx, look.hatch, model ? mix(look.fill, T.page, 0.8) : "rgba(0,0,0,.42)", s.ratio);
    ctx.fill();
  }
  if (w > 3 && h > 3) paintEdge(s, look, x + gap, y, w - 2 * gap, h, round);
  if (w > 9 && h >= 9) paintText(s, i, look, model, x, y, w, h);
}

// The W half of B: what a zero-bubble schedule would cut off and move.
function paintHalf(s, x, y, w, h, model) {
  const { ctx, T } = s, half = T.phases.W;
  ctx.save();
  ctx.clip();
  ctx.fillStyle = model ? half.wash : half.fill;
  ctx.fillRect(x + w / 2, y, w / 2, h);
  if (w > 6) {
    ctx.fillStyle = pattern(T, ctx, "/", model ? mix(half.fill, T.page, 0.8) : "rgba(0,0,0,.42)", s.ratio);
    ctx.fillRect(x + w / 2, y, w / 2, h);
  }
  ctx.restore();
}

// The edge says where a mark comes from: none but a hairline (measured, recorded), a solid line
// (replayed), dashes (modelled), dots (quoted).
function paintEdge(s, look, x, y, w, h, round) {
  const { ctx, T, t } = s;
  const dashed = t.kind === "modelled", dotted = t.kind === "quoted", wide = dashed ? 1.5 : 1;
  ctx.beginPath();
  ctx.roundRect(x + wide / 2, y + wide / 2, w - wide, h - wide, round);
  ctx.lineWidth = wide;
  ctx.strokeStyle = dashed ? mix(look.fill, T.dark ? "#ffffff" : "#000000", 0.8) : t.kind === "replayed" ? T.ink : T.edge;
  if (dashed) ctx.setLineDash([4, 2.5]);
  if (dotted) ctx.setLineDash([1, 2]);
  ctx.stroke();
  if (dashed || dotted) ctx.setLineDash([]);
}

function paintText(s, i, look, model, x, y, w, h) {
  const { ctx, t, T } = s, op = t.ops[t.op[i]];
  const two = look.hatch === "half" ? w / 2 : w; // B writes on its I half
  const mb = t.mb[i] < 0 ? "" : t.mb[i], where = t.names.where[t.where[i]], name = look.letter || op.short;
  const thin = h < 16;
  ctx.font = `${thin ? 8.5 : 11}px ${T.font}`;
  const long = thin ? [name, where] : [name, where, mb === "" ? "" : `mb${mb}`];
  const text = [long.filter(Boolean).join(" "), `${name}${mb}`, name].find((c) => textWidth(ctx, c) <= two - 8);
  if (!text) return;
  ctx.textAlign = "center";
  const middle = y + h / 2 + 0.5, colour = model ? T.ink : look.ink;
  if (look.hatch === "/") { // clear the hatch under the letters
    const room = textWidth(ctx, text) + 5;
    ctx.fillStyle = model ? look.wash : look.fill;
    ctx.fillRect(x + two / 2 - room / 2, y + 4, room, h - 8);
  }
  ctx.fillStyle = colour;
  ctx.fillText(text, x + two / 2, middle);
}

const widths = new Map();
function textWidth(ctx, text) {
  const key = ctx.font + text;
  if (!widths.has(key)) {
    if (widths.size > 5000) widths.clear();
    widths.set(key, ctx.measureText(text).width);
  }
  return widths.get(key);
}

// Rows with spans thinner than pixels: one pixel line each, written at once and then stretched.
function paintDense(s, parts) {
  const { ctx, box, T, t, view } = s;
  const keys = Object.keys(T.phases);
  if (!t.phaseOf) {
    const of = t.ops.map((op) => (op.name === "wait" ? 0 : keys.indexOf(op.phase) + 1));
    t.phaseOf = Uint8Array.from(t.op, (op) => of[op]);
  }
  const model = t.kind === "modelled";
  const rgb = keys.map((key) => channels(model ? T.phases[key].wash : T.phases[key].fill));
  const strip = document.createElement("canvas");
  strip.width = Math.round(box.plot);
  strip.height = parts.length;
  const c = strip.getContext("2d"), image = c.createImageData(strip.width, strip.height);
  const shape = { a: view.a, perPixel: (view.b - view.a) / strip.width, width: strip.width, phases: keys.length };
  parts.forEach(({ from, to }, line) => {
    const columns = pixelColumns(s.X0, s.X1, t.phaseOf, { ...shape, from, to });
    for (let x = 0, at = line * strip.width * 4; x < strip.width; x++, at += 4) {
      if (!columns[x]) continue;
      image.data.set(rgb[columns[x] - 1], at);
      image.data[at + 3] = 255;
    }
  });
  c.putImageData(image, 0, 0);
  ctx.imageSmoothingEnabled = false;
  parts.forEach(({ y, h }, line) => ctx.drawImage(strip, 0, line, strip.width, 1, box.left, y, box.plot, h));
}

function placeOf(s, i) {
  const row = s.box.rows[s.t.rank[i]], lane = s.t.lane[i];
  return lane ? [row.lanes[lane - 1], row.laneH] : [row.cellY, row.cellH];
}

function paintWait(s, w) {
  const { ctx, T } = s, kind = HATCH_OF[w.why];
  const x = Math.max(s.px(w.start), s.box.left - 2), end = Math.min(s.px(w.start + w.length), s.box.left + s.box.plot + 2);
  if (!kind || end - x < 2) return;
  const [y, h] = placeOf(s, w.row);
  ctx.fillStyle = mix(T.ink, T.page, 0.06);
  ctx.fillRect(x, y, end - x, h);
  ctx.fillStyle = pattern(T, ctx, kind, T.hatchInk, s.ratio);
  ctx.fillRect(x, y + 1, end - x, h - 2);
  if (w.why !== "straggler" || end - x < 14 || h < 16) return;
  ctx.fillStyle = T.page;
  ctx.beginPath();
  ctx.arc((x + end) / 2, y + h / 2, 7, 0, 7);
  ctx.fill();
  ctx.fillStyle = T.ink;
  ctx.font = `700 12px ${T.font}`;
  ctx.textAlign = "center";
  ctx.fillText("!", (x + end) / 2, y + h / 2 + 0.5);
}

// The prediction: dashed, unfilled, a little larger than the box it predicts.
function paintModel(s) {
  const { ctx, T, model: m } = s;
  for (const seg of m.segs) {
    const row = s.box.rows[seg.rank];
    if (!row || row.cellH < 8) continue;
    for (let i = seg.from; i < seg.to; i++) {
      const x = s.px(m.start[i] + m.shift), w = s.px(m.done[i] + m.shift) - x;
      if (w < 4 || x + w < s.box.left || x > s.box.left + s.box.plot || m.ops[m.op[i]].name === "wait") continue;
      const y = seg.lane ? row.lanes[seg.lane - 1] : row.cellY, h = seg.lane ? row.laneH : row.cellH;
      for (const [colour, wide, dash] of [[T.page, 3.5, []], [T.ink, 1.5, [5, 3]]]) {
        ctx.setLineDash(dash);
        ctx.lineWidth = wide;
        ctx.strokeStyle = colour;
        ctx.strokeRect(x + 0.75, y - 1.5, w - 1.5, h + 3);
      }
      ctx.setLineDash([]);
    }
  }
}

function paintPath(s) {
  const { ctx, T } = s;
  for (const i of s.path) {
    const [y, h] = placeOf(s, i), x = s.px(s.X0[i]), w = Math.max(1, s.px(s.X1[i]) - x);
    paintCell(s, i, y, h);
    if (w < 3) continue;
    ctx.lineWidth = 2.5;
    ctx.strokeStyle = T.ink;
    ctx.strokeRect(x + 1, y, w - 2, h);
  }
  ctx.beginPath();
  for (const i of s.path) {
    const [y, h] = placeOf(s, i);
    ctx.lineTo(s.px((s.X0[i] + s.X1[i]) / 2), y + h / 2);
  }
  ctx.lineJoin = "round";
  for (const [colour, wide] of [[T.page, 4], [T.ink, 1.5]]) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = wide;
    ctx.stroke();
  }
}

// The ends of one message: a bracket over the group's rows, or an arrow from sender to receiver.
function paintGroup(s, i) {
  const { ctx, T, t } = s;
  const list = t.ends[t.msg[i]].slice().sort((a, b) => t.rank[a] - t.rank[b]);
  ctx.strokeStyle = ctx.fillStyle = T.ink;
  ctx.lineWidth = 1.5;
  for (const j of list) {
    const [y, h] = placeOf(s, j), x = s.px(s.X0[j]);
    ctx.strokeRect(x, y - 0.5, Math.max(2, s.px(s.X1[j]) - x), h + 1);
  }
  if (list.length < 2) return;
  const middle = (j) => placeOf(s, j)[0] + placeOf(s, j)[1] / 2;
  if (isPair(t, i)) {
    const [from, to] = isSend(t, list[0]) ? list : [list[1], list[0]];
    arrow(ctx, s.px(s.X0[from]), middle(from), s.px(s.X1[to]), middle(to));
    return;
  }
  const x = Math.max(s.box.left + 3, Math.min(...list.map((j) => s.px(s.X0[j]))) - 6);
  ctx.beginPath();
  ctx.moveTo(x, middle(list[0]));
  ctx.lineTo(x, middle(list[list.length - 1]));
  for (const j of list) {
    ctx.moveTo(x, middle(j));
    ctx.lineTo(s.px(s.X0[j]), middle(j));
  }
  ctx.stroke();
}

function arrow(ctx, x0, y0, x1, y1) {
  const turn = Math.atan2(y1 - y0, x1 - x0);
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  for (const side of [2.7, -2.7]) ctx.lineTo(x1 + 9 * Math.cos(turn + side), y1 + 9 * Math.sin(turn + side));
  ctx.fill();
}

// ---------------------------------------------------------------- 9 the popover's content

/** What is to be said about a row: {title, lines}; the cause comes first. */
export function about(t, i) {
  const w = t.waitAt.get(i), lines = [];
  if (w) lines.push(w.why === "fill" ? `nothing to do yet: ${waitText(t, w)}` : waitText(t, w));
  if (t.msg[i] >= 0) {
    const ranks = t.ends[t.msg[i]].map((j) => t.rank[j]).sort((a, b) => a - b);
    const axis = t.names.axis[t.axis[i]];
    const who = ranks.length > 8 ? `${ranks.length} ranks` : `ranks ${ranks.join(", ")}`;
    lines.push(`${bytesText(t.bytes[i])}, ${who}${axis ? `, along ${axis}` : ""}`);
  }
  const total = t.done[i] - t.start[i];
  const cpu = t.cpu[i] && Math.abs(t.cpu[i] - total) > total * 0.02 ? `, ${timeText(t.cpu[i])} of it on a core` : "";
  lines.push(`${timeText(t.start[i], t.span)} to ${timeText(t.done[i], t.span)}: ${timeText(total)}${cpu}`);
  if (t.memory[i]) lines.push(`${bytesText(t.memory[i])} live after it`);
  const source = t.names.source[t.source[i]];
  if (source) lines.push(source);
  return { title: `${label(t, i)} on rank ${t.rank[i]}`, lines };
}

/** What every rank does at x, in one sentence; above 8 ranks as counts. */
export function moment(t, X0, X1, x, when) {
  const now = [];
  for (const seg of t.segs) {
    if (seg.lane) continue;
    const i = running(X0, X1, seg, x);
    const waits = i >= 0 && t.ops[t.op[i]].name === "wait";
    now.push([seg.rank, i < 0 ? "idle" : waits && t.waitAt.has(i) ? waitText(t, t.waitAt.get(i)) : label(t, i)]);
  }
  if (now.length <= 8) return `${when}: ${now.map(([r, what]) => `rank ${r} ${what}`).join(", ")}.`;
  const counts = new Map();
  for (const [, what] of now) counts.set(what.split(" ")[0], (counts.get(what.split(" ")[0]) || 0) + 1);
  return `${when}: ${[...counts].sort((a, b) => b[1] - a[1]).map(([w, n]) => `${n} ranks ${w}`).join(", ")}.`;
}

/** The layer in Chrome's trace format, which Perfetto opens. */
export function chromeTrace(t) {
  const traceEvents = [];
  for (const seg of t.segs)
    traceEvents.push({ ph: "M", name: "thread_name", pid: seg.rank, tid: seg.lane, args: { name: t.lanes[seg.lane] } });
  for (let i = 0; i < t.n; i++)
    traceEvents.push({ ph: "X", name: label(t, i), pid: t.rank[i], tid: t.lane[i], ts: t.start[i] / 1e3,
      dur: (t.done[i] - t.start[i]) / 1e3,
      args: { step: t.step[i], bytes: t.bytes[i], memory: t.memory[i], axis: t.names.axis[t.axis[i]] } });
  return { traceEvents, displayTimeUnit: "ms", otherData: { provenance: t.badge } };
}
