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
  t.clockAt = clocksOf(t, layer.world_size);
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
  t.busy = Float64Array.from(layer.busy); // a rank's share of the time in which it computed
  return t;
}

// The traces stacked in a layer, and their first rows; one where there is no race.
function decksOf(layer) {
  const only = { name: "", ranks: layer.world_size, kind: layer.kind, badge: layer.badge, span: layer.span, chunks: 0, ways: 1, ramps: [], bubble: "", beat: 0, share: 0 };
  let first = 0;
  return (layer.decks || [only]).map((deck) => ({ ...deck, first, end: (first += deck.ranks) }));
}

const deckOf = (t, rank) => t.deckAt[rank] || t.decks[0];

// Of every rank the clock of its node {node, off, unsure}; undefined on the first node, whose time it is.
function clocksOf(t, ranks) {
  const at = new Array(ranks);
  for (const deck of t.decks)
    for (const [node, off, unsure, mine] of deck.clocks || []) for (const rank of mine) at[deck.first + rank] = { node, off, unsure };
  return at;
}

const sameClock = (t, a, b) => (t.clockAt[a] || {}).node === (t.clockAt[b] || {}).node;

/** By how much two ranks' times may be apart from the truth; 0 on one node. */
export function unsureBetween(t, a, b) {
  if (sameClock(t, a, b)) return 0;
  return [a, b].reduce((sum, rank) => sum + (t.clockAt[rank] ? t.clockAt[rank].unsure : 0), 0);
}

/** Whether the ends of a message lie on more than one node. */
export function crossesNodes(t, i) {
  return t.msg[i] >= 0 && t.ends[t.msg[i]].some((j) => !sameClock(t, t.rank[i], t.rank[j]));
}

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

