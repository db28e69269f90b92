/* The ShardLab collective studio: tiles that ranks hold, messages that travel in true time.

   It stands in one module with parts of the player (numbers, search, ticks, theme, style, hosts);
   parallel_core/views/studio.py puts them together and makes the payload.

     A  payload -> scene         D  ways between cards      G  markup, style
     B  where ranks stand        E  tiles                   H  the studio
     C  how large cards can be   F  painting what stays

   Times are nanoseconds since the scene's start; a set of ranks is a number, a bit a rank. */

// ---------------------------------------------------------------- A payload -> scene

/** A scene with the indices that drawing needs. */
export function decodeScene(scene) {
  const messages = scene.messages.map(([from, to, ready, begin, done, bytes, tiles, what, say, why, way], k) => ({
    k, from, to, ready, begin, done, bytes, what, say, why, way,
    tiles: tiles.map(([colour, held, wanted, small, label]) => ({ colour, held, wanted, small, label })) }));
  const ranks = scene.ranks.map(({ slots, standing }) => ({
    slots: slots.map((slot) => ({ ...slot, when: Float64Array.from(slot.moments, (m) => m[0]) })),
    standing: standing.map(([slot, since, until, held, small]) => ({ slot, since, until, held, small })) }));
  const s = { ...scene, messages, ranks, done: Float64Array.from(messages, (m) => m.done) };
  s.sent = running_(messages, scene.n, "from");
  s.received = running_(messages, scene.n, "to");
  s.summed = Array.from({ length: scene.n }, (_, rank) => scene.sums.filter((row) => row[1] === rank));
  s.summedAt = s.summed.map((rows) => Float64Array.from(rows, (row) => row[0]));
  s.most = [0, 1, 2].map((row) => Math.max(0, ...ranks.map((r) => r.slots.filter((slot) => slot.row === row).length)));
  s.numbers = messages.some((m) => m.tiles.some((tile) => tile.small !== null));
  s.total = messages.reduce((sum, m) => sum + m.bytes, 0);
  s.pairs = pairs(messages);
  s.levels = Math.max(...scene.tree.map((_, r) => depthOf(scene.tree, r)));
  return s;
}

// Per rank the moments at which its messages are done, and the bytes until then.
function running_(messages, n, end) {
  const rows = Array.from({ length: n }, () => ({ when: [], bytes: [] }));
  for (const m of messages) {
    const row = rows[m[end]];
    row.when.push(m.done);
    row.bytes.push((row.bytes.at(-1) || 0) + m.bytes);
  }
  return rows;
}

const depthOf = (tree, r) => (tree[r] < 0 ? 1 : 1 + depthOf(tree, tree[r]));

/** Per directed pair of ranks: bytes, and nanoseconds on the wire. */
function pairs(messages) {
  const found = new Map();
  for (const m of messages) {
    const key = `${m.from}>${m.to}`, pair = found.get(key) || { from: m.from, to: m.to, bytes: 0, busy: 0 };
    pair.bytes += m.bytes;
    pair.busy += m.done - m.begin;
    found.set(key, pair);
  }
  return [...found.values()];
}

const upTo = (row, x) => row.bytes[lastUpTo(row.when, x)] || 0;

/** What every rank has sent, received and added by x; what left and what arrived are equal. */
export function tally(s, x) {
  const sent = s.sent.map((row) => upTo(row, x)), received = s.received.map((row) => upTo(row, x));
  const added = s.summedAt.map((when) => lastUpTo(when, x) + 1);
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  return { sent, received, added, out: sum(sent), into: sum(received), adds: sum(added), most: Math.max(...sent) };
}

/** What lies in a slot at x: [since, held, small, right], or null. */
export function momentOf(slot, x) {
  const i = lastUpTo(slot.when, x);
  return i < 0 || !slot.moments[i][1] ? null : slot.moments[i];
}

/** Messages of a scene at x, on their way or in a queue, and how many are done. */
export function underway(s, x) {
  const flying = [], waiting = [];
  for (const m of s.messages) {
    if (m.done <= x) continue;
    if (m.begin <= x) flying.push(m);
    else if (m.ready <= x && m.why) waiting.push(m);
  }
  return { flying, waiting, done: lastUpTo(s.done, x) + 1 };
}

/** All messages of all scenes in the order in which they are done: [{x, scene, k}]. */
export function orderOf(scenes) {
  const all = scenes.flatMap((s, scene) => s.messages.map((m) => ({ x: m.done, scene, k: m.k })));
  return all.sort((a, b) => a.x - b.x || a.scene - b.scene || a.k - b.k);
}

/** The ranks in a set of bits. */
export function membersOf(bits) {
  const out = [];
  for (let r = 0; r < 32; r++) if ((bits >>> r) & 1) out.push(r);
  return out;
}

const rankList = (bits) => {
  const ranks = membersOf(bits);
  return ranks.length > 8 ? `${ranks.length} ranks` : `rank${ranks.length > 1 ? "s" : ""} ${ranks.join(", ")}`;
};

// ---------------------------------------------------------------- B where ranks stand

/** Centres of the ranks (and, in a fabric, of the switches after them) in a stage w x h. */
export function places(kind, s, { w, h }, card) {
  if (kind === "grid") return gridPlaces(s, w, h);
  if (kind === "tree") return treePlaces(s, w, h, card);
  if (kind === "boxes") return boxesOf(s, w, h).flatMap((box) => box.seats);
  if (kind === "fabric") return fabricPlaces(s, w, h, card);
  return roundTable(s.n, w, h, card);
}

// Equal steps along an ellipse, rank 0 at the top.
function roundTable(n, w, h, card) {
  const rx = Math.max(1, (w - card.w) / 2 - 6), ry = Math.max(1, (h - card.h) / 2 - 8);
  if (n === 2) return [{ x: w / 2 - rx, y: h / 2 }, { x: w / 2 + rx, y: h / 2 }];
  const fine = 360, points = [], along = [0];
  for (let i = 0; i <= fine; i++) {
    const a = (2 * Math.PI * i) / fine - Math.PI / 2;
    points.push({ x: w / 2 + rx * Math.cos(a), y: h / 2 + ry * Math.sin(a) });
    if (i) along.push(along[i - 1] + Math.hypot(points[i].x - points[i - 1].x, points[i].y - points[i - 1].y));
  }
  return Array.from({ length: n }, (_, r) => points[Math.max(0, lastUpTo(along, (along[fine] * r) / n + 1e-6))]);
}

/** Columns and rows of the grid: the torus's own, or as square as n allows. */
export function gridShape(s) {
  const shape = (s.fabric && s.fabric.shape) || [];
  if (shape.length > 1) return [shape[0], s.n / shape[0]];
  let rows = Math.floor(Math.sqrt(s.n));
  while (s.n % rows) rows--;
  return [s.n / rows, rows];
}

function gridPlaces(s, w, h) {
  const [columns, rows] = gridShape(s), edge = 18;
  return Array.from({ length: s.n }, (_, r) => ({
    x: edge + ((r % columns) + 0.5) * ((w - 2 * edge) / columns),
    y: edge + (Math.floor(r / columns) + 0.5) * ((h - 2 * edge) / rows) }));
}

function treePlaces(s, w, h, card) {
  const below = Array.from({ length: s.n }, () => []), depth = [], seat = [];
  s.tree.forEach((parent, r) => parent >= 0 && below[parent].push(r));
  let leaves = 0;
  const walk = (r, level) => {
    depth[r] = level;
    below[r].forEach((child) => walk(child, level + 1));
    const seats = below[r].map((child) => seat[child]);
    seat[r] = seats.length ? (Math.min(...seats) + Math.max(...seats)) / 2 : leaves++;
  };
  walk(s.tree.indexOf(-1), 0);
  const deep = Math.max(1, ...depth), wide = Math.max(1, leaves - 1);
  return seat.map((at, r) => ({
    x: leaves > 1 ? card.w / 2 + 6 + (at / wide) * (w - card.w - 12) : w / 2,
    y: card.h / 2 + 4 + (depth[r] / deep) * (h - card.h - 14) }));
}

