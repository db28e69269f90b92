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
  if (size < 1e3) return [1, "ns"];
  if (size < 1e6) return [1e3, "µs"];
  return size < 1e9 ? [1e6, "ms"] : [1e9, "s"];
}

/** 3100000 -> "3.10 ms"; the unit fits `scale`. */
export function timeText(ns, scale = ns) {
  const [per, unit] = unitOf(scale);
  return `${three(ns / per)} ${unit}`;
}

// 2.5, "beat" -> "2.5 beats"
function counted(number, noun) {
  const text = String(+(Math.floor(number * 100 + 0.5) / 100).toPrecision(6));
  return `${text} ${text === "1" ? noun : noun.endsWith("ch") ? `${noun}es` : `${noun}s`}`;
}

/** A time of trace t: in beats where its seconds are beats, else in the unit that fits `scale`. */
export function spanText(t, ns, scale = ns) {
  return t.beat ? counted(ns / t.beat, "beat") : timeText(ns, scale);
}

/** What rank r holds: "4 microbatches in flight" where the trace counts those, else "3 MiB live". */
export function heldText(t, count, r) {
  const { share } = deckOf(t, r);
  return share ? `${counted(count * share, "microbatch")} in flight` : `${bytesText(count)} live`;
}

/** The rank as its reader knows it: in a race "ZB-H1 rank 2". */
export function rankText(t, r) {
  const deck = deckOf(t, r);
  return deck.name ? `${deck.name} rank ${r - deck.first}` : `rank ${r}`;
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
  const least = w.length * 0.02, whole = spanText(t, w.length), parts = [];
  if (w.late > least) parts.push([w.late, lateText(t, w)]);
  if (w.queue > least) parts.push([w.queue, "queued behind other messages"]);
  if (w.wire > least) parts.push([w.wire, "on the wire"]);
  if (parts.length === 1 && w.late > least) return `waits ${whole} ${parts[0][1]}`;
  if (parts.length === 1) return `waits ${whole} for ${label(t, w.message)}, ${parts[0][1]}`;
  const list = parts.map(([ns, what]) => `${spanText(t, ns)} ${what}`).join("; ");
  return `waits ${whole} for ${label(t, w.message)}: ${list}`;
}

function lateText(t, w) {
  const who = `for ${rankText(t, t.rank[w.culprit])}`;
  if (w.root >= 0)
    return `${who}, which was waiting itself, in the end for ${rankText(t, t.rank[w.root])}, which was in ${doingText(t, w, w.root)}`;
  if (w.doing === -2) return `${who}, which was between two ops`;
  if (w.doing < 0) return who;
  if (t.ops[t.op[w.doing]].name === "wait") return `${who}, which was waiting itself`;
  return `${who}, which was in ${doingText(t, w, w.doing)}`;
}

// What the late rank ran, and why that took so long.
function doingText(t, w, i) {
  const notes = w.slow ? [`${w.slow.toFixed(1)} times its median`] : [];
  const share = t.cpu[i] / Math.max(1, t.done[i] - t.start[i]);
  if (share > 0 && share < 0.7) notes.push(`on a core for ${Math.floor(100 * share)} % of it`);
  return label(t, i) + (notes.length ? ` (${notes.join(", ")})` : "");
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
    decks: decksOf(layer), slots: layer.slots || layer.lanes.map((_, k) => k), ports: new Set(layer.ports),
    ops: layer.ops.map(([name, phase, short]) => ({ name, phase, short })) };
  for (const key of ["op", "where", "axis", "peers", "source"]) t[key] = column(c[key], n, Uint16Array);
  t.beat = t.decks[0].beat;
  t.deckAt = t.decks.flatMap((deck) => new Array(deck.ranks).fill(deck));
  t.mb = column(c.mb, n, Int32Array);
  t.chunk = column(c.chunk ?? -1, n, Int8Array);
  t.way = column(c.way ?? -1, n, Int8Array);
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
  t.begin = begins(t);
  t.memoryOf = memoryTracks(t, layer.world_size);
  t.busy = busyShares(t, layer.world_size);
  return t;
}

// The traces stacked in a layer, and their first rows; one where there is no race.
function decksOf(layer) {
  const only = { name: "", ranks: layer.world_size, kind: layer.kind, badge: layer.badge, span: layer.span, chunks: 0, ways: 1, ramps: [], bubble: "", beat: 0, share: 0 };
  let first = 0;
  return (layer.decks || [only]).map((deck) => ({ ...deck, first, end: (first += deck.ranks) }));
}

const deckOf = (t, rank) => t.deckAt[rank] || t.decks[0];

