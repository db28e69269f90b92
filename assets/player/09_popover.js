// ---------------------------------------------------------------- 9 the popover's content

/** What is to be said about a row: {title, lines}; the cause comes first. */
export function about(t, i) {
  const w = t.waitAt.get(i), lines = [];
  if (w) lines.push(w.why === "fill" ? `nothing to do yet: ${waitText(t, w)}` : waitText(t, w));
  const doubt = w && w.late > 0 && w.culprit >= 0 ? unsureBetween(t, t.rank[i], t.rank[w.culprit]) : 0;
  if (doubt && w.late <= doubt) lines.push(`who was late is not certain: the two clocks are known to ± ${timeText(doubt)}`);
  if (t.msg[i] >= 0) {
    const deck = deckOf(t, t.rank[i]), ranks = t.ends[t.msg[i]].map((j) => t.rank[j] - deck.first).sort((a, b) => a - b);
    const axis = t.names.axis[t.axis[i]], [from, to] = (t.names.peers[t.peers[i]] || []).map((r) => r - deck.first);
    const who = isPair(t, i) ? `rank ${from} to rank ${to}` : ranks.length > 8 ? `${ranks.length} ranks` : `ranks ${ranks.join(", ")}`;
    lines.push(`${deck.share && !t.bytes[i] ? "" : `${bytesText(t.bytes[i])}, `}${who}${axis ? `, along ${axis}` : ""}`);
    const apart = t.ends[t.msg[i]].reduce((most, j) => Math.max(most, unsureBetween(t, t.rank[i], t.rank[j])), 0);
    if (apart) lines.push(`it crosses nodes: when its ends were is known to ± ${timeText(apart)} of each other`);
  }
  const total = t.done[i] - t.begin[i];
  const cpu = t.cpu[i] && !t.beat && Math.abs(t.cpu[i] - total) > total * 0.02 ? `, ${timeText(t.cpu[i])} of it on a core` : "";
  lines.push(`${spanText(t, t.begin[i], t.span)} to ${spanText(t, t.done[i], t.span)}: ${spanText(t, total)}${cpu}`);
  if (t.memory[i] && !(t.lane[i] && deckOf(t, t.rank[i]).share)) lines.push(`${heldText(t, t.memory[i], t.rank[i])} after it`);
  const source = t.names.source[t.source[i]];
  if (source) lines.push(source);
  return { title: `${label(t, i)} on ${rankText(t, t.rank[i])}`, lines };
}

/** What is to be said of the clock of a rank on another node: {title, lines}. */
export function aboutClock(t, rank) {
  const { node, off, unsure } = t.clockAt[rank];
  return { title: `${rankText(t, rank)} is on node ${node}: its times are ± ${timeText(unsure)}`, lines: [
    `node ${node}'s clock was ${off < 0 ? "-" : "+"}${timeText(Math.abs(off))}; its times are laid on the first node's clock`,
    "measured by ping-pong before and after the run: certain to half of the shortest round trip" ] };
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

const doubtOf = (t, i) => (t.clockAt[t.rank[i]] ? { clock_unsure_us: t.clockAt[t.rank[i]].unsure / 1e3 } : {});

/** The layer in Chrome's trace format, which Perfetto opens. */
export function chromeTrace(t) {
  const traceEvents = [];
  for (const seg of t.segs)
    traceEvents.push({ ph: "M", name: "thread_name", pid: seg.rank, tid: seg.lane, args: { name: t.lanes[seg.lane] } });
  for (let i = 0; i < t.n; i++)
    traceEvents.push({ ph: "X", name: label(t, i), pid: t.rank[i], tid: t.lane[i], ts: t.start[i] / 1e3,
      dur: (t.done[i] - t.start[i]) / 1e3,
      args: { step: t.step[i], bytes: t.bytes[i], memory: t.memory[i], axis: t.names.axis[t.axis[i]], ...doubtOf(t, i) } });
  return { traceEvents, displayTimeUnit: "ms", otherData: { provenance: t.badge } };
}