/** The nodes of a two-level cluster: rectangles, and the seats of their ranks. */
export function boxesOf(s, w, h) {
  const g = Math.min(s.node, s.n), count = Math.ceil(s.n / g);
  const ideal = Math.sqrt((count * w) / h), off = (k) => Math.abs(Math.log(k / ideal));
  const across = Array.from({ length: count }, (_, i) => i + 1).filter((k) => count % k === 0).reduce((a, k) => (off(k) < off(a) ? k : a));
  const down = count / across;
  const bw = w / across, bh = h / down, gap = Math.min(22, bw * 0.08);
  const columns = Math.min(g, Math.max(1, Math.round(Math.sqrt((g * bw) / bh)))), rows = Math.ceil(g / columns);
  return Array.from({ length: count }, (_, b) => {
    const x = (b % across) * bw + gap, y = Math.floor(b / across) * bh + gap * 0.6;
    const rect = { x, y, w: bw - 2 * gap, h: bh - 1.2 * gap };
    const seats = Array.from({ length: Math.min(g, s.n - b * g) }, (_, i) => ({
      x: x + ((i % columns) + 0.5) * (rect.w / columns),
      y: y + 12 + (Math.floor(i / columns) + 0.5) * ((rect.h - 12) / rows) }));
    return { ...rect, seats };
  });
}

const LEVELS = { leaf: 1, switch: 1, nic: 2, spine: 2, core: 3 };

function fabricPlaces(s, w, h, card) {
  const out = Array.from({ length: s.n }, (_, r) => ({ x: ((r + 0.5) * w) / s.n, y: h - card.h / 2 - 10 }));
  const level = s.fabric.names.map((name) => LEVELS[name.split(" ")[0]] || 1), top = Math.max(...level);
  const roof = h - card.h - 14;
  s.fabric.names.forEach((_, i) => {
    const v = s.n + i, same = level.map((l, j) => (l === level[i] ? j : -1)).filter((j) => j >= 0);
    const hosts = s.fabric.links.filter((link) => link[1] === v && link[0] < s.n).map((link) => out[link[0]].x);
    const x = hosts.length ? hosts.reduce((a, b) => a + b, 0) / hosts.length : ((same.indexOf(i) + 0.5) * w) / same.length;
    out[v] = { x, y: roof * (1 - level[i] / (top + 0.6)) };
  });
  return out;
}

// ---------------------------------------------------------------- C how large cards can be

/** A card for tiles of diameter d in so many columns. */
export function cardOf(s, d, columns) {
  const lines = s.most.reduce((sum, count) => sum + Math.ceil(count / columns), 0);
  const step = d + (d >= 22 ? 9 : d >= 12 ? 5 : 2), under = d >= 22 ? 13 : 0;
  const head = d >= 9 ? 21 : 12, sums = s.numbers && d >= 18 ? 16 : 0, foot = (d >= 12 ? 17 : 2) + sums;
  const wide = Math.min(columns, Math.max(...s.most)) * step;
  return { d, columns, step, under, head, sums, foot,
    w: Math.max(wide + 12, d >= 12 ? 118 : 30), h: head + lines * (step + under) + foot };
}

const apart = (list, card, gap) => {
  for (let i = 0; i < list.length; i++)
    for (let j = 0; j < i; j++)
      if (Math.abs(list[i].x - list[j].x) < card.w + gap && Math.abs(list[i].y - list[j].y) < card.h + gap) return false;
  return true;
};
const inside = (list, card, w, h) => list.every((p) => p.x >= card.w / 2 && p.x <= w - card.w / 2 && p.y >= card.h / 2 && p.y <= h - card.h / 2 - 8);

/** The largest tiles for which no two cards of a layout touch: {card, at}. */
export function fit(kind, s, size) {
  const most = Math.max(...s.most, 1);
  const columns = [...new Set([most, Math.ceil(most / 2), Math.ceil(most / 3), Math.ceil(most / 4), Math.ceil(Math.sqrt(most)), 2, 1].filter((c) => c <= most))];
  let last = null;
  for (let d = most > 2 ? 42 : 54; d >= 4; d--)
    for (const count of columns) {
      const card = cardOf(s, d, count), at = places(kind, s, size, card), ranks = at.slice(0, s.n);
      last = { card, at };
      if (kind === "fabric" && card.h > size.h * 0.55) continue;
      if (apart(ranks, card, Math.min(30, 8 + d * 0.5)) && inside(ranks, card, size.w, size.h)) return last;
    }
  return last;
}

/** Where a rank's slots are: centres, relative to the card's upper left corner. */
export function seats(s, card, rank) {
  const out = [];
  let y = card.head;
  s.most.forEach((count, row) => {
    const mine = s.ranks[rank].slots.map((slot, i) => (slot.row === row ? i : -1)).filter((i) => i >= 0);
    const wide = Math.min(card.columns, Math.max(mine.length, 1)) * card.step, left = (card.w - wide) / 2;
    mine.forEach((i, k) => (out[i] = {
      x: left + (k % card.columns) * card.step + card.step / 2,
      y: y + Math.floor(k / card.columns) * (card.step + card.under) + card.step / 2 }));
    y += Math.ceil(count / card.columns) * (card.step + card.under);
  });
  return out;
}

// ---------------------------------------------------------------- D ways between cards

// Where the line from the middle of a box towards a point leaves the box.
function border(p, towards, box) {
  const dx = towards.x - p.x, dy = towards.y - p.y;
  const t = Math.min(box.w / 2 / Math.max(1e-9, Math.abs(dx)), box.h / 2 / Math.max(1e-9, Math.abs(dy)), 1);
  return { x: p.x + dx * t, y: p.y + dy * t };
}

/** A bow from card to card that keeps to the left, so that both directions part (and clockwise
    round a table runs outside). */
export function bow(a, b, boxA, boxB, bend = 0.08) {
  const dx = b.x - a.x, dy = b.y - a.y;
  const c = { x: (a.x + b.x) / 2 + dy * bend, y: (a.y + b.y) / 2 - dx * bend };
  return { from: border(a, c, boxA), c, to: border(b, c, boxB) };
}

export function along(way, u) {
  const v = 1 - u;
  return { x: v * v * way.from.x + 2 * v * u * way.c.x + u * u * way.to.x, y: v * v * way.from.y + 2 * v * u * way.c.y + u * u * way.to.y };
}

/** The parts of a link on a layout; a link of a grid that wraps leaves at one edge and comes in
    at the other. */
export function waysOf(kind, s, spot, a, b) {
  const key = `${a}>${b}`;
  if (!spot.ways.has(key)) spot.ways.set(key, newWays(kind, s, spot, a, b));
  return spot.ways.get(key);
}

function newWays(kind, s, spot, a, b) {
  if (kind === "grid") return gridWays(s, spot, a, b);
  const point = { w: 0, h: 0 };
  if (kind === "fabric") return [bow(plug(s, spot, a), plug(s, spot, b), a < s.n ? point : boxAt(s, spot, a), b < s.n ? point : boxAt(s, spot, b), BENDS[kind])];
  return [bow(spot.at[a], spot.at[b], spot.card, spot.card, BENDS[kind])];
}

const BENDS = { ring: 0.16, mesh: 0.05, tree: 0.05, boxes: 0.07, fabric: 0.03 };

const boxAt = (s, spot, v) => (v < s.n ? spot.card : { w: 40, h: 18 });

// To a switch a card is plugged in on its top.
const plug = (s, spot, v) => (v < s.n ? { x: spot.at[v].x, y: spot.at[v].y - spot.card.h / 2 } : spot.at[v]);

function gridWays(s, spot, a, b) {
  const [columns, rows] = gridShape(s), A = spot.at[a], B = spot.at[b], card = spot.card;
  const dx = (b % columns) - (a % columns), dy = Math.floor(b / columns) - Math.floor(a / columns);
  const wrapX = dy === 0 && columns > 2 && Math.abs(dx) === columns - 1, wrapY = dx === 0 && rows > 2 && Math.abs(dy) === rows - 1;
  if (!wrapX && !wrapY) return [bow(A, B, card, card, 0.06)];
  const out = wrapX ? { x: dx > 0 ? 0 : spot.w, y: A.y } : { x: A.x, y: dy > 0 ? 0 : spot.h };
  const back = wrapX ? { x: dx > 0 ? spot.w : 0, y: B.y } : { x: B.x, y: dy > 0 ? spot.h : 0 };
  const none = { w: 0, h: 0 };
  return [bow(A, out, card, none, 0.02), bow(back, B, none, card, 0.02)];
}

