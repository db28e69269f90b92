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