// Where the mark of a row begins: of a message through a port, when its last end was posted;
// of another message, when its wait is over; of all else, when it starts.
function begins(t) {
  const posted = t.ends.map((list) => list && list.reduce((last, i) => Math.max(last, t.post[i]), 0));
  return t.start.map((start, i) => {
    if (t.msg[i] < 0) return start;
    if (t.ports.has(t.slots[t.lane[i]])) return Math.min(t.done[i], Math.max(start, posted[t.msg[i]]));
    const w = t.waitAt.get(i);
    return w ? w.start + w.length : start;
  });
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

// Per rank the moments at which its memory changes, and what it is from then on. Where microbatches
// are counted, the tasks alone tell, and nothing is held before the first of them.
function memoryTracks(t, ranks) {
  const rows = Array.from({ length: ranks }, () => []);
  for (let i = 0; i < t.n; i++)
    if (deckOf(t, t.rank[i]).share ? t.lane[i] === 0 : t.memory[i] > 0) rows[t.rank[i]].push(i);
  return rows.map((list, rank) => {
    list.sort((a, b) => t.done[a] - t.done[b]);
    const bytes = Float64Array.from(list, (i) => t.memory[i]), counts = deckOf(t, rank).share > 0;
    return { time: Float64Array.from(list, (i) => t.done[i]), bytes, end: deckOf(t, rank).span,
      floor: counts ? 0 : bytes.reduce((a, b) => Math.min(a, b), Infinity),
      peak: bytes.reduce((a, b) => Math.max(a, b), 0) };
  });
}

function busyShares(t, ranks) {
  const out = new Float64Array(ranks);
  for (let i = 0; i < t.n; i++)
    if (t.lane[i] === 0 && t.msg[i] < 0 && t.ops[t.op[i]].name !== "wait")
      out[t.rank[i]] += (t.done[i] - t.start[i]) / Math.max(1, deckOf(t, t.rank[i]).span);
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
    ({ x: w.start, row: w.row, wait: w, text: `${rankText(t, t.rank[w.row])} ${waitText(t, w)}` }));
  let peak = -1;
  for (let i = 0; i < t.n; i++) if (t.memory[i] > 0 && !(peak >= 0 && t.memory[i] <= t.memory[peak])) peak = i;
  if (peak >= 0)
    out.push({ x: t.start[peak], row: peak,
      text: `memory peaks at ${heldText(t, t.memory[peak], t.rank[peak])} on ${rankText(t, t.rank[peak])}, in ${label(t, peak)}` });
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
    latest thing that had to be there. In a race each deck has its own. */
export function criticalPath(t, deck = t.decks[0]) {
  let i = -1;
  for (let k = 0; k < t.n; k++)
    if (t.rank[k] >= deck.first && t.rank[k] < deck.end && (i < 0 || t.done[k] > t.done[i])) i = k;
  const seen = new Uint8Array(t.n), path = [];
  while (i >= 0 && !seen[i]) {
    path.push(i);
    seen[i] = 1;
    if (t.msg[i] >= 0) {
      const last = lastPosted(t, t.msg[i]);
      if (t.post[last] > t.start[i] && t.done[i] >= t.post[last] && !seen[last]) {
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

/** Where everything stands, in CSS pixels. `thin` is the number of lanes beside compute, `ports`
    whether two of them are those of a pipeline, `heads` the ranks above which a heading stands. */
export function layout({ width, ranks, thin = 1, memory = true, most = 900, ports = false, heads = [], ramps = false }) {
  const narrow = width < 560;
  const full = { memory: memory ? 18 : 0, gap: memory ? 3 : 0, cell: 28, lane: ports ? 6 : 11, between: 14 };
  const height = (s) => s.memory + s.gap + s.cell + thin * (s.lane + 2) + s.between;
  const shrink = Math.min(1, most / (ranks * height(full)));
  const s = {};
  for (const key in full) s[key] = full[key] && Math.max(key === "cell" ? 3 : 1, Math.floor(full[key] * shrink));
  const pitch = height(s) - (shrink < 0.5 ? thin : 0), apart = shrink < 0.5 ? 1 : 2;
  const left = narrow ? 34 : 84, right = narrow ? 8 : 16, top = ramps && !heads.length ? 42 : 30, HEAD = ramps ? 40 : 28;
  let down = 0;
  const rows = Array.from({ length: ranks }, (_, rank) => {
    if (heads.includes(rank)) down += HEAD;
    const y = top + down + rank * pitch, cellY = y + s.memory + s.gap;
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
  for (let k = Math.ceil(a / step - 1e-9); k * step <= b + step * 1e-9; k++) out.push(k * step + 0); // + 0: never -0
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

function theme(root, palette, paper = false) {
  const style = getComputedStyle(root);
  const page = hexOf(style.backgroundColor), ink = hexOf(style.color), dark = isDark(page);
  const phases = {};
  const colours = paper ? { ...palette.phases, ...palette.paper } : palette.phases;
  for (const [key, s] of Object.entries(colours)) {
    const fill = dark ? s.dark : s.light;
    phases[key] = { key, fill, ink: dark ? s.dark_ink : s.light_ink, letter: s.letter, hatch: s.hatch,
      meaning: s.meaning, wash: mix(fill, page, dark ? 0.34 : 0.26), dense: mix(fill, page, 0.55) };
  }
  return { page, ink, dark, phases, font: style.fontFamily, muted: mix(ink, page, 0.62),
    line: mix(ink, page, 0.1), track: mix(ink, page, 0.045), hatchInk: mix(ink, page, 0.5),
    memory: mix(ink, page, 0.2), edge: "rgba(0,0,0,.55)", patterns: new Map(), tones: new Map() };
}

const STROKES = { // on a tile of 6 x 6
  "/": (c) => (c.moveTo(-1, 7), c.lineTo(7, -1), c.moveTo(-1, 1), c.lineTo(1, -1), c.moveTo(5, 7), c.lineTo(7, 5)),
  "\\": (c) => (c.moveTo(-1, -1), c.lineTo(7, 7), c.moveTo(5, -1), c.lineTo(7, 1), c.moveTo(-1, 5), c.lineTo(1, 7)),
  "|": (c) => (c.moveTo(3, 0), c.lineTo(3, 6)),
  "-": (c) => (c.moveTo(0, 3), c.lineTo(6, 3)),
  x: (c) => (STROKES["/"](c), STROKES["\\"](c)),
  ".": (c) => (c.rect(1, 1, 0.6, 0.6), c.rect(4, 4, 0.6, 0.6)),
};
export const HATCH_OF = { "late peer": "\\", "late sender": "\\", "late receiver": "/", "link busy": ".", "on the wire": "-", straggler: "\\", fill: "" };

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

/** Paints all rows of a scene: {ctx, t, X0, X1, B0, view, box, T, ratio, logical, late, paths, model, cap}. */
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
  if (!s.logical) {
    for (const deck of s.t.decks) paintRamps(s, deck);
    paintMemory(s);
  }
  ctx.globalAlpha = s.paths ? 0.35 : 1;
  paintRows(s);
  if (!s.logical) for (const w of s.t.waits) paintWait(s, w);
  ctx.globalAlpha = 1;
  if (s.model) paintModel(s);
  if (s.paths) for (const path of s.paths) paintPath(s, path);
  ctx.restore();
  if (s.t.decks.length > 1) for (const deck of s.t.decks) paintHead(s, deck);
}

function paintAxis(s) {
  const { ctx, box, T, view } = s;
  const [per, unit] = s.logical ? [1, "step"] : s.t.beat ? [s.t.beat, "beats"] : unitOf(s.t.span);
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
  ctx.textAlign = "right";
  ctx.fillText(unit, Math.max(box.left - (box.narrow ? 6 : 12), textWidth(ctx, unit)), box.bottom + 12);
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
    ctx.fillText(`${box.narrow ? "r" : "rank "}${rank - deckOf(t, rank).first}`, box.left - 12, middle - (tall ? 7 : 0));
    if (!tall) return;
    ctx.fillStyle = T.muted;
    ctx.font = `11px ${T.font}`;
    ctx.fillText(`${Math.round(100 * t.busy[rank])} % busy`, box.left - 12, middle + 8);
  });
}

// The strip's height is what is live above the least the rank ever holds; its cap is the maximum.
function paintMemory(s) {
  const { ctx, box, T, t, px } = s;
  const capOf = (rank) => s.cap / (deckOf(t, rank).share || 1); // in what the trace counts
  const scale = Math.max(1, ...t.memoryOf.map((m, rank) => (m.time.length ? Math.max(m.peak, s.cap ? capOf(rank) : 0) - m.floor : 0)));
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
      const x = px(m.time[i]), end = px(i + 1 < to ? m.time[i + 1] : m.end);
      if (Math.floor(x) !== column) top = base;
      [column, top] = [Math.floor(x), Math.min(top, y(m.bytes[i]))]; // a pixel shows its maximum
      ctx.lineTo(x, top);
      if (Math.floor(end) === column) continue;
      ctx.lineTo(x + 0.5, y(m.bytes[i]));
      ctx.lineTo(end, y(m.bytes[i]));
    }
    ctx.lineTo(Math.min(px(m.end), box.left + box.plot + 2), base);
    ctx.fillStyle = T.memory;
    ctx.fill();
    if (row.memoryH < 6) return;
    const cap = Math.round(y(capOf(rank)));
    if (s.cap && m.peak > capOf(rank)) { // what is over the cap, black
      ctx.save();
      ctx.clip();
      ctx.fillStyle = T.ink;
      ctx.fillRect(box.left, row.memoryY, box.plot, cap - row.memoryY);
      ctx.restore();
    }
    ctx.fillStyle = T.hatchInk;
    if (m.peak !== capOf(rank)) ctx.fillRect(box.left, Math.round(y(m.peak)), box.plot, 1);
    ctx.fillStyle = T.ink;
    if (s.cap) for (let x = box.left; x < box.left + box.plot; x += 8) ctx.fillRect(x, cap, 5, 1);
  });
}

// Warm-up, steady and drain: the ramps under a light shade, a bracket over all three.
function paintRamps(s, deck) {
  const { ctx, box, T, t } = s, top = box.rows[deck.first], last = box.rows[deck.end - 1];
  if (!top) return;
  for (const [begin, steady, drain, end] of deck.ramps) {
    if (drain <= steady) continue;
    const y = top.y - 5;
    ctx.globalAlpha = 0.055;
    ctx.fillStyle = T.ink;
    for (const [a, b] of [[begin, steady], [drain, end]]) ctx.fillRect(s.px(a), y, s.px(b) - s.px(a), last.bottom - y);
    ctx.globalAlpha = 1;
    ctx.fillStyle = T.muted;
    ctx.textAlign = "center";
    ctx.font = `11px ${T.font}`;
    for (const [names, a, b] of [[["warm-up"], begin, steady], [[`steady (${deck.bubble})`, deck.bubble, "steady"], steady, drain], [["drain"], drain, end]]) {
      const x = s.px(a), wide = s.px(b) - x, text = names.find((name) => name && name !== "steady ()" && textWidth(ctx, name) < wide - 4);
      ctx.fillRect(x + 1, y, Math.max(1, wide - 2), 1);
      for (const end of [x + 1, x + wide - 2]) ctx.fillRect(end, y, 1, 4);
      if (text) ctx.fillText(text, x + wide / 2, y - 8);
    }
  }
}

// In a race: whose rows these are, and a flag where they end; the first one's is filled.
function paintHead(s, deck) {
  const { ctx, box, T, t } = s, row = box.rows[deck.first], best = Math.min(...t.decks.map((d) => d.span));
  if (!row) return;
  const y = row.y - (deck.ramps.length ? 31 : 14), first = deck.span === best;
  ctx.font = `600 13px ${T.font}`;
  ctx.fillStyle = T.ink;
  ctx.textAlign = "left";
  ctx.fillText(deck.name, box.narrow ? 6 : 12, y);
  if (s.logical) return;
  const x = s.px(deck.span), foot = box.rows[deck.end - 1].bottom;
  if (x < box.left || x > box.left + box.plot + 2) return;
  ctx.fillRect(Math.round(x) - 1, y - 8, 1.5, foot - y + 8);
  ctx.beginPath();
  ctx.moveTo(x, y - 8);
  ctx.lineTo(x - 13, y - 3.5);
  ctx.lineTo(x, y + 1);
  ctx.closePath();
  ctx.lineWidth = 1.2;
  ctx.strokeStyle = T.ink;
  if (first) ctx.fill();
  else ctx.stroke();
  ctx.font = `${first ? 600 : 400} 12px ${T.font}`;
  ctx.textAlign = "right";
  const late = first ? "" : `, ${spanText(t, deck.span - best, t.span)} later`;
  ctx.fillText(`${spanText(t, deck.span, t.span)}${first ? ", first" : late}`, x - 18, y - 2);
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
  const most = box.plot / (visible > 4000 ? 10 : 3);
  for (const part of parts) {
    const row = box.rows[part.seg.rank];
    if (!row) continue;
    const [y, h] = placeIn(s, row, t.slots[part.seg.lane]);
    if (part.to - part.from > most) dense.push({ ...part, y, h });
    else for (let i = part.from; i < part.to; i++) paintCell(s, i, y, h);
  }
  if (dense.length) paintDense(s, dense);
}

function looks(s, i) {
  const { t, T } = s, phase = t.ops[t.op[i]].phase, look = T.phases[phase];
  if (!s.logical) return tinted(T, phase, toneOf(t, i));
  const [low, high] = s.T.dark ? LATE_DARK : LATE;
  const fill = mix(high, low, s.late[i]);
  return { ...look, fill, wash: fill, ink: isDark(fill) ? "#ffffff" : "#000000", hatch: "" };
}

const LIGHTEN = 0.4; // how much white the last of a rank's chunks gets, or the second way

// How light a task is: by which of its rank's stages it runs, or by its way where there are two.
function toneOf(t, i) {
  if (t.chunk[i] < 0) return 0;
  const deck = deckOf(t, t.rank[i]);
  return LIGHTEN * (deck.ways > 1 ? t.way[i] : t.chunk[i] / Math.max(1, deck.chunks - 1));
}

// A phase's look with some white in it; a modelled cell, which is pale, is paler by as much.
function tinted(T, phase, tone) {
  const look = T.phases[phase];
  if (!tone) return look;
  const key = phase + tone;
  if (!T.tones.has(key)) {
    const fill = mix("#ffffff", look.fill, tone);
    T.tones.set(key, { ...look, fill, ink: isDark(fill) ? "#ffffff" : "#000000", wash: mix(look.wash, T.page, 1 - 1.4 * tone), tone });
  }
  return T.tones.get(key);
}

function paintCell(s, i, y, h) {
  const { ctx, t, T } = s, deck = deckOf(t, t.rank[i]), port = t.ports.has(t.slots[t.lane[i]]);
  if (t.ops[t.op[i]].name === "wait" && !s.logical) return;
  const x = s.px(s.B0[i]), w = Math.max(0.75, s.px(s.X1[i]) - x);
  if (port && w < 8 && h >= 4) return paintArrow(s, i, x + w / 2, y, h, T.phases.P2P.fill);
  if (deck.chunks && t.ops[t.op[i]].phase === "other" && !port) [y, h] = [y + h / 2, h / 2]; // beside the schedule, not of it
  if (t.ops[t.op[i]].name === "wait") { // among dependency steps a wait is a place, not a time
    ctx.fillStyle = pattern(T, ctx, "\\", T.hatchInk, s.ratio);
    return ctx.fillRect(x + 2, y + 2, w - 4, h - 4);
  }
  const look = looks(s, i), model = deck.kind === "modelled" && !s.logical;
  const gap = w > 4 ? 0.5 : 0;
  const round = h >= 16 && w >= 8 ? 2.5 : h >= 6 && w >= 6 ? 1.5 : 0;
  ctx.beginPath();
  ctx.roundRect(x + gap, y, w - 2 * gap, h, round);
  ctx.fillStyle = model ? (port ? look.dense : look.wash) : look.fill;
  ctx.fill();
  if (port && h >= 4) return paintArrow(s, i, x + w / 2, y, h, isDark(T.page) ? "#000000" : T.ink);
  if (look.hatch === "half") paintHalf(s, look, x + gap, y, w - 2 * gap, h, model);
  else if (look.hatch && w > 3) {
    ctx.fillStyle = pattern(T, ctx, look.hatch, model ? mix(look.fill, T.page, 0.8) : "rgba(0,0,0,.42)", s.ratio);
    ctx.fill();
  }
  if (w > 3 && h > 3) paintEdge(s, look, deck.kind, x + gap, y, w - 2 * gap, h, round);
  if (w > 9 && h >= 9) paintText(s, i, look, model, x, y, w, h);
}

// A message through a port points at the row of its other end.
function paintArrow(s, i, x, y, h, colour) {
  const { ctx, t } = s, [from, to] = t.names.peers[t.peers[i]] || [0, 0], up = to < from;
  ctx.beginPath();
  ctx.moveTo(x - 3, up ? y + h - 1 : y + 1);
  ctx.lineTo(x + 3, up ? y + h - 1 : y + 1);
  ctx.lineTo(x, up ? y + 0.5 : y + h - 0.5);
  ctx.fillStyle = colour;
  ctx.fill();
}

// The W half of B: what a zero-bubble schedule would cut off and move.
function paintHalf(s, look, x, y, w, h, model) {
  const { ctx, T } = s, half = tinted(T, "W", look.tone || 0);
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
function paintEdge(s, look, kind, x, y, w, h, round) {
  const { ctx, T } = s;
  const dashed = kind === "modelled", dotted = kind === "quoted", wide = dashed && w > 14 ? 1.5 : 1;
  ctx.beginPath();
  ctx.roundRect(x + wide / 2, y + wide / 2, w - wide, h - wide, round);
  ctx.lineWidth = wide;
  ctx.strokeStyle = dashed ? mix(look.fill, T.dark ? "#ffffff" : "#000000", 0.8) : kind === "replayed" ? T.ink : T.edge;
  if (dashed) ctx.setLineDash([4, 2.5]);
  if (dotted) ctx.setLineDash([1, 2]);
  ctx.stroke();
  if (dashed || dotted) ctx.setLineDash([]);
}

function paintText(s, i, look, model, x, y, w, h) {
  const { ctx, t, T } = s, op = t.ops[t.op[i]], deck = deckOf(t, t.rank[i]);
  const task = t.chunk[i] >= 0, thin = h < 16;
  const two = look.hatch === "half" ? w / 2 : w; // B writes on its I half
  const mb = t.mb[i] < 0 ? "" : t.mb[i], where = t.names.where[t.where[i]], name = look.letter || op.short;
  ctx.font = `${thin ? 8.5 : 11}px ${T.font}`;
  const long = (thin ? [name, where] : [name, where, mb === "" ? "" : `mb${mb}`]).filter(Boolean).join(" ");
  const fits = (c, pad) => textWidth(ctx, c) <= two - pad;
  let text = task ? fits(`${name}${mb}`, 3) && `${name}${mb}` : [long, `${name}${mb}`, name].find((c) => fits(c, 8));
  if (task && !text) { // a narrow screen: smaller, then the number alone
    ctx.font = `9px ${T.font}`;
    text = [`${name}${mb}`, `${mb}`].find((c) => fits(c, 1.5));
  }
  if (!text) return;
  ctx.textAlign = "center";
  const cornered = task && deck.chunks > 1 && !thin && two >= 12; // the letters make way for the mark
  const middle = y + h / 2 + (cornered ? 3.5 : 0.5), colour = model ? T.ink : look.ink, room = textWidth(ctx, text);
  if (look.hatch === "/") { // clear the hatch under the letters
    ctx.fillStyle = model ? look.wash : look.fill;
    ctx.fillRect(x + two / 2 - room / 2 - 2.5, y + 4, room + 5, h - 8);
  }
  ctx.fillStyle = colour;
  ctx.fillText(text, x + two / 2, middle);
  if (thin || text === long) return;
  if (cornered && deck.ways > 1) return paintWay(s, t.way[i], x + two - 6, y + 3.5);
  // which of its rank's stages, or the layer, small in the corner
  const mark = task ? (cornered ? String(t.chunk[i]) : "") : (/\d+$/.exec(where) || [""])[0];
  if (!mark || (!task && two < room + 14 + 12 * mark.length)) return;
  ctx.font = `8.5px ${T.font}`;
  ctx.textAlign = "right";
  ctx.fillText(mark, x + two - (task ? 3 : 4), y + (task ? 7 : 8));
}

// From which end a microbatch came: down from the first rank, up from the last.
function paintWay({ ctx }, way, x, y) {
  const [base, tip] = way ? [y + 4, y] : [y, y + 4];
  ctx.beginPath();
  ctx.moveTo(x - 2.5, base);
  ctx.lineTo(x + 2.5, base);
  ctx.lineTo(x, tip);
  ctx.fill();
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
  const rgbOf = (model) => keys.map((key) => channels(model ? T.phases[key].dense : T.phases[key].fill));
  const inks = { true: rgbOf(true), false: rgbOf(false) };
  const strip = document.createElement("canvas");
  strip.width = Math.round(box.plot);
  strip.height = parts.length;
  const c = strip.getContext("2d"), image = c.createImageData(strip.width, strip.height);
  const shape = { a: view.a, perPixel: (view.b - view.a) / strip.width, width: strip.width, phases: keys.length };
  parts.forEach(({ from, to, seg }, line) => {
    const starts = t.ports.has(t.slots[seg.lane]) ? s.B0 : s.X0, rgb = inks[deckOf(t, seg.rank).kind === "modelled"];
    const columns = pixelColumns(starts, s.X1, t.phaseOf, { ...shape, from, to });
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

/** The top and the height of a line of a row: 0 is compute. */
const placeIn = (s, row, slot) => (slot ? [row.lanes[slot - 1], row.laneH] : [row.cellY, row.cellH]);
const placeOf = (s, i) => placeIn(s, s.box.rows[s.t.rank[i]], s.t.slots[s.t.lane[i]]);

function paintWait(s, w) {
  const { ctx, T } = s, kind = HATCH_OF[w.why];
  const x = Math.max(s.px(w.start), s.box.left - 2), end = Math.min(s.px(w.start + w.length), s.box.left + s.box.plot + 2);
  if (!kind || end - x < 2 || s.t.ports.has(s.t.slots[s.t.lane[w.row]])) return; // in a port only wires stand
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
      const x = s.px(m.begin[i] + m.shift), w = s.px(m.done[i] + m.shift) - x;
      if (w < 8 || x + w < s.box.left || x > s.box.left + s.box.plot || m.ops[m.op[i]].name === "wait") continue;
      const slot = s.t.slots[s.t.lanes.indexOf(m.lanes[seg.lane])];
      if (slot === undefined) continue; // the run has no such lane
      const [y, h] = placeIn(s, row, slot);
      for (const [colour, wide, dash] of [[T.page, 2.5, []], [T.ink, 1.5, [5, 3]]]) {
        ctx.globalAlpha = colour === T.page ? 0.6 : 1;
        ctx.setLineDash(dash);
        ctx.lineWidth = wide;
        ctx.strokeStyle = colour;
        ctx.strokeRect(x + 0.75, y - 1.5, w - 1.5, h + 3);
      }
      ctx.setLineDash([]);
    }
  }
}

function paintPath(s, path) {
  const { ctx, T } = s;
  for (const i of path) {
    const [y, h] = placeOf(s, i), x = s.px(s.B0[i]), w = Math.max(1, s.px(s.X1[i]) - x);
    paintCell(s, i, y, h);
    if (w < 3) continue;
    ctx.lineWidth = 2.5;
    ctx.strokeStyle = T.ink;
    ctx.strokeRect(x + 1, y, w - 2, h);
  }
  ctx.beginPath();
  let last = -Infinity;
  for (const i of path) { // along the foot of the cells, clear of their letters
    const [y, h] = placeOf(s, i), foot = h > 12 ? y + h - 5 : y + h / 2;
    ctx.lineTo(s.px(Math.min(s.X1[i], Math.max(s.X0[i], last))), foot);
    ctx.lineTo(s.px(s.X1[i]), foot);
    last = s.X1[i];
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
    const [y, h] = placeOf(s, j), x = s.px(s.B0[j]);
    if (s.px(s.X1[j]) - x > 3) ctx.strokeRect(x, y - 0.5, s.px(s.X1[j]) - x, h + 1);
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
    const deck = deckOf(t, t.rank[i]), ranks = t.ends[t.msg[i]].map((j) => t.rank[j] - deck.first).sort((a, b) => a - b);
    const axis = t.names.axis[t.axis[i]], [from, to] = (t.names.peers[t.peers[i]] || []).map((r) => r - deck.first);
    const who = isPair(t, i) ? `rank ${from} to rank ${to}` : ranks.length > 8 ? `${ranks.length} ranks` : `ranks ${ranks.join(", ")}`;
    lines.push(`${deck.share && !t.bytes[i] ? "" : `${bytesText(t.bytes[i])}, `}${who}${axis ? `, along ${axis}` : ""}`);
  }
  const total = t.done[i] - t.begin[i];
  const cpu = t.cpu[i] && !t.beat && Math.abs(t.cpu[i] - total) > total * 0.02 ? `, ${timeText(t.cpu[i])} of it on a core` : "";
  lines.push(`${spanText(t, t.begin[i], t.span)} to ${spanText(t, t.done[i], t.span)}: ${spanText(t, total)}${cpu}`);
  if (t.memory[i] && !(t.lane[i] && deckOf(t, t.rank[i]).share)) lines.push(`${heldText(t, t.memory[i], t.rank[i])} after it`);
  const source = t.names.source[t.source[i]];
  if (source) lines.push(source);
  return { title: `${label(t, i)} on ${rankText(t, t.rank[i])}`, lines };
}

/** What every rank does at x, in one sentence; above 8 ranks as counts. */
export function moment(t, X0, X1, x, when) {
  const now = [];
  for (const seg of t.segs) {
    if (seg.lane) continue;
    const i = running(X0, X1, seg, x);
    const waits = i >= 0 && t.ops[t.op[i]].name === "wait";
    const before = lastUpTo(X0, x, seg.from, seg.to);
    const still = before >= seg.from && before + 1 < seg.to ? "between two ops" : "idle";
    now.push([seg.rank, i < 0 ? still : waits && t.waitAt.has(i) ? waitText(t, t.waitAt.get(i)) : label(t, i)]);
  }
  if (now.length <= 8) return `${when}: ${now.map(([r, what]) => `${rankText(t, r)} ${what}`).join(", ")}.`;
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

// ---------------------------------------------------------------- 10 markup, style

const ICONS = {
  play: "<path d='M4.5 2.8v10.4l8.6-5.2z' fill='currentColor' stroke='none'/>",
  pause: "<path d='M4.5 3v10M11.5 3v10' stroke-width='2.6'/>",
  back: "<path d='M11.5 3.2v9.6L5 8zM3.6 3.2v9.6'/>",
  next: "<path d='M4.5 3.2v9.6L11 8zM12.4 3.2v9.6'/>",
  out: "<path d='M3 8h10'/>",
  in: "<path d='M3 8h10M8 3v10'/>",
  fit: "<path d='M5.5 5 2.5 8l3 3M10.5 5l3 3-3 3M2.5 8h11'/>",
  save: "<path d='M8 2.5v7.5m0 0 3-3m-3 3-3-3M3 13.2h10'/>",
};

const STYLE = `
.sl{--page:var(--st-background-color,#fff);--ink:var(--st-text-color,#16202c);--soft:color-mix(in srgb,var(--ink) 62%,var(--page));
--line:color-mix(in srgb,var(--ink) 14%,var(--page));--fill:color-mix(in srgb,var(--ink) 6%,var(--page));
container-type:inline-size;box-sizing:border-box;position:relative;padding:8px;color:var(--ink);background:var(--page);transition:color 1ms;
font:13px/1.45 var(--st-font,ui-sans-serif,system-ui,-apple-system,"Segoe UI",sans-serif);font-variant-numeric:tabular-nums;outline:none}
@media (prefers-color-scheme:dark){.sl{--page:var(--st-background-color,#12161c);--ink:var(--st-text-color,#e6eaf0)}}
.sl *{box-sizing:border-box}
.sl:focus-visible{box-shadow:inset 0 0 0 2px var(--ring,#4b74ce);border-radius:8px}
.sl button:focus-visible,.sl select:focus-visible,.sl input:focus-visible,.sl summary:focus-visible{outline:2px solid var(--ring,#4b74ce);outline-offset:2px}
.sl .top,.sl .bar,.sl .foot{display:flex;flex-wrap:wrap;align-items:center;gap:8px 12px}
.sl .top{justify-content:space-between;margin-bottom:6px}
.sl .title{font-size:15px;font-weight:600;letter-spacing:-.005em;margin-right:auto}
.sl .title small{font-weight:400;color:var(--soft);font-size:13px;margin-left:8px}
.sl button,.sl select{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);border-radius:6px;height:30px;padding:0 10px;cursor:pointer;white-space:nowrap}
.sl button:hover,.sl select:hover{background:var(--fill)}
.sl button[aria-pressed=true]{background:var(--ink);color:var(--page);border-color:var(--ink)}
.sl .icon{width:32px;padding:0;display:inline-grid;place-items:center}
.sl .go{background:var(--ink);color:var(--page);border-color:var(--ink);width:40px}
.sl .go:hover{background:var(--ink);opacity:.85}
.sl svg.i{width:16px;height:16px;fill:none;stroke:currentColor;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round;display:block}
.sl .set{display:inline-flex}.sl .set button{border-radius:0;margin-left:-1px}
.sl .set button:first-child{border-radius:6px 0 0 6px;margin-left:0}.sl .set button:last-child{border-radius:0 6px 6px 0}
.sl .stage{position:relative;line-height:0;overflow:hidden}
.sl canvas{display:block;width:100%;touch-action:pan-y;cursor:crosshair}
.sl input[type=range]{flex:1 1 140px;min-width:110px;height:30px;margin:0;accent-color:var(--ink);background:none}
.sl .now{min-width:126px;color:var(--soft)}.sl .now b{color:var(--ink);font-weight:600}
.sl .foot{margin-top:12px;gap:6px 16px;color:var(--soft);font-size:12px;align-items:flex-start}
.sl .legend{display:flex;flex-wrap:wrap;gap:5px 14px;list-style:none;margin:0;padding:0;flex:1 1 320px}
.sl .legend li{display:inline-flex;align-items:center;gap:6px;margin:0}
.sl .legend svg{width:20px;height:14px;flex:none}
.sl .badges{display:flex;flex-direction:column;align-items:flex-end;gap:6px;max-width:100%}
.sl .badge{border:1px solid var(--line);border-radius:6px;padding:2px 9px;color:var(--ink);max-width:100%;overflow-wrap:anywhere}
.sl .badge[data-kind=modelled]{border:1.5px dashed var(--soft)}.sl .badge[data-kind=replayed]{border-color:var(--ink)}
.sl .badge[data-kind=quoted]{border-style:dotted}
.sl .pop{position:absolute;z-index:2;max-width:min(340px,92%);padding:9px 12px;border-radius:8px;background:var(--page);border:1px solid var(--line);
box-shadow:0 6px 24px rgba(0,0,0,.16);font-size:12.5px;line-height:1.45;pointer-events:none}
.sl .pop b{display:block;margin-bottom:2px}.sl .pop span{display:block;color:var(--soft)}.sl .pop span.why{color:var(--ink)}
.sl .help{position:absolute;z-index:3;inset:38px 0 auto auto;width:min(420px,100%);padding:14px 18px;border-radius:10px;background:var(--page);border:1px solid var(--line);box-shadow:0 8px 32px rgba(0,0,0,.2)}
.sl .help dl{display:grid;grid-template-columns:auto 1fr;gap:3px 14px;margin:6px 0 12px}.sl .help dd{margin:0;color:var(--soft)}
.sl .help button{display:inline-flex;align-items:center;gap:6px}
.sl kbd{font:inherit;font-weight:600}
.sl .say{min-height:1.45em;margin:8px 0 0;color:var(--soft);font-size:12.5px}
.sl details{margin-top:8px;font-size:12.5px}.sl summary{cursor:pointer;color:var(--soft)}
.sl .scroll{overflow:auto;max-height:320px;border:1px solid var(--line);border-radius:6px}
.sl caption{text-align:left;padding:4px 10px;color:var(--soft)}
.sl table{border-collapse:collapse;width:100%}.sl th,.sl td{text-align:left;padding:3px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
.sl td.n,.sl th.n{text-align:right}.sl [hidden]{display:none!important}
@container (max-width:560px){.sl .top{gap:6px;justify-content:flex-start}.sl .title{flex-basis:100%}.sl button,.sl select{padding:0 8px}.sl .icon{padding:0}.sl input[type=range]{flex-basis:100%;order:1}.sl .now{min-width:0;margin-left:auto}.sl .bar select,.sl .bar .set,.sl .bar>.icon:last-child{order:2}.sl .bar .set{margin-left:auto}}
`;

const MARKUP = `
<div class="top"><div class="title" role="heading"></div>
 <span class="set" role="group" aria-label="clock"><button data-do="trace">Wall clock</button><button data-do="own">Own device</button></span>
 <span class="set" role="group" aria-label="axis"><button data-do="time">Time</button><button data-do="steps">Steps</button></span>
 <button data-do="path">Critical path</button><button data-do="model">Prediction</button></div>
<div class="stage"><canvas role="img"></canvas><div class="pop" role="tooltip" hidden></div></div>
<div class="bar"><button class="icon" data-do="back" aria-label="previous event">@back</button><button class="icon go" data-do="play" aria-label="play">@play</button><button class="icon" data-do="next" aria-label="next event">@next</button>
 <span class="now"></span><input type="range" min="0" max="1000" value="1000" step="1" aria-label="position in time">
 <select aria-label="speed"><option value="0.25">¼ ×</option><option value="0.5">½ ×</option><option value="1" selected>1 ×</option><option value="2">2 ×</option><option value="4">4 ×</option></select>
 <span class="set" role="group" aria-label="zoom"><button class="icon" data-do="out" aria-label="zoom out">@out</button><button class="icon" data-do="fit" aria-label="show all">@fit</button><button class="icon" data-do="in" aria-label="zoom in">@in</button></span>
 <button class="icon" data-do="help" aria-label="help and export" aria-expanded="false">?</button></div>
<p class="say" aria-live="polite"></p>
<div class="foot"><ul class="legend"></ul><div class="badges"></div></div>
<div class="help" hidden><b>Keys</b><dl>
<dt><kbd>space</kbd></dt><dd>play, pause</dd><dt><kbd>← →</kbd></dt><dd>previous, next event</dd><dt><kbd>shift ← →</kbd></dt><dd>the longest waits, the memory peak</dd>
<dt><kbd>[ ]</kbd></dt><dd>slower, faster</dd><dt><kbd>+ − 0</kbd></dt><dd>zoom in, out, show all (also ctrl and wheel)</dd><dt><kbd>, .</kbd></dt><dd>pan (also a sideways wheel)</dd>
<dt><kbd>c</kbd></dt><dd>critical path</dd><dt><kbd>l</kbd></dt><dd>time or dependency steps</dd><dt><kbd>w</kbd></dt><dd>wall clock or own device</dd><dt><kbd>m</kbd></dt><dd>prediction</dd><dt><kbd>p</kbd></dt><dd>colours as in the papers' figures</dd></dl>
<button data-do="colours">Paper colours</button>
<button data-do="png">@save</button> <button data-do="json">@save</button></div>
<details><summary>In words and as a table</summary><p class="account"></p><div class="scroll" tabindex="0" role="region" aria-label="spans"></div></details>
`.replace(/@(\w+)/g, (_, name) => `<svg class="i" viewBox="0 0 16 16" aria-hidden="true">${ICONS[name]}</svg>`);

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function swatch(T, look, kind) {
  const fill = kind === "modelled" ? look.wash : look.fill, mid = look.letter && look.hatch !== "half";
  const edge = kind === "modelled" ? `stroke="${look.fill}" stroke-dasharray="3 2" stroke-width="1.5"` : `stroke="rgba(0,0,0,.55)"`;
  const half = look.hatch === "half" ? `<path d="M10 1h9v12h-9z" fill="${kind === "modelled" ? T.phases.W.wash : T.phases.W.fill}"/>` : "";
  const lines = look.hatch === "/" ? `<path d="M2 12 12 2M9 12l9-9" stroke="rgba(0,0,0,.35)"/>` : "";
  const text = look.letter ? `<text x="${mid ? 10 : 6}" y="10.5" font-size="9" text-anchor="middle" fill="${kind === "modelled" ? T.ink : look.ink}">${look.letter}</text>` : "";
  return `<svg viewBox="0 0 20 14" aria-hidden="true"><rect x=".75" y=".75" width="18.5" height="12.5" rx="2" fill="${fill}"/>${half}${lines}<rect x=".75" y=".75" width="18.5" height="12.5" rx="2" fill="none" ${edge}/>${text}</svg>`;
}

const WAIT_SWATCH = {
  "late peer": "M1 1l12 12M7 1l12 12M13 1l6 6M1 7l6 6", "late sender": "M1 1l12 12M7 1l12 12M13 1l6 6M1 7l6 6", "late receiver": "M1 13 13 1M7 13 19 1M1 7l6-6M13 13l6-6",
  "link busy": "M3 4h1M8 4h1M13 4h1M5 9h1M10 9h1M15 9h1", "on the wire": "M1 4h18M1 7h18M1 10h18", straggler: "M1 1l12 12M13 1l6 6M1 7l6 6",
};

// ---------------------------------------------------------------- 11 the player

const SPEEDS = [0.25, 0.5, 1, 2, 4], WHOLE = 12000; // at 1 x the whole trace takes 12 s

/** Draws `payload` in `el`; returns the player: grow, update, seek, play, pause, set,
    look, state, bench, destroy. `heading` is the level of its title among the page's headings. */
export function mount(el, payload, { onPick = () => {}, heading = 3 } = {}) {
  const opened = performance.now();
  const root = document.createElement("section");
  root.className = "sl";
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.innerHTML = `<style>${STYLE}</style>${MARKUP}`;
  el.append(root);
  const $ = (q) => root.querySelector(q), button = (name) => $(`[data-do=${name}]`);
  const canvas = $("canvas"), ctx = canvas.getContext("2d"), picture = document.createElement("canvas");
  const pop = $(".pop"), range = $("input"), say = $(".say");
  $(".title").setAttribute("aria-level", heading);
  button("png").append(" PNG");
  button("json").append(" JSON for Perfetto");
  const still = matchMedia("(prefers-reduced-motion: reduce)"), scheme = matchMedia("(prefers-color-scheme: dark)");
  const S = { clock: "trace", axis: "time", path: false, model: true, colours: "tested", pick: -1, speed: 1, x: 0, view: { a: 0, b: 1 },
    playing: false, hover: null, asked: null, layers: {}, logic: new Map(), paths: new Map(), said: 0 };
  let t, X0, X1, B0, end = 1, moments, T, box, scene, ratio = 1;

  // -- data ------------------------------------------------------------------------------------

  function load(next, keep) {
    const was = keep && { x: S.x, atEnd: S.x >= end, all: S.view.a === 0 && S.view.b === end, view: S.view };
    if (!S.payload) S.colours = next.colours || "tested";
    S.payload = next;
    S.layers = {};
    for (const [name, layer] of Object.entries(next.layers)) if (layer) S.layers[name] = decode({ ...layer, world_size: next.world_size });
    if (!S.layers[S.clock]) S.clock = "trace";
    S.logic.clear();
    S.paths.clear();
    S.hover = null;
    S.pick = -1;
    pop.hidden = true;
    choose();
    S.x = was && !was.atEnd ? Math.min(was.x, end) : end;
    S.view = was && !was.all ? was.view : { a: 0, b: end };
    root.setAttribute("aria-label", `timeline: ${next.title || "trace"}`);
    words();
    transport();
    T = null;
    resize();
  }

  /** Take up the clock and the axis that are switched on. */
  function choose() {
    t = S.layers[S.clock];
    if (S.axis === "steps") {
      if (!S.logic.has(S.clock)) S.logic.set(S.clock, logic(t));
      ({ X0, X1 } = S.logic.get(S.clock));
    } else [X0, X1] = [t.start, t.done];
    B0 = S.axis === "steps" ? X0 : t.begin;
    moments = null;
    end = 1;
    if (S.axis === "time") end = Math.max(1, t.span);
    else for (const x of X1) end = Math.max(end, x);
  }

  function logic(t) {
    const level = logicalSteps(t), first = new Map();
    for (let i = 0; i < t.n; i++) first.set(level[i], Math.min(first.get(level[i]) ?? Infinity, t.start[i]));
    const late = level.map((l, i) => t.start[i] - first.get(l));
    const most = late.reduce((a, b) => Math.max(a, b), 1);
    return { X0: level, X1: level.map((l) => l + 1), most, late: late.map((ns) => ns / most) };
  }

  const at = () => (moments ||= events(X0, X1));
  const clockText = (x) => (S.axis === "steps" ? `step ${Math.floor(x)}` : spanText(t, x, t.span));

  function stepStarts() {
    const out = new Map();
    for (let i = 0; i < t.n; i++) out.set(t.step[i], Math.min(out.get(t.step[i]) ?? Infinity, t.start[i]));
    return [...out].sort((a, b) => a[1] - b[1]);
  }

  // -- words around the picture ----------------------------------------------------------------

  function words() {
    const p = S.payload, title = escape(p.title || "Trace");
    const bubble = t.decks[0].bubble && `, ${t.decks[0].bubble}`;
    const result = p.race || `${spanText(t, t.span)} on ${p.world_size} rank${p.world_size === 1 ? "" : "s"}${bubble}`;
    $(".title").innerHTML = `${title}<small>${escape(result)}</small>`;
    for (const name of ["trace", "own"]) button(name).setAttribute("aria-pressed", S.clock === name);
    button("own").parentElement.hidden = !S.layers.own;
    for (const name of ["time", "steps"]) button(name).setAttribute("aria-pressed", (S.axis === "time") === (name === "time"));
    for (const name of ["path", "model"]) button(name).setAttribute("aria-pressed", S[name]);
    button("model").hidden = !S.layers.model;
    button("colours").setAttribute("aria-pressed", S.colours === "paper");
    $(".badges").innerHTML = t.decks.map((deck) => `<div class="badge" data-kind="${deck.kind}">${escape(deck.name ? `${deck.name}: ${deck.badge}` : deck.badge)}</div>`).join("");
    $(".account").textContent = t.account;
    canvas.setAttribute("aria-label", t.account);
    if ($("details").open) table();
  }

  function legend() {
    const used = new Set(), names = new Set(t.ops.map((op) => op.name));
    for (const op of t.ops) if (op.name !== "wait") used.add(op.phase);
    if (S.axis === "steps") {
      const [low, high] = T.dark ? LATE_DARK : LATE;
      $(".legend").innerHTML = `<li><svg viewBox="0 0 20 14" aria-hidden="true"><path d="M0 1h7v12H0z" fill="${low}"/><path d="M7 1h6v12H7z" fill="${mix(high, low, 0.5)}"/><path d="M13 1h7v12h-7z" fill="${high}"/></svg>on time … ${spanText(t, S.logic.get(S.clock).most)} later than the first of its dependency step</li>`;
      return;
    }
    const items = Object.values(T.phases).filter((look) => used.has(look.key)).map((look) => swatch(T, look, t.kind) + escape(look.meaning));
    const causes = new Set(names.size ? t.waits.map((w) => w.why) : []);
    for (const why of Object.keys(WAIT_SWATCH))
      if (causes.has(why))
        items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x=".5" y=".5" width="19" height="13" rx="2" fill="none" stroke="${T.hatchInk}"/><path d="${WAIT_SWATCH[why]}" stroke="${T.hatchInk}"/>${why === "straggler" ? `<text x="10" y="11" font-size="11" font-weight="700" text-anchor="middle" fill="${T.ink}">!</text>` : ""}</svg>waits: ${why}`);
    if (t.memoryOf.some((m) => m.time.length)) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 13V9h5V5h5V2h4v6h4v5z" fill="${T.memory}"/><path d="M1 2h18" stroke="${T.muted}"/></svg>${t.decks[0].share ? "microbatches in flight, and their most" : "memory above what stays, and its maximum"}`);
    if (S.payload.cap) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 7h18" stroke="${T.ink}" stroke-width="1.5" stroke-dasharray="4 2.5"/></svg>the cap, ${t.decks[0].share ? counted(S.payload.cap, "microbatch") : bytesText(S.payload.cap)}; black above it`);
    if (t.n <= 4000 && t.mb.some((mb) => mb >= 0)) items.push(cellWords());
    if (t.ports.size) items.push("under a row: what it sends, then what comes in; arrows point at the other rank's row");
    if (S.layers.model && S.model) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x="1" y="1" width="18" height="12" fill="none" stroke="${T.ink}" stroke-width="1.5" stroke-dasharray="4 2.5"/></svg>predicted (${escape(S.layers.model.badge)})`);
    $(".legend").innerHTML = items.map((item) => `<li>${item}</li>`).join("");
  }

  function cellWords() {
    const chunks = Math.max(...t.decks.map((deck) => deck.chunks));
    if (t.decks.some((deck) => deck.ways > 1)) return "in a cell: letter and microbatch; ▾ entered at the first rank, ▴ at the last (lighter)";
    if (chunks > 1) return "in a cell: letter and microbatch; in the corner which of the rank's stages, later ones lighter";
    return chunks ? "in a cell: letter and microbatch" : "in a cell: letter and microbatch; layer or stage in the corner";
  }

  function table(most = 60) {
    const head = ["rank", "step", "instruction", "lane", "start", "takes", "why it waited"];
    const list = Array.from({ length: t.n }, (_, i) => i).sort((a, b) => t.start[a] - t.start[b]).slice(0, most);
    const body = list.map((i) => {
      const w = t.waitAt.get(i);
      const cells = [rankText(t, t.rank[i]).replace(/^rank /, ""), t.step[i], label(t, i), t.lanes[t.lane[i]], spanText(t, t.start[i], t.span), spanText(t, t.done[i] - t.start[i]), w ? waitText(t, w) : ""];
      return `<tr>${cells.map((c, k) => `<td${[0, 1, 4, 5].includes(k) ? " class=n" : ""}>${escape(c)}</td>`).join("")}</tr>`;
    });
    $(".scroll").innerHTML = `<table><caption>${t.n > most ? `the first ${most} of ${t.n} spans` : `${t.n} spans`}</caption><thead><tr>${head.map((h, k) => `<th scope=col${[0, 1, 4, 5].includes(k) ? " class=n" : ""}>${h}</th>`).join("")}</tr></thead><tbody>${body.join("")}</tbody></table>`;
  }

  // Screen readers hear at most one sentence in 400 ms; the last one always comes.
  function announce(text) {
    clearTimeout(S.timer);
    const speak = () => ((say.textContent = text), (S.said = performance.now()));
    const wait = 400 - (performance.now() - S.said);
    if (wait <= 0) speak();
    else S.timer = setTimeout(speak, wait);
  }

  // -- drawing ---------------------------------------------------------------------------------

  function resize() {
    const width = Math.floor(canvas.parentElement.clientWidth);
    if (!width || !t) return;
    ratio = Math.min(3, window.devicePixelRatio || 1);
    const memory = t.memoryOf.some((m) => m.time.length);
    box = layout({ width, ranks: S.payload.world_size, thin: Math.max(...t.slots), memory, ports: t.ports.size > 0,
      heads: t.decks.length > 1 ? t.decks.map((deck) => deck.first) : [], ramps: t.decks.some((deck) => deck.ramps.length) });
    for (const c of [canvas, picture]) {
      c.width = Math.round(width * ratio);
      c.height = Math.round(box.height * ratio);
    }
    canvas.style.height = `${box.height}px`;
    paint();
    draw();
  }

  function paint() {
    if (!T) {
      T = theme(root, S.payload.palette, S.colours === "paper");
      root.style.setProperty("--ring", T.phases.F.fill);
      legend();
    }
    const logical = S.axis === "steps";
    if (S.path && !S.paths.has(S.clock)) S.paths.set(S.clock, t.decks.map((deck) => criticalPath(t, deck)));
    scene = { ctx: picture.getContext("2d"), t, X0, X1, B0, view: S.view, box, T, ratio, logical, cap: S.payload.cap || 0,
      steps: logical || t.decks.length > 1 ? [] : stepStarts(), late: logical ? S.logic.get(S.clock).late : null,
      paths: S.path ? S.paths.get(S.clock) : null, model: S.model && !logical ? S.layers.model : null };
    paintScene(scene);
  }

  /** One frame: the picture, the part still to come under a veil, the cursor, what runs now. */
  function draw() {
    if (!scene) return;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(picture, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    const top = { ...scene, ctx }, right = box.left + box.plot;
    const x = top.px(S.x), running_ = S.x < end;
    if (running_ && x < right) {
      ctx.globalAlpha = 0.6;
      ctx.fillStyle = T.page;
      ctx.fillRect(Math.max(x, box.left), box.top - 4, right + 2 - Math.max(x, box.left), box.bottom - box.top + 4);
      ctx.globalAlpha = 1;
    }
    ctx.save();
    ctx.beginPath();
    ctx.rect(box.left - 2, 0, box.plot + 4, box.bottom);
    ctx.clip();
    if (running_) outlineNow(top);
    const told = S.hover && S.hover.row >= 0 ? S.hover.row : S.pick;
    if (told >= 0) outlineHover(top, told);
    ctx.restore();
    if (x >= box.left - 1 && x <= right + 1) paintCursor(top, x);
  }

  function outlineNow(s) {
    ctx.lineWidth = 2;
    ctx.strokeStyle = T.ink;
    for (const seg of t.segs) {
      const i = running(t.ports.has(t.slots[seg.lane]) ? B0 : X0, X1, seg, S.x);
      if (i < 0 || !box.rows[seg.rank]) continue;
      const [y, h] = placeOf(s, i), left = s.px(Math.min(X0[i], B0[i])), width = Math.max(2, s.px(X1[i]) - left);
      if (h < 4) continue;
      ctx.strokeRect(left, y - 1, width, h + 2);
    }
  }

  function outlineHover(s, i) {
    if (t.msg[i] >= 0) return paintGroup(s, i);
    if (t.chunk[i] >= 0) for (const j of messagesOf(i)) paintGroup(s, j);
    const w = t.waitAt.get(i);
    if (w && t.msg[w.message] >= 0 && S.axis === "time") paintGroup(s, w.message);
    const [y, h] = placeOf(s, i), left = s.px(X0[i]);
    ctx.lineWidth = 2;
    ctx.strokeStyle = T.ink;
    ctx.strokeRect(left, y - 1, Math.max(2, s.px(X1[i]) - left), h + 2);
  }

  /** The messages that a task needs, and those that carry its output on. */
  function messagesOf(i) {
    if (!t.sends) {
      t.sends = new Map();
      for (let j = 0; j < t.n; j++)
        if (t.msg[j] >= 0 && isSend(t, j))
          for (let k = t.depFrom[j]; k < t.depFrom[j + 1]; k++) t.sends.set(t.dep[k], [...(t.sends.get(t.dep[k]) || []), j]);
    }
    return [...t.dep.slice(t.depFrom[i], t.depFrom[i + 1])].filter((j) => t.msg[j] >= 0 && isPair(t, j)).concat(t.sends.get(i) || []);
  }

  function paintCursor(s, x) {
    const text = clockText(S.x);
    ctx.font = `600 11px ${T.font}`;
    const room = textWidth(ctx, text) + 14, left = Math.min(Math.max(x - room / 2, 2), box.width - room - 2);
    ctx.fillStyle = T.ink;
    ctx.fillRect(Math.round(x) - 0.5, 18, 1, box.bottom - 18);
    ctx.beginPath();
    ctx.roundRect(left, 0, room, 18, 9);
    ctx.fill();
    ctx.fillStyle = T.page;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillText(text, left + room / 2, 9.5);
  }

  function ask(what) {
    if (S.asked === "paint" || (S.asked && what === "draw")) return;
    if (!S.asked) requestAnimationFrame(() => {
      const full = S.asked === "paint";
      S.asked = null;
      if (!root.isConnected || !scene) return;
      if (full) paint();
      draw();
    });
    S.asked = what;
  }

  // -- time ------------------------------------------------------------------------------------

  function seek(x, { follow = true, quiet = false } = {}) {
    S.x = Math.min(end, Math.max(0, x));
    const wide = S.view.b - S.view.a;
    if (follow && wide < end && (S.x < S.view.a || S.x > S.view.b)) look(S.x - wide * 0.3, S.x + wide * 0.7);
    transport();
    if (!quiet) announce(moment(t, X0, X1, S.x, clockText(S.x)));
    ask("draw");
  }

  function transport() {
    range.value = Math.round((1000 * S.x) / end);
    range.setAttribute("aria-valuetext", clockText(S.x));
    $(".now").innerHTML = `<b>${clockText(S.x)}</b> of ${S.axis === "steps" ? end : clockText(end)}`;
  }

  function look(a, b) {
    const wide = Math.min(end, Math.max(b - a, S.axis === "steps" ? 4 : Math.min(100, end)));
    const left = Math.min(end - wide, Math.max(0, a));
    S.view = { a: left, b: left + wide };
    ask("paint");
  }

  function zoom(factor, x = S.x >= S.view.a && S.x <= S.view.b ? S.x : (S.view.a + S.view.b) / 2) {
    look(x - (x - S.view.a) / factor, x + (S.view.b - x) / factor);
  }

  function pan(share) {
    const by = (S.view.b - S.view.a) * share;
    look(S.view.a + by, S.view.b + by);
  }

  function stepEvent(direction) {
    const all = at(), i = lastUpTo(all, S.x);
    const to = direction > 0 ? i + 1 : all[i] === S.x ? i - 1 : i;
    seek(all[Math.min(all.length - 1, Math.max(0, to))]);
  }

  function stepStrange(direction) {
    const list = strange(t).map((s) => ({ ...s, x: S.axis === "steps" ? X0[s.row] : s.x })).sort((a, b) => a.x - b.x);
    const found = direction > 0 ? list.find((s) => s.x > S.x) : list.reverse().find((s) => s.x < S.x);
    if (!found) return announce("Nothing strange further on.");
    seek(found.x, { quiet: true });
    announce(`${clockText(found.x)}: ${found.text}.`);
    showRow(found.row, scene.px(found.x));
  }

  function play() {
    if (S.playing) return;
    if (S.x >= end) seek(0, { quiet: true });
    S.playing = true;
    playButton();
    let last = performance.now(), held = 0;
    const frame = (now) => {
      if (!S.playing || !root.isConnected) return;
      const passed = Math.min(100, now - last);
      last = now;
      if (still.matches) { // no tween: an event at a time
        held += passed;
        if (held > 700 / S.speed) [held] = [0, stepEvent(1)];
      } else seek(S.x + (passed / WHOLE) * end * S.speed, { quiet: true });
      if (S.x >= end) return pause();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  function pause() {
    if (!S.playing) return;
    S.playing = false;
    playButton();
    announce(moment(t, X0, X1, S.x, clockText(S.x)));
  }

  function playButton() {
    button("play").setAttribute("aria-label", S.playing ? "pause" : "play");
    button("play").firstElementChild.innerHTML = ICONS[S.playing ? "pause" : "play"];
  }

  // -- switches --------------------------------------------------------------------------------

  /** Flip views: clock "trace" or "own", axis "time" or "steps", path and model true or false,
      colours "tested" or "paper". */
  function set(next) {
    const share = S.x / end, part = { a: S.view.a / end, b: S.view.b / end };
    if (next.clock && !S.layers[next.clock]) return;
    Object.assign(S, next);
    if (next.colours) T = null;
    if (next.clock || next.axis) {
      choose();
      S.hover = null;
      pop.hidden = true;
      S.view = { a: part.a * end, b: part.b * end };
      seek(share * end, { quiet: true });
      announce(`${S.axis === "steps" ? "Dependency steps" : "Time"}, ${t.badge}`);
    }
    words();
    if (T) legend();
    resize();
  }

  const actions = {
    play: () => (S.playing ? pause() : play()),
    back: () => (pause(), stepEvent(-1)), next: () => (pause(), stepEvent(1)),
    trace: () => set({ clock: "trace" }), own: () => set({ clock: "own" }),
    time: () => set({ axis: "time" }), steps: () => set({ axis: "steps" }),
    path: () => set({ path: !S.path }), model: () => set({ model: !S.model }),
    colours: () => set({ colours: S.colours === "paper" ? "tested" : "paper" }),
    in: () => zoom(1.6), out: () => zoom(1 / 1.6), fit: () => look(0, end),
    help: () => {
      $(".help").hidden = !$(".help").hidden;
      button("help").setAttribute("aria-expanded", !$(".help").hidden);
    },
    png: savePicture,
    json: () => save(new Blob([JSON.stringify(chromeTrace(t))], { type: "application/json" }), "trace.json"),
  };

  function save(blob, name) {
    const a = document.createElement("a");
    a.href = URL.createObjectURL(blob);
    a.download = name;
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 1000);
  }

  // The picture leaves the page with its title and its provenance on it.
  function savePicture() {
    const out = document.createElement("canvas"), c = out.getContext("2d");
    out.width = picture.width;
    out.height = picture.height + Math.round(64 * ratio);
    c.scale(ratio, ratio);
    c.fillStyle = T.page;
    c.fillRect(0, 0, box.width, box.height + 64);
    c.drawImage(picture, 0, 32, box.width, box.height);
    c.textBaseline = "middle";
    c.fillStyle = T.ink;
    c.font = `600 14px ${T.font}`;
    c.fillText(`${S.payload.title}, ${spanText(t, t.span)}`, 12, 18, box.width - 24);
    c.fillStyle = T.muted;
    c.font = `11px ${T.font}`;
    c.textAlign = "right";
    c.fillText(t.decks.map((deck) => deck.badge).join(" | "), box.width - 12, box.height + 46, box.width - 24);
    out.toBlob((blob) => save(blob, "timeline.png"));
  }

  // -- pointer, wheel, keys ----------------------------------------------------------------------

  function place(event) {
    const r = canvas.getBoundingClientRect();
    const px = event.clientX - r.left, y = event.clientY - r.top;
    return { px, y, x: S.view.a + ((px - box.left) / box.plot) * (S.view.b - S.view.a) };
  }

  /** What lies under the pointer: a row of the trace, or the memory of a rank. */
  function under({ px, y, x }) {
    const rank = box.rows.findIndex((row) => y >= row.y - 1 && y <= row.bottom + 1);
    if (rank < 0 || px < box.left - 2 || px > box.left + box.plot + 2) return null;
    const row = box.rows[rank], m = t.memoryOf[rank];
    if (y < row.cellY - 2 && m.time.length && S.axis === "time") {
      const bytes = m.bytes[Math.max(0, lastUpTo(m.time, x))];
      const { share } = deckOf(t, rank), cap = S.payload.cap, most = heldText(t, m.peak, rank);
      const limit = cap ? `; the cap is ${share ? counted(cap, "microbatch") : bytesText(cap)}` : "";
      return { row: -1, title: `memory of ${rankText(t, rank)}`, lines: [
        `${heldText(t, x < m.time[0] && share ? 0 : bytes, rank)} at ${spanText(t, x, t.span)}`,
        `${share ? `${most} at most` : `${bytesText(m.floor)} stay all through, ${bytesText(m.peak)} at most`}${limit}`] };
    }
    const lane = y < row.cellY + row.cellH + 1 ? 0 : 1 + row.lanes.findIndex((top) => y <= top + row.laneH + 1);
    const near = (3 * (S.view.b - S.view.a)) / box.plot;
    if (t.ports.has(lane)) return onWire(rank, lane, x, 2 * near);
    const seg = t.segs.find((s) => s.rank === rank && t.slots[s.lane] === lane);
    if (!seg) return null;
    let i = running(X0, X1, seg, x);
    if (i < 0) i = running(X0, X1, seg, x + near) < 0 ? running(X0, X1, seg, x - near) : running(X0, X1, seg, x + near);
    if (i >= 0) return { row: i, ...about(t, i) };
    const next = lastUpTo(X0, x, seg.from, seg.to) + 1, w = next < seg.to && t.waitAt.get(next);
    if (w && S.axis === "time" && w.start <= x) {
      const { lines } = about(t, next);
      return { row: next, title: `${rankText(t, rank)}, before ${label(t, next)}`, lines: [lines[0]] };
    }
    if (lane || S.axis === "steps") return null;
    const why = next >= seg.to ? "nothing left to do" : `${label(t, next)} comes next; no message holds it up`;
    const still = next > seg.from && next < seg.to ? "between two ops" : "idle";
    return { row: -1, title: `${rankText(t, rank)} is ${still}`, lines: [why] };
  }

  /** Of the lanes that share a port the message nearest to x, if one is near. */
  function onWire(rank, slot, x, near) {
    let best = -1, gap = near;
    for (const seg of t.segs) {
      if (seg.rank !== rank || t.slots[seg.lane] !== slot) continue;
      const last = lastUpTo(B0, x + near, seg.from, seg.to);
      for (let i = last; i >= seg.from && i > last - 2; i--) {
        const away = Math.max(0, B0[i] - x, x - X1[i]);
        if (away <= gap) [best, gap] = [i, away];
      }
    }
    return best < 0 ? null : { row: best, ...about(t, best) };
  }

  function show(found, px, y) {
    S.hover = found;
    pop.hidden = !found;
    ask("draw");
    if (!found) return;
    const cause = found.row >= 0 && t.waitAt.has(found.row);
    pop.innerHTML = `<b>${escape(found.title)}</b>` + found.lines.map((l, k) => `<span${cause && !k ? " class=why" : ""}>${escape(l)}</span>`).join("");
    const w = pop.offsetWidth, h = pop.offsetHeight, below = y + 22 + h < box.height;
    pop.style.left = `${Math.min(Math.max(4, px - w / 2), Math.max(4, box.width - w - 4))}px`;
    pop.style.top = `${below ? y + 22 : Math.max(0, y - h - 16)}px`;
  }

  const showRow = (i, px) => {
    const [y, h] = placeOf(scene, i);
    show({ row: i, ...about(t, i) }, px, y + h - 12);
  };

  let press = null;
  canvas.addEventListener("pointerdown", (e) => {
    const p = place(e);
    pause();
    press = { x: p.px, moved: false, pan: e.shiftKey || p.y > box.bottom, last: p.px, touch: e.pointerType === "touch" };
    canvas.setPointerCapture(e.pointerId);
    if (press.touch) press.long = setTimeout(() => ((press.moved = true), (press.held = true), show(under(p), p.px, p.y)), 380);
  });
  canvas.addEventListener("pointermove", (e) => {
    const p = place(e);
    if (!press) return e.pointerType === "touch" ? undefined : show(under(p), p.px, p.y);
    if (press.held || (Math.abs(p.px - press.x) < 3 && !press.moved)) return;
    clearTimeout(press.long);
    press.moved = true;
    show(null);
    if (press.pan) pan((press.last - p.px) / box.plot);
    else seek(p.x, { follow: false });
    press.last = p.px;
  });
  const release = (e) => {
    if (press) clearTimeout(press.long);
    if (press && !press.moved && e.type === "pointerup") {
      const p = place(e), found = under(p);
      if (!press.pan) seek(p.x);
      S.pick = found && found.row >= 0 ? found.row : -1;
      if (press.touch) show(found, p.px, p.y);
      if (found && found.row >= 0) onPick(picked(found.row));
    }
    press = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => !press && show(null));
  canvas.addEventListener("contextmenu", (e) => press && press.touch && e.preventDefault());
  canvas.addEventListener("wheel", (e) => {
    const p = place(e);
    if (e.ctrlKey || e.metaKey) zoom(Math.exp(-e.deltaY * 0.0022), p.x);
    else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / box.plot);
    else return;
    e.preventDefault();
    show(null);
  }, { passive: false });

  const picked = (i) => ({ rank: t.rank[i], step: t.step[i], index: t.index[i], label: label(t, i), start: t.start[i] + (S.payload.start || 0) });

  const faster = (by) => {
    S.speed = SPEEDS[Math.min(4, Math.max(0, SPEEDS.indexOf(S.speed) + by))];
    $("select").value = String(S.speed);
  };
  const KEYS = { " ": actions.play, "[": () => faster(-1), "]": () => faster(1), "+": actions.in, "=": actions.in, "-": actions.out,
    0: actions.fit, ",": () => pan(-0.2), ".": () => pan(0.2), c: actions.path, l: () => set({ axis: S.axis === "time" ? "steps" : "time" }),
    w: () => set({ clock: S.clock === "trace" ? "own" : "trace" }), m: actions.model, p: actions.colours, "?": actions.help,
    Home: () => seek(0), End: () => seek(end), Escape: () => ((S.pick = -1), show(null), $(".help").hidden || actions.help()) };
  root.addEventListener("keydown", (e) => {
    const tag = e.target.tagName, arrows = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.ctrlKey || e.metaKey || e.altKey || tag === "SELECT" || e.target.closest(".scroll")) return;
    if (e.key === " " && (tag === "BUTTON" || tag === "SUMMARY")) return;
    const act = arrows ? () => (pause(), (e.shiftKey ? stepStrange : stepEvent)(arrows)) : KEYS[e.key];
    if (!act) return;
    e.preventDefault();
    e.stopPropagation();
    act();
  });
  root.addEventListener("click", (e) => {
    const b = e.target.closest("[data-do]");
    if (b) actions[b.dataset.do]();
  });
  range.addEventListener("input", () => (pause(), seek((range.value / 1000) * end)));
  $("select").addEventListener("change", (e) => (S.speed = +e.target.value));
  $("details").addEventListener("toggle", () => $("details").open && table());

  // -- life ------------------------------------------------------------------------------------

  const retheme = () => ((T = null), resize());
  // The host's theme arrives as new CSS variables: the 1 ms transition of `color` reports it.
  root.addEventListener("transitionend", (e) => e.target === root && retheme());
  scheme.addEventListener("change", retheme);
  const sizes = new ResizeObserver(() => Math.floor(canvas.parentElement.clientWidth) !== (box && box.width) && resize());
  sizes.observe(canvas.parentElement);

  /** Scrub through the trace and time it: milliseconds a frame, drawing alone and in all. */
  async function bench(frames = 120) {
    const cost = [], gap = [], from = S.x;
    let last = await new Promise(requestAnimationFrame);
    for (let k = 0; k < frames; k++) {
      const begin = performance.now();
      seek((end * k) / frames, { follow: false, quiet: true });
      draw();
      cost.push(performance.now() - begin);
      const now = await new Promise(requestAnimationFrame);
      gap.push(now - last);
      last = now;
    }
    const begin = performance.now();
    paint();
    const repaint = performance.now() - begin;
    seek(from, { quiet: true });
    const rank = (list, q) => list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))];
    return { spans: t.n, frames, open_ms: api.opened, repaint_ms: repaint,
      draw_ms: { p50: rank(cost, 0.5), p95: rank(cost, 0.95), max: rank(cost, 1) },
      frame_ms: { p50: rank(gap, 0.5), p95: rank(gap, 0.95), max: rank(gap, 1) } };
  }

  const api = {
    root, seek, play, pause, set, look, bench,
    /** A new payload; the same run keeps its playhead, or follows the end if it was there. */
    grow: (next) => load(next, true),
    update: (next) => load(next, Boolean(S.payload) && next.run === S.payload.run),
    state: () => ({ x: S.x, end, view: S.view, clock: S.clock, axis: S.axis, path: S.path, model: S.model, colours: S.colours, pick: S.pick, playing: S.playing, spans: t.n, rows: box && box.rows }),
    destroy() {
      S.playing = false;
      clearTimeout(S.timer);
      sizes.disconnect();
      scheme.removeEventListener("change", retheme);
      root.remove();
    },
  };
  load(payload, false);
  api.opened = performance.now() - opened;
  globalThis.__shardlab_player = api; // for benchmarks and tests: the player mounted last
  return api;
}

// ---------------------------------------------------------------- 12 hosts

const read = (data) => (typeof data === "string" ? JSON.parse(data) : data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
const mounted = new WeakMap(); // Streamlit calls again with the same parent when data changes

/** Streamlit v2: called with {parentElement, data, setTriggerValue}, returns a cleanup.
    anywidget: called with nothing, returns {render}. */
export default function (host) {
  if (!host || !host.parentElement) return { render };
  const { parentElement, data, setTriggerValue } = host;
  const held = mounted.get(parentElement) || {};
  clearTimeout(held.leaving);
  held.pick = (what) => setTriggerValue && setTriggerValue("picked", what);
  if (held.player && held.data !== data) held.player.update(read(data));
  if (!held.player && data) held.player = mount(parentElement.querySelector("#player") || parentElement, read(data), { onPick: (what) => held.pick(what) });
  held.data = data;
  mounted.set(parentElement, held);
  return () => { // a rerun may clean up and call again at once: the playhead must live through it
    held.leaving = setTimeout(() => {
      if (held.player) held.player.destroy();
      mounted.delete(parentElement);
    }, 250);
  };
}

function render({ model, el }) {
  const onPick = (what) => (model.set("picked", what), model.save_changes());
  const player = mount(el, model.get("payload"), { onPick });
  const change = () => player.update(model.get("payload"));
  model.on("change:payload", change);
  return () => (model.off("change:payload", change), player.destroy());
}