const onWays = (ways, u) => {
  const at = Math.min(ways.length - 1, Math.floor(u * ways.length));
  return along(ways[at], Math.min(1, u * ways.length - at));
};

/** Whether a message shows the links it takes one by one: where the layout is the network's own. */
function follows(kind, s) {
  if (!s.fabric) return false;
  return kind === "fabric" || (s.fabric.shape.length === 1 && kind === "ring") || (s.fabric.shape.length > 1 && kind === "grid");
}

/** Where a message is at x, begin <= x <= done. */
export function whereIs(kind, s, spot, m, x) {
  if (m.way.length && follows(kind, s)) {
    const i = Math.max(0, Math.min(m.way.length - 2, lastUpTo(m.way.map((p) => p[0]), x)));
    const [t0, a] = m.way[i], [t1, b] = m.way[i + 1];
    return onWays(waysOf(kind, s, spot, a, b), Math.max(0, Math.min(1, (x - t0) / Math.max(1, t1 - t0))));
  }
  return onWays(waysOf(kind, s, spot, m.from, m.to), Math.min(1, (x - m.begin) / Math.max(1, m.done - m.begin)));
}

// ---------------------------------------------------------------- E tiles

/** Paints a tile round (0, 0): a wedge per contribution wanted, those that are in it filled. */
function paintTile(ctx, T, d, tile) {
  const R = d / 2 - 1, hole = d >= 16 ? R * 0.56 : 0, wanted = membersOf(tile.wanted || tile.held);
  const solid = tile.dashed ? mix(tile.fill, T.page, 0.66) : tile.fill, turn = (2 * Math.PI) / Math.max(1, wanted.length);
  ctx.beginPath();
  ctx.arc(0, 0, R, 0, 7);
  ctx.fillStyle = mix(tile.fill, T.page, tile.held ? 0.1 : 0.03);
  ctx.fill();
  ctx.fillStyle = solid;
  wanted.forEach((rank, i) => {
    if (!((tile.held >>> rank) & 1)) return;
    const a = i * turn - Math.PI / 2;
    ctx.beginPath();
    ctx.moveTo(0, 0);
    ctx.arc(0, 0, R, a, a + turn);
    ctx.fill();
  });
  ctx.strokeStyle = T.page;
  ctx.lineWidth = d >= 22 ? 1.5 : 1;
  if (wanted.length > 1 && turn * R > 3)
    for (let i = 0; i < wanted.length; i++) {
      ctx.beginPath();
      ctx.moveTo(0, 0);
      ctx.lineTo(R * Math.cos(i * turn - Math.PI / 2), R * Math.sin(i * turn - Math.PI / 2));
      ctx.stroke();
    }
  if (hole) {
    ctx.beginPath();
    ctx.arc(0, 0, hole, 0, 7);
    ctx.fillStyle = tile.right ? mix(tile.fill, T.page, 0.16) : T.page;
    ctx.fill();
  }
  ctx.beginPath();
  ctx.arc(0, 0, R, 0, 7);
  ctx.lineWidth = tile.right ? (d >= 16 ? 2.2 : 1.5) : 1;
  ctx.strokeStyle = tile.right ? mix(tile.fill, T.ink, 0.72) : mix(tile.fill, T.page, tile.held ? 0.8 : 0.35);
  if (tile.dashed && !tile.right && d >= 18) ctx.setLineDash([3, 2]);
  ctx.stroke();
  ctx.setLineDash([]);
  if (tile.text && hole) {
    ctx.fillStyle = tile.held ? T.ink : T.muted;
    ctx.font = `600 ${Math.round(Math.min(14, Math.max(8, hole * (tile.text.length > 2 ? 0.85 : 1.15))))}px ${T.font}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillText(tile.text, 0, 0.5);
  }
  if (tile.right && d >= 18) paintTick(ctx, T, R * 0.74, R * 0.74, Math.max(4.5, d * 0.15), mix(tile.fill, T.ink, 0.72));
}

function paintTick(ctx, T, x, y, r, colour) {
  ctx.beginPath();
  ctx.arc(x, y, r, 0, 7);
  ctx.fillStyle = colour;
  ctx.fill();
  ctx.lineWidth = 1.2;
  ctx.strokeStyle = T.page;
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x - r * 0.45, y);
  ctx.lineTo(x - r * 0.1, y + r * 0.38);
  ctx.lineTo(x + r * 0.5, y - r * 0.38);
  ctx.strokeStyle = isDark(colour) ? "#ffffff" : "#000000";
  ctx.stroke();
}

// ---------------------------------------------------------------- F painting what stays

function paintStage(ctx, T, s, spot, kind, fills) {
  if (kind === "boxes")
    boxesOf(s, spot.w, spot.h).forEach((box, i) => {
      ctx.beginPath();
      ctx.roundRect(box.x - 8, box.y - 6, box.w + 16, box.h + 10, 12);
      ctx.strokeStyle = mix(T.ink, T.page, 0.2);
      ctx.lineWidth = 1;
      ctx.stroke();
      ctx.fillStyle = T.muted;
      ctx.font = `11px ${T.font}`;
      ctx.textAlign = "left";
      ctx.fillText(`node ${i}`, box.x + 2, box.y + 4);
    });
  paintCables(ctx, T, s, spot, kind);
  paintPairs(ctx, T, s, spot, kind);
  if (kind === "fabric") s.fabric.names.forEach((name, i) => paintSwitch(ctx, T, spot.at[s.n + i], name));
  for (let r = 0; r < s.n; r++) paintCard(ctx, T, s, spot, r, fills);
}

// The cables of the network, where the layout is its own.
function paintCables(ctx, T, s, spot, kind) {
  if (!follows(kind, s)) return;
  ctx.strokeStyle = mix(T.ink, T.page, 0.13);
  for (const [a, b] of s.fabric.links) {
    if (!spot.at[a] || !spot.at[b]) continue;
    ctx.lineWidth = a < s.n ? 1.5 : 2.5; // a tree thickens upward
    for (const way of waysOf(kind, s, spot, a, b)) strokeWay(ctx, way);
    if (kind !== "fabric") for (const way of waysOf(kind, s, spot, b, a)) strokeWay(ctx, way);
  }
}

function strokeWay(ctx, way) {
  ctx.beginPath();
  ctx.moveTo(way.from.x, way.from.y);
  ctx.quadraticCurveTo(way.c.x, way.c.y, way.to.x, way.to.y);
  ctx.stroke();
}

// Who sends to whom: width by bytes, darkness by the share of the time it is used.
function paintPairs(ctx, T, s, spot, kind) {
  if (follows(kind, s) && kind !== "ring") return;
  const most = Math.max(1, ...s.pairs.map((p) => p.bytes)), crowd = s.pairs.length > 80 ? 0.45 : 1;
  for (const p of s.pairs) {
    const used = Math.min(1, p.busy / Math.max(1, s.span));
    ctx.lineWidth = (0.8 + 2 * Math.sqrt(p.bytes / most)) * crowd;
    ctx.strokeStyle = mix(T.ink, T.page, (0.09 + 0.17 * used) * (crowd < 1 ? 0.7 : 1));
    for (const way of waysOf(kind, s, spot, p.from, p.to)) strokeWay(ctx, way);
  }
}

function paintSwitch(ctx, T, at, name) {
  ctx.beginPath();
  ctx.roundRect(at.x - 22, at.y - 9, 44, 18, 5);
  ctx.fillStyle = T.page;
  ctx.fill();
  ctx.strokeStyle = mix(T.ink, T.page, 0.3);
  ctx.lineWidth = 1;
  ctx.stroke();
  ctx.fillStyle = T.muted;
  ctx.font = `10px ${T.font}`;
  ctx.textAlign = "center";
  ctx.fillText(name, at.x, at.y + 0.5, 42);
}

function paintCard(ctx, T, s, spot, r, fills) {
  const { card } = spot, x = spot.at[r].x - card.w / 2, y = spot.at[r].y - card.h / 2;
  ctx.beginPath();
  ctx.roundRect(x, y, card.w, card.h, Math.min(10, card.w / 6));
  ctx.fillStyle = mix(T.ink, T.page, T.dark ? 0.06 : 0.025);
  ctx.fill();
  ctx.strokeStyle = mix(T.ink, T.page, 0.16);
  ctx.lineWidth = 1;
  ctx.stroke();
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  ctx.fillStyle = T.ink;
  ctx.font = `600 ${card.head > 15 ? 12 : 9}px ${T.font}`;
  ctx.fillText(card.d >= 12 ? `rank ${r}` : `${r}`, x + 8, y + card.head / 2 + 1);
  if (!card.under) return;
  ctx.font = `10px ${T.font}`;
  ctx.textAlign = "center";
  spot.seats[r].forEach((seat, i) => {
    ctx.fillStyle = T.muted;
    ctx.fillText(s.ranks[r].slots[i].label, x + seat.x, y + seat.y + card.d / 2 + 8, card.step);
  });
}

// The messages of every sender over time, a thin row a rank: coloured on the wire, grey in a queue.
function paintStrip(ctx, T, s, strip, fills) {
  const px = strip.px, h = strip.row, measured = s.kind !== "modelled";
  for (let r = 0; r < s.n; r++) {
    ctx.fillStyle = T.track;
    ctx.fillRect(strip.left, strip.top + r * strip.pitch, strip.plot, h);
    if (strip.pitch >= 8 || r % Math.ceil(10 / strip.pitch) === 0) {
      ctx.fillStyle = T.muted;
      ctx.font = `9px ${T.font}`;
      ctx.textAlign = "right";
      ctx.fillText(String(r), strip.left - 6, strip.top + r * strip.pitch + h / 2 + 0.5);
    }
  }
  ctx.fillStyle = mix(T.ink, T.page, 0.3);
  if (h > 3) for (const m of s.messages) if (m.why) ctx.fillRect(px(m.ready), strip.top + m.from * strip.pitch + h / 2 - 0.5, px(m.begin) - px(m.ready), 1);
  for (const m of s.messages) {
    const y = strip.top + m.from * strip.pitch, x = px(m.begin), w = Math.max(1, px(m.done) - x);
    const fill = fills[m.tiles[0].colour];
    ctx.fillStyle = measured ? fill : mix(fill, T.page, 0.4);
    ctx.fillRect(x + 0.25, y, w - 0.5, h);
    if (measured || w < 4 || h < 4) continue;
    ctx.strokeStyle = fill;
    ctx.lineWidth = 1;
    ctx.setLineDash([3, 2]);
    ctx.strokeRect(x + 0.75, y + 0.5, w - 1.5, h - 1);
    ctx.setLineDash([]);
  }
  ctx.strokeStyle = T.ink;
  ctx.lineWidth = 1;
  ctx.setLineDash([3, 2]);
  for (const [from, begin, done] of s.model)
    ctx.strokeRect(px(begin), strip.top + from * strip.pitch - 0.5, Math.max(1, px(done) - px(begin)), h + 1);
  ctx.setLineDash([]);
}

function paintTimes(ctx, T, strip, end, y) {
  const [per, unit] = unitOf(end);
  ctx.font = `11px ${T.font}`;
  ctx.fillStyle = T.muted;
  ctx.textAlign = "center";
  for (const v of ticks(0, end / per, strip.plot / 80)) {
    const x = strip.px(v * per);
    ctx.fillText(String(+v.toPrecision(6)), Math.min(x, strip.left + strip.plot - 8), y);
  }
  ctx.textAlign = "right";
  ctx.fillText(unit, strip.left - 6, y);
}

// ---------------------------------------------------------------- G markup, style

export const LAYOUT_WORDS = { ring: "Ring", mesh: "Full mesh", tree: "Tree", grid: "Torus", boxes: "Nodes", fabric: "Switches" };

const STUDIO_STYLE = `
.sl.studio canvas{cursor:default}.sl.studio .totals{margin:6px 0 0;font-variant-numeric:tabular-nums}
.sl.studio .totals b{font-weight:600}.sl.studio .race{margin:6px 0 0;font-weight:600}
.sl.studio .badges{display:flex;flex-wrap:wrap;gap:6px}.sl.studio label{display:inline-flex;align-items:center;gap:8px;color:var(--soft)}
.sl.studio .say{font-size:14px;color:var(--ink);min-height:2.9em}
`;

const STUDIO_MARKUP = `
<div class="top"><div class="title" role="heading"></div><label>Layout <select data-set="layout"></select></label></div>
<div class="stage"><canvas role="img"></canvas><div class="pop" role="tooltip" hidden></div></div>
<div class="bar"><button class="icon" data-do="back" aria-label="previous message">@back</button><button class="icon go" data-do="play" aria-label="play">@play</button><button class="icon" data-do="next" aria-label="next message">@next</button>
 <span class="now"></span><input type="range" min="0" max="1000" value="0" step="1" aria-label="position in time">
 <select data-set="speed" aria-label="speed"><option value="0.25">¼ ×</option><option value="0.5">½ ×</option><option value="1" selected>1 ×</option><option value="2">2 ×</option><option value="4">4 ×</option></select>
 <button class="icon" data-do="help" aria-label="help and export" aria-expanded="false">?</button></div>
<p class="say" aria-live="polite"></p><p class="race" hidden></p><p class="totals"></p>
<div class="foot"><ul class="legend"></ul><div class="badges"></div></div>
<div class="help" hidden><b>Keys</b><dl>
<dt><kbd>space</kbd></dt><dd>play, pause</dd><dt><kbd>← →</kbd></dt><dd>previous, next message</dd><dt><kbd>shift ← →</kbd></dt><dd>previous, next message that stood in a queue</dd>
<dt><kbd>[ ]</kbd></dt><dd>slower, faster</dd><dt><kbd>l</kbd></dt><dd>next layout</dd><dt><kbd>home end</kbd></dt><dd>start, end</dd></dl>
<button data-do="png">@save</button> <button data-do="json">@save</button></div>
<details><summary>In words and as a table</summary><p class="account"></p><div class="scroll" tabindex="0" role="region" aria-label="messages"></div></details>
`.replace(/@(\w+)/g, (_, name) => `<svg class="i" viewBox="0 0 16 16" aria-hidden="true">${ICONS[name]}</svg>`);

// ---------------------------------------------------------------- H the studio

const PACES = [0.25, 0.5, 1, 2, 4], PLAY_MS = 12000; // at 1 x the whole takes 12 s

/** Draws `payload` in `el`; returns the studio: seek, step, play, pause, set, state, update,
    bench, destroy. `onPick` hears of a layout that was chosen. */
export function mount(el, payload, { onPick = () => {}, heading = 3 } = {}) {
  const root = document.createElement("section");
  root.className = "sl studio";
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.innerHTML = `<style>${STYLE}${STUDIO_STYLE}</style>${STUDIO_MARKUP}`;
  el.append(root);
  const $ = (q) => root.querySelector(q), button = (name) => $(`[data-do=${name}]`), choice = (name) => $(`[data-set=${name}]`);
  const canvas = $("canvas"), ctx = canvas.getContext("2d"), picture = document.createElement("canvas");
  const pop = $(".pop"), range = $("input"), say = $(".say");
  $(".title").setAttribute("aria-level", heading);
  button("png").append(" PNG");
  button("json").append(" JSON");
  const still = matchMedia("(prefers-reduced-motion: reduce)"), scheme = matchMedia("(prefers-color-scheme: dark)");
  const S = { x: 0, at: -1, layout: "ring", speed: 1, playing: false, hover: null, asked: false, said: 0, hits: [] };
  let scenes, order, orderX, end = 1, T, ratio = 1, width = 0, height = 0, spots = [], fills, sprites = new Map();

  // -- data ------------------------------------------------------------------------------------

  function load(next, keep) {
    const share = keep ? S.x / end : 0, was = keep && S.at;
    S.payload = next;
    scenes = next.scenes.map(decodeScene);
    order = orderOf(scenes);
    orderX = Float64Array.from(order, (o) => o.x);
    end = Math.max(1, ...scenes.map((s) => s.span));
    if (!keep || S.asked_ !== next.layout) S.layout = possible().includes(next.layout) ? next.layout : "ring";
    S.asked_ = next.layout;
    S.x = share * end;
    S.at = keep ? Math.min(was, order.length - 1) : -1;
    S.hover = null;
    S.chosen = S.chosen && keep;
    pop.hidden = true;
    transport();
    root.setAttribute("aria-label", `collective studio: ${scenes.map((s) => s.title).join(" against ")}`);
    words();
    T = null;
    resize();
    tell();
  }

  const possible = () => Object.keys(LAYOUT_WORDS).filter((kind) =>
    kind === "fabric" ? scenes.every((s) => s.fabric && s.fabric.names.length) : kind !== "boxes" || scenes[0].n > scenes[0].node);

  // -- words around the picture ----------------------------------------------------------------

  function words() {
    $(".title").innerHTML = scenes.map((s) => escape(s.title)).join(" against ") + `<small>${scenes.map((s) => timeText(s.span)).join(" against ")} on ${scenes[0].n} ranks</small>`;
    choice("layout").innerHTML = possible().map((kind) => `<option value="${kind}"${kind === S.layout ? " selected" : ""}>${LAYOUT_WORDS[kind]}</option>`).join("");
    $(".badges").innerHTML = [...new Map(scenes.map((s) => [s.badge, s])).values()].map((s) => `<div class="badge" data-kind="${escape(s.kind)}">${escape(s.badge)}</div>`).join("");
    $(".race").hidden = !S.payload.race;
    const account = scenes.map((s) => s.account).join(" ");
    $(".account").textContent = account;
    canvas.setAttribute("aria-label", account);
    if ($("details").open) table();
  }

  function legend() {
    const s = scenes[0], fill = fills[0], model = s.kind === "modelled";
    const disc = (held, right) => {
      const c = document.createElement("canvas");
      c.width = c.height = 40;
      const k = c.getContext("2d");
      k.scale(2, 2);
      k.translate(10, 10);
      paintTile(k, T, 18, { fill, held, wanted: 7, right, dashed: model });
      return `<img alt="" width="18" height="18" src="${c.toDataURL()}">`;
    };
    const many = s.ranks.some((r) => r.slots.some((slot) => membersOf(slot.wanted).length > 1));
    const items = [disc(7, true) + "as promised"];
    if (many) items.unshift(disc(3, false) + "a wedge per rank whose part is in it");
    items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x="1" y="3" width="18" height="8" fill="${model ? mix(fill, T.page, 0.4) : fill}"${model ? ` stroke="${fill}" stroke-dasharray="3 2"` : ""}/></svg>on the wire`);
    items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 7h18" stroke="${T.hatchInk}"/></svg>stands in a queue`);
    items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 11h7L4.5 4zM12 4h7l-3.5 7z" fill="${T.muted}"/></svg>bytes sent, received`);
    if (s.sums.length) items.push("+ additions so far");
    if (s.model.length) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x="1" y="2" width="18" height="10" fill="none" stroke="${T.ink}" stroke-dasharray="3 2"/></svg>predicted`);
    $(".legend").innerHTML = items.map((item) => `<li>${item}</li>`).join("");
  }

  function table(most = 400) {
    const head = ["message", "from", "to", "what", "bytes", "begins", "is done", "stood in a queue"];
    const rows = order.slice(0, most).map(({ scene, k }) => {
      const s = scenes[scene], m = s.messages[k];
      const cells = [`${k + 1}${scenes.length > 1 ? ` of ${s.title}` : ""}`, m.from, m.to, m.say.split(" hands ")[1].replace(/ to rank \d+/, ""), bytesText(m.bytes), timeText(m.begin, end), timeText(m.done, end), m.why];
      return `<tr>${cells.map((c, i) => `<td${[4, 5, 6].includes(i) ? " class=n" : ""}>${escape(c)}</td>`).join("")}</tr>`;
    });
    const sums = scenes.map((s) => {
      const t = tally(s, s.span);
      return t.sent.map((_, r) => `<tr><td>${escape(s.title)}</td><td>${r}</td><td class=n>${bytesText(t.sent[r])}</td><td class=n>${bytesText(t.received[r])}</td><td class=n>${t.added[r]}</td></tr>`).join("");
    });
    $(".scroll").innerHTML = `<table><caption>${order.length > most ? `the first ${most} of ${order.length} messages` : `${order.length} messages`}</caption><thead><tr>${head.map((h) => `<th scope=col>${h}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>
      <table><caption>in all, per rank</caption><thead><tr>${["scene", "rank", "sent", "received", "additions"].map((h) => `<th scope=col>${h}</th>`).join("")}</tr></thead><tbody>${sums.join("")}</tbody></table>`;
  }

  function announce(text) {
    clearTimeout(S.timer);
    const speak = () => ((say.textContent = text), (S.said = performance.now()));
    const wait = 300 - (performance.now() - S.said);
    if (wait <= 0) speak();
    else S.timer = setTimeout(speak, wait);
  }

  /** Where things stand at the cursor, in a sentence. */
  function tell() {
    if (S.x <= 0) return announce("Nothing has been sent yet. Press play, or step from message to message.");
    const parts = scenes.map((s) => {
      const { flying, waiting, done } = underway(s, S.x), more = [flying.length && `${flying.length} on the wire`, waiting.length && `${waiting.length} in a queue`].filter(Boolean);
      const name = scenes.length > 1 ? `${s.title}: ` : "";
      return `${name}${done} of ${s.messages.length} messages done${more.length ? `, ${more.join(", ")}` : ""}`;
    });
    announce(`${timeText(S.x, end)}: ${parts.join("; ")}.`);
  }

  function totals() {
    const text = scenes.map((s) => {
      const t = tally(s, Math.min(S.x, s.span)), name = scenes.length > 1 ? `<b>${escape(s.title)}</b>: ` : "";
      const least = s.least[0] ? `; the busiest rank ${bytesText(t.most)}, at least ${bytesText(s.least[0])} (${escape(s.least[1])}) in the end` : "";
      return `${name}sent ${bytesText(t.out)} = received ${bytesText(t.into)}${least}; ${t.adds} addition${t.adds === 1 ? "" : "s"}`;
    }).join("<br>");
    if (S.totals !== text) $(".totals").innerHTML = S.totals = text;
    const told = S.payload.race && S.x >= end ? S.payload.race : "Who ends first?";
    if (S.payload.race && $(".race").textContent !== told) $(".race").textContent = told;
  }

  // -- drawing ---------------------------------------------------------------------------------

  function stageHeight({ n, levels }, rivals) {
    const wide = width >= 640, k = n <= 4 ? 0 : n <= 8 ? 1 : n <= 16 ? 2 : 3;
    const flat = (wide ? [360, 450, 590, 720] : [420, 560, 740, 900])[k] * (rivals ? 0.86 : 1);
    return Math.round(S.layout === "tree" ? Math.max(flat, levels * (rivals ? 112 : 128)) : flat);
  }

  function resize() {
    width = Math.floor(canvas.parentElement.clientWidth);
    if (!width || !scenes) return;
    ratio = Math.min(3, window.devicePixelRatio || 1);
    const left = 26, right = 10;
    let y = 0;
    spots = scenes.map((s) => {
      const h = stageHeight(s, scenes.length > 1), head = 26, w = width;
      const spot = { ...fit(S.layout, s, { w, h }), w, h, x: 0, y: y + head, head: y, ways: new Map() };
      spot.seats = s.ranks.map((_, r) => seats(s, spot.card, r));
      const pitch = Math.max(3, Math.min(9, Math.floor(88 / s.n)));
      spot.strip = { left, plot: width - left - right, top: y + head + h + 12, pitch, row: pitch > 4 ? pitch - 2 : pitch - 1 };
      spot.strip.px = (x) => left + (x / end) * spot.strip.plot;
      spot.strip.bottom = spot.strip.top + s.n * pitch;
      y = spot.strip.bottom + (scenes.length > 1 ? 22 : 6);
      return spot;
    });
    height = y + 18;
    for (const c of [canvas, picture]) [c.width, c.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    canvas.style.height = `${height}px`;
    sprites.clear();
    paint();
    draw();
  }

  function paint() {
    if (!T) {
      T = theme(root, S.payload.palette);
      fills = scenes.reduce((a, s) => (s.colours.length > a.length ? s.colours : a), []).map(([light, dark]) => (T.dark ? dark : light));
      root.style.setProperty("--ring", T.phases.F.fill);
      sprites.clear();
      legend();
    }
    const c = picture.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = T.page;
    c.fillRect(0, 0, width, height);
    c.textBaseline = "middle";
    scenes.forEach((s, i) => {
      const spot = spots[i];
      c.save();
      c.translate(spot.x, spot.y);
      c.beginPath();
      c.rect(0, -4, spot.w, spot.h + 8);
      c.clip();
      paintStage(c, T, s, spot, S.layout, fills);
      c.restore();
      paintStrip(c, T, s, spot.strip, fills);
    });
    paintTimes(c, T, spots.at(-1).strip, end, height - 9);
  }

  /** The picture of a tile, kept. */
  function sprite(d, tile) {
    const key = [d, tile.colour, tile.held, tile.wanted, tile.right, tile.dashed, tile.text].join();
    if (!sprites.has(key)) {
      if (sprites.size > 6000) sprites.clear();
      const c = document.createElement("canvas"), room = d + 8;
      c.width = c.height = Math.ceil(room * ratio);
      const k = c.getContext("2d");
      k.scale(ratio, ratio);
      k.translate(room / 2, room / 2);
      paintTile(k, T, d, { ...tile, fill: fills[tile.colour] });
      sprites.set(key, c);
    }
    return sprites.get(key);
  }

  function put(x, y, d, tile) {
    const room = d + 8;
    ctx.drawImage(sprite(d, tile), x - room / 2, y - room / 2, room, room);
  }

  /** One frame: what stays, then tiles, messages, counters, cursor. */
  function draw() {
    if (!T || !spots.length) return;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(picture, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.textBaseline = "middle";
    S.hits = [];
    scenes.forEach((s, i) => drawScene(s, spots[i], i));
    for (const spot of spots) drawCursor(spot);
    totals();
  }

  function drawScene(s, spot, scene) {
    const x = Math.min(S.x, s.span), now = underway(s, x), chosen = picked(scene);
    drawHead(s, spot, now, scene);
    ctx.save();
    ctx.translate(spot.x, spot.y);
    for (let r = 0; r < s.n; r++) drawRank(s, spot, r, x);
    if (chosen) drawWay(s, spot, chosen, 0.9);
    for (const m of now.flying) drawWay(s, spot, m, 0.4);
    drawQueues(s, spot, now.waiting, scene);
    for (const m of now.flying) drawMessage(s, spot, m, whereIs(S.layout, s, spot, m, x), scene);
    if (chosen && chosen.done <= x) drawMessage(s, spot, chosen, whereIs(S.layout, s, spot, chosen, chosen.done), scene, true);
    ctx.restore();
  }

  /** The message that was stepped to, while the cursor stands on it. */
  function picked(scene) {
    const o = order[S.at];
    return o && o.scene === scene && o.x === S.x && S.chosen ? scenes[scene].messages[o.k] : null;
  }

  function drawHead(s, spot, now, scene) {
    ctx.textAlign = "left";
    ctx.font = `600 13px ${T.font}`;
    ctx.fillStyle = T.ink;
    const name = scenes.length > 1 ? s.title : "", over = S.x >= s.span;
    if (name) ctx.fillText(name, 8, spot.head + 13);
    const left = name ? 20 + ctx.measureText(name).width : 8;
    ctx.font = `12px ${T.font}`;
    ctx.fillStyle = T.muted;
    const others = scenes.filter((_, i) => i !== scene).map((o) => o.span);
    const first = over && others.length && s.span < Math.min(...others) ? ", first" : "";
    ctx.fillText(over ? `done after ${timeText(s.span)}${first}` : `${now.done} of ${s.messages.length} messages done`, left, spot.head + 13);
  }

  function drawRank(s, spot, r, x) {
    const { card } = spot, left = spot.at[r].x - card.w / 2, top = spot.at[r].y - card.h / 2, flash = 0.03 * end;
    s.ranks[r].slots.forEach((slot, i) => {
      const seat = spot.seats[r][i], m = momentOf(slot, x);
      const text = s.numbers ? (m && m[2] !== null ? String(m[2]) : "") : !card.under && slot.label.length < 3 ? slot.label : "";
      const tile = { colour: slot.colour, held: m ? m[1] : 0, wanted: slot.wanted, right: Boolean(m && m[3]), dashed: s.kind === "modelled", text };
      put(left + seat.x, top + seat.y, card.d, tile);
      if (tile.right && m[0] > 0 && x - m[0] < flash) {
        const grow = (x - m[0]) / flash;
        ctx.globalAlpha = 0.6 * (1 - grow);
        ctx.strokeStyle = fills[slot.colour];
        ctx.lineWidth = 2;
        ctx.beginPath();
        ctx.arc(left + seat.x, top + seat.y, card.d / 2 + 1 + 5 * grow, 0, 7);
        ctx.stroke();
        ctx.globalAlpha = 1;
      }
    });
    drawStanding(s, spot, r, x, left, top);
    if (card.d >= 12) drawCounters(s, card, r, x, left, top);
  }

  // What has come and is not added yet, small, round the tile it will join.
  function drawStanding(s, spot, r, x, left, top) {
    const seen = new Map();
    for (const one of s.ranks[r].standing) {
      if (one.since > x || one.until <= x) continue;
      const k = seen.get(one.slot) || 0, seat = spot.seats[r][one.slot], slot = s.ranks[r].slots[one.slot];
      seen.set(one.slot, k + 1);
      const a = -Math.PI / 4 + k * 0.9, d = Math.max(5, Math.round(spot.card.d * 0.42)), far = spot.card.d / 2 + 1;
      put(left + seat.x + far * Math.cos(a), top + seat.y + far * Math.sin(a), d, { colour: slot.colour, held: one.held, wanted: slot.wanted, right: false, dashed: s.kind === "modelled", text: "" });
    }
  }

  function drawCounters(s, card, r, x, left, top) {
    const added = lastUpTo(s.summedAt[r], x), y = top + card.h - 11 - card.sums;
    ctx.font = `10.5px ${T.font}`;
    ctx.fillStyle = T.muted;
    ctx.textAlign = "left";
    marker(left + 11, y, -1);
    ctx.fillText(bytesText(upTo(s.sent[r], x)), left + 17, y + 0.5);
    marker(left + card.w / 2 + 7, y, 1);
    ctx.fillText(bytesText(upTo(s.received[r], x)), left + card.w / 2 + 13, y + 0.5);
    if (!s.sums.length) return;
    ctx.textAlign = "right";
    ctx.fillText(`+ ${added + 1}`, left + card.w - 9, top + card.head / 2 + 1.5);
    if (!card.sums || added < 0) return;
    const [when, , , text] = s.summed[r][added];
    ctx.textAlign = "center";
    ctx.font = `600 11.5px ${T.font}`;
    ctx.globalAlpha = x - when < 0.16 * end ? 1 : 0.55;
    ctx.fillStyle = T.ink;
    ctx.fillText(text, left + card.w / 2, top + card.h - 11, card.w - 8);
    ctx.globalAlpha = 1;
  }

  // A small triangle: up for sent, down for received.
  function marker(x, y, way) {
    ctx.beginPath();
    ctx.moveTo(x - 3.2, y - 2.6 * way);
    ctx.lineTo(x + 3.2, y - 2.6 * way);
    ctx.lineTo(x, y + 3 * way);
    ctx.fill();
  }

  function drawWay(s, spot, m, alpha) {
    ctx.globalAlpha = alpha;
    ctx.strokeStyle = fills[m.tiles[0].colour];
    ctx.lineWidth = 2;
    const hops = m.way.length && follows(S.layout, s) ? m.way.slice(1).map((p, i) => [m.way[i][1], p[1]]) : [[m.from, m.to]];
    for (const [a, b] of hops) for (const way of waysOf(S.layout, s, spot, a, b)) strokeWay(ctx, way);
    ctx.globalAlpha = 1;
  }

  /** A message: its tiles in a row, at most four, and how many more. */
  function drawMessage(s, spot, m, at, scene, ringed = false) {
    const d = Math.max(8, Math.round(Math.min(spot.card.d, 34) * (m.tiles.length > 1 ? 0.72 : 0.9)));
    const shown = m.tiles.slice(0, 4), step = d * 0.82, wide = (shown.length - 1) * step;
    ctx.fillStyle = T.page;
    ctx.beginPath();
    ctx.roundRect(at.x - wide / 2 - d / 2 - 2, at.y - d / 2 - 2, wide + d + 4, d + 4, d / 2 + 2);
    ctx.globalAlpha = 0.85;
    ctx.fill();
    ctx.globalAlpha = 1;
    if (ringed) {
      ctx.lineWidth = 2;
      ctx.strokeStyle = T.ink;
      ctx.stroke();
    }
    shown.forEach((tile, i) => put(at.x - wide / 2 + i * step, at.y, d, {
      colour: tile.colour, held: tile.held, wanted: tile.wanted, right: false, dashed: s.kind === "modelled",
      text: d < 16 ? "" : tile.small !== null ? String(tile.small) : tile.label }));
    if (m.tiles.length > 4) {
      ctx.font = `600 10px ${T.font}`;
      ctx.fillStyle = T.ink;
      ctx.textAlign = "left";
      ctx.fillText(`+${m.tiles.length - 4}`, at.x + wide / 2 + d / 2 + 4, at.y);
    }
    S.hits.push({ x: at.x + spot.x, y: at.y + spot.y, r: Math.max(11, wide / 2 + d / 2), m, scene });
  }

  // Under the card of the rank it leaves, the next one first; how many more do not fit.
  function drawQueues(s, spot, waiting, scene) {
    const queues = new Map(), d = Math.max(6, Math.min(13, spot.card.d * 0.5)), room = Math.max(1, Math.floor((spot.card.w - 22) / (d + 2)));
    for (const m of waiting) queues.set(m.from, [...(queues.get(m.from) || []), m]);
    for (const [r, queue] of queues) {
      const left = spot.at[r].x - spot.card.w / 2 + 6 + d / 2, y = spot.at[r].y + spot.card.h / 2 + 1;
      const shown = queue.sort((a, b) => a.begin - b.begin).slice(0, room);
      ctx.fillStyle = mix(T.ink, T.page, 0.16);
      ctx.beginPath();
      ctx.roundRect(left - d / 2 - 2, y - d / 2 - 2, shown.length * (d + 2) + 2 + (queue.length > room ? 18 : 0), d + 4, d / 2 + 2);
      ctx.fill();
      shown.forEach((m, k) => {
        const tile = m.tiles[0], x = left + k * (d + 2);
        put(x, y, d, { colour: tile.colour, held: tile.held, wanted: tile.wanted, right: false, dashed: s.kind === "modelled", text: "" });
        S.hits.push({ x: x + spot.x, y: y + spot.y, r: d / 2 + 1, m, scene });
      });
      if (queue.length <= room) continue;
      ctx.font = `600 9.5px ${T.font}`;
      ctx.fillStyle = T.ink;
      ctx.textAlign = "left";
      ctx.fillText(`+${queue.length - room}`, left + room * (d + 2) - d / 2 + 1, y + 0.5);
    }
  }

  function drawCursor(spot) {
    const { strip } = spot, x = strip.px(S.x), s = scenes[spots.indexOf(spot)];
    if (S.x < end) {
      ctx.globalAlpha = 0.62;
      ctx.fillStyle = T.page;
      ctx.fillRect(x, strip.top - 1, strip.left + strip.plot + 2 - x, strip.bottom - strip.top + 1);
      ctx.globalAlpha = 1;
    }
    ctx.fillStyle = T.ink;
    ctx.fillRect(Math.round(x) - 0.75, strip.top - 5, 1.5, strip.bottom - strip.top + 7);
    if (S.x >= s.span && scenes.length > 1) flag(strip.px(s.span), strip, s);
  }

  // Whoever is over plants a flag.
  function flag(x, strip, s) {
    const first = s.span <= Math.min(...scenes.map((o) => o.span)), y = strip.bottom + 3;
    ctx.fillStyle = T.ink;
    ctx.fillRect(x - 0.75, strip.top - 5, 1.5, y - strip.top + 12);
    ctx.beginPath();
    ctx.moveTo(x, y);
    ctx.lineTo(x - 11, y + 4);
    ctx.lineTo(x, y + 8);
    ctx.fill();
    ctx.font = `600 11px ${T.font}`;
    ctx.textAlign = "right";
    ctx.fillText(`${timeText(s.span)}${first ? ", first" : ""}`, x - 15, y + 5);
  }

  function ask() {
    if (S.asked) return;
    S.asked = true;
    requestAnimationFrame(() => {
      S.asked = false;
      if (root.isConnected) draw();
    });
  }

  // -- time ------------------------------------------------------------------------------------

  function seek(x, { quiet = false } = {}) {
    S.x = Math.min(end, Math.max(0, x));
    S.at = lastUpTo(orderX, S.x);
    S.chosen = false;
    transport();
    if (!quiet) tell();
    ask();
  }

  function transport() {
    range.value = Math.round((1000 * S.x) / end);
    range.setAttribute("aria-valuetext", timeText(S.x, end));
    $(".now").innerHTML = `<b>${timeText(S.x, end)}</b> of ${timeText(end)}`;
  }

  /** To the next (1) or the previous (-1) message; `queued` leaves out those that never waited. */
  function step(way, queued = false) {
    let at = S.at + way;
    while (queued && at >= 0 && at < order.length && !scenes[order[at].scene].messages[order[at].k].why) at += way;
    if (at >= order.length) return queued ? announce("No message further on stood in a queue.") : seek(end);
    if (at < 0) return seek(0);
    const { x, scene, k } = order[at], s = scenes[scene], m = s.messages[k];
    [S.x, S.at, S.chosen] = [x, at, true];
    transport();
    const name = scenes.length > 1 ? `${s.title}, ` : "", why = m.why ? ` It stood in a queue: ${m.why}.` : "";
    announce(`${name}${m.say}.${why}`);
    ask();
  }

  function play() {
    if (S.playing) return;
    if (S.x >= end) seek(0, { quiet: true });
    S.playing = true;
    S.chosen = false;
    playButton();
    let last = performance.now(), held = 0;
    const frame = (now) => {
      if (!S.playing || !root.isConnected) return;
      const passed = Math.min(100, now - last);
      last = now;
      if (still.matches) { // no tween: a message at a time
        held += passed;
        if (held > 700 / S.speed) {
          held = 0;
          if (S.at + 1 >= order.length) seek(end);
          else step(1);
        }
      } else {
        S.x = Math.min(end, S.x + (passed / PLAY_MS) * end * S.speed);
        S.at = lastUpTo(orderX, S.x);
        transport();
        draw();
      }
      if (S.x >= end) return pause();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  function pause() {
    if (!S.playing) return;
    S.playing = false;
    playButton();
    tell();
    ask();
  }

  function playButton() {
    button("play").setAttribute("aria-label", S.playing ? "pause" : "play");
    button("play").firstElementChild.innerHTML = ICONS[S.playing ? "pause" : "play"];
  }

  // -- switches, export --------------------------------------------------------------------------

  function set({ layout: kind, speed }) {
    if (speed) choice("speed").value = String((S.speed = speed));
    if (!kind || !possible().includes(kind) || kind === S.layout) return;
    S.layout = kind;
    choice("layout").value = kind;
    S.hover = null;
    pop.hidden = true;
    resize();
    announce(`${LAYOUT_WORDS[kind]} layout.`);
    S.asked_ = kind;
    onPick({ layout: kind });
  }

  const actions = {
    play: () => (S.playing ? pause() : play()),
    back: () => (pause(), step(-1)), next: () => (pause(), step(1)),
    help: () => {
      $(".help").hidden = !$(".help").hidden;
      button("help").setAttribute("aria-expanded", !$(".help").hidden);
    },
    png: savePicture,
    json: () => save(new Blob([JSON.stringify(S.payload.scenes)], { type: "application/json" }), "scene.json"),
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
    const out = document.createElement("canvas"), c = out.getContext("2d"), foot = 20 * scenes.length + 16;
    out.width = canvas.width;
    out.height = canvas.height + Math.round((34 + foot) * ratio);
    c.scale(ratio, ratio);
    c.fillStyle = T.page;
    c.fillRect(0, 0, width, height + 34 + foot);
    c.drawImage(canvas, 0, 34, width, height);
    c.textBaseline = "middle";
    c.fillStyle = T.ink;
    c.font = `600 14px ${T.font}`;
    c.fillText(`${scenes.map((s) => s.title).join(" against ")}, at ${timeText(S.x, end)}`, 12, 18, width - 24);
    c.fillStyle = T.muted;
    c.font = `11px ${T.font}`;
    scenes.forEach((s, i) => c.fillText(s.badge, 12, height + 34 + 16 + 20 * i, width - 24));
    out.toBlob((blob) => save(blob, "collective.png"));
  }

  // -- pointer, keys -------------------------------------------------------------------------------

  function place(e) {
    const r = canvas.getBoundingClientRect();
    return { x: e.clientX - r.left, y: e.clientY - r.top };
  }

  const stripAt = (p) => spots.findIndex(({ strip }) => p.y >= strip.top - 8 && p.y <= strip.bottom + 14);

  /** What lies under the pointer: {title, lines}. */
  function under(p) {
    const hit = S.hits.findLast((h) => Math.hypot(h.x - p.x, h.y - p.y) <= h.r);
    if (hit) return aboutMessage(scenes[hit.scene], hit.m);
    const strip = stripAt(p);
    if (strip >= 0) return underStrip(scenes[strip], spots[strip].strip, p);
    for (let i = 0; i < scenes.length; i++) {
      const found = underCards(scenes[i], spots[i], p);
      if (found) return found;
    }
    return null;
  }

  function underStrip(s, strip, p) {
    const rank = Math.floor((p.y - strip.top) / strip.pitch), x = ((p.x - strip.left) / strip.plot) * end;
    const near = (3 * end) / strip.plot;
    const m = s.messages.find((one) => one.from === rank && one.begin - near <= x && one.done + near >= x);
    return m ? aboutMessage(s, m) : null;
  }

  function underCards(s, spot, p) {
    const { card } = spot, x = Math.min(S.x, s.span);
    for (let r = 0; r < s.n; r++) {
      const left = p.x - spot.x - spot.at[r].x + card.w / 2, top = p.y - spot.y - spot.at[r].y + card.h / 2;
      if (left < 0 || top < 0 || left > card.w || top > card.h) continue;
      const i = spot.seats[r].findIndex((seat) => Math.hypot(seat.x - left, seat.y - top) <= card.d / 2 + 2);
      return i >= 0 ? aboutTile(s, r, s.ranks[r].slots[i], x) : aboutRank(s, r, x);
    }
    return null;
  }

  function aboutMessage(s, m) {
    const lines = [m.what];
    if (m.why) lines.unshift(`stood in a queue for ${m.why}`);
    lines.push(`${bytesText(m.bytes)}, ${timeText(m.begin, end)} to ${timeText(m.done, end)}: ${timeText(m.done - m.begin)} on the wire`);
    return { title: `rank ${m.from} to rank ${m.to}`, lines, cause: Boolean(m.why) };
  }

  function aboutTile(s, r, slot, x) {
    const m = momentOf(slot, x), wanted = membersOf(slot.wanted), title = `${slot.label.includes("→") ? "block" : slot.label.startsWith("r") ? "word of" : "chunk"} ${slot.label} on rank ${r}`;
    if (!m) return { title, lines: ["nothing there now"] };
    const lines = [];
    if (m[3]) lines.push(m[0] > 0 ? `as promised, since ${timeText(m[0], end)}` : "as promised, from the start");
    if (wanted.length > 1) lines.push(`holds ${rankList(m[1])}: ${membersOf(m[1]).length} of ${wanted.length} parts`);
    else lines.push(`comes from ${rankList(m[1])}`);
    if (m[2] !== null) lines.push(`stands for ${m[2]}`);
    return { title, lines };
  }

  function aboutRank(s, r, x) {
    const t = tally(s, x);
    return { title: `rank ${r}`, lines: [`sent ${bytesText(t.sent[r])}, received ${bytesText(t.received[r])}, ${t.added[r]} addition${t.added[r] === 1 ? "" : "s"}`] };
  }

  function show(found, p) {
    pop.hidden = !found;
    if (!found) return;
    pop.innerHTML = `<b>${escape(found.title)}</b>` + found.lines.map((l, k) => `<span${found.cause && !k ? " class=why" : ""}>${escape(l)}</span>`).join("");
    const w = pop.offsetWidth, h = pop.offsetHeight, below = p.y + 20 + h < height;
    pop.style.left = `${Math.min(Math.max(4, p.x - w / 2), Math.max(4, width - w - 4))}px`;
    pop.style.top = `${below ? p.y + 20 : Math.max(0, p.y - h - 14)}px`;
  }

  let press = null;
  canvas.addEventListener("pointerdown", (e) => {
    const p = place(e), strip = stripAt(p);
    press = { strip, touch: e.pointerType === "touch" };
    if (strip >= 0) {
      pause();
      canvas.setPointerCapture(e.pointerId);
      seek(((p.x - spots[strip].strip.left) / spots[strip].strip.plot) * end);
    } else if (press.touch) press.long = setTimeout(() => show(under(p), p), 380);
  });
  canvas.addEventListener("pointermove", (e) => {
    const p = place(e);
    if (press && press.strip >= 0) seek(((p.x - spots[press.strip].strip.left) / spots[press.strip].strip.plot) * end);
    else if (e.pointerType !== "touch") show(under(p), p);
  });
  const release = (e) => {
    if (press) clearTimeout(press.long);
    if (press && press.touch && e.type === "pointerup" && press.strip < 0) {
      const p = place(e);
      show(under(p), p);
    }
    press = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => !press && show(null));

  const faster = (by) => set({ speed: PACES[Math.min(4, Math.max(0, PACES.indexOf(S.speed) + by))] });
  const nextLayout = () => {
    const all = possible();
    set({ layout: all[(all.indexOf(S.layout) + 1) % all.length] });
  };
  const KEYS = { " ": actions.play, "[": () => faster(-1), "]": () => faster(1), l: nextLayout, "?": actions.help,
    Home: () => (pause(), seek(0)), End: () => (pause(), seek(end)), Escape: () => (show(null), $(".help").hidden || actions.help()) };
  root.addEventListener("keydown", (e) => {
    const tag = e.target.tagName, arrows = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.ctrlKey || e.metaKey || e.altKey || tag === "SELECT" || e.target.closest(".scroll")) return;
    if (e.key === " " && (tag === "BUTTON" || tag === "SUMMARY")) return;
    const act = arrows ? () => (pause(), step(arrows, e.shiftKey)) : KEYS[e.key];
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
  choice("speed").addEventListener("change", (e) => (S.speed = +e.target.value));
  choice("layout").addEventListener("change", (e) => set({ layout: e.target.value }));
  $("details").addEventListener("toggle", () => $("details").open && table());

  // -- life ------------------------------------------------------------------------------------

  const retheme = () => ((T = null), resize());
  root.addEventListener("transitionend", (e) => e.target === root && retheme());
  scheme.addEventListener("change", retheme);
  const sizes = new ResizeObserver(() => Math.floor(canvas.parentElement.clientWidth) !== width && resize());
  sizes.observe(canvas.parentElement);

  /** Play through in so many frames and time them: milliseconds of drawing, and frame to frame. */
  async function bench(frames = 120) {
    const cost = [], gap = [];
    let last = await new Promise(requestAnimationFrame);
    for (let k = 0; k < frames; k++) {
      const begin = performance.now();
      S.x = (end * k) / frames;
      draw();
      cost.push(performance.now() - begin);
      const now = await new Promise(requestAnimationFrame);
      gap.push(now - last);
      last = now;
    }
    seek(0);
    const rank = (list, q) => list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))];
    return { messages: order.length, draw_ms: { p50: rank(cost, 0.5), p95: rank(cost, 0.95) }, frame_ms: { p50: rank(gap, 0.5), p95: rank(gap, 0.95) } };
  }

  const api = {
    root, seek, step, play, pause, set, bench,
    update: (next) => load(next, Boolean(S.payload) && next.run === S.payload.run),
    state: () => ({ x: S.x, at: S.at, end, layout: S.layout, playing: S.playing, messages: order.length, d: spots.map((spot) => spot.card.d), text: say.textContent }),
    /** Where the k-th thing that moves is, and where a scene's strip is, in CSS pixels. */
    hit: (k) => ({ x: S.hits[k].x, y: S.hits[k].y }),
    strip: (i) => ({ left: spots[i].strip.left, plot: spots[i].strip.plot, y: spots[i].strip.top + 2 }),
    destroy() {
      S.playing = false;
      clearTimeout(S.timer);
      sizes.disconnect();
      scheme.removeEventListener("change", retheme);
      root.remove();
    },
  };
  load(payload, false);
  globalThis.__shardlab_studio = api; // for benchmarks and tests: the studio mounted last
  return api;
}
