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

