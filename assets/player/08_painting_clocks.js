// How sure the times of another node are, to scale: a bar at the head of each of its ranks' lanes,
// and a fringe as wide at both ends of every message that crosses nodes.

const CAP = 3; // half the height of a bar's ends

/** Shades both ends of every message of another node's ranks that crosses nodes. */
export function paintFringes(s) {
  const { ctx, t, X0, X1, B0, view, box } = s;
  for (const seg of t.segs) {
    const clock = t.clockAt[seg.rank], row = box.rows[seg.rank];
    if (!clock || !row) continue;
    const wide = s.px(clock.unsure) - s.px(0);
    if (wide < 1) continue;
    const [y, h] = placeIn(s, row, t.slots[seg.lane]);
    const from = Math.max(seg.from, lastUpTo(X0, view.a - clock.unsure, seg.from, seg.to));
    for (let i = from; i < seg.to && X0[i] - clock.unsure <= view.b; i++)
      if (crossesNodes(t, i)) for (const x of [B0[i], X1[i]]) paintFringe(s, s.px(x), y, wide, h);
  }
  ctx.globalAlpha = 1;
}

function paintFringe({ ctx, T }, x, y, wide, h) {
  ctx.globalAlpha = 0.22;
  ctx.fillStyle = T.ink;
  ctx.fillRect(x - wide, y - 1, 2 * wide, h + 2);
  ctx.globalAlpha = 0.8;
  if (wide >= 3) for (const end of [x - wide, x + wide - 1]) ctx.fillRect(end, y - 1, 1, h + 2);
}

function paintClockBars(s) {
  const { ctx, t, box, T } = s;
  for (const { y, from, to, text, rank } of clockBars(t, box, s.view)) {
    ctx.fillStyle = T.ink;
    ctx.fillRect(from, y - 0.75, Math.max(1, to - from), 1.5);
    for (const x of [from, (from + to) / 2, to]) ctx.fillRect(x - 0.5, y - CAP, 1, 2 * CAP);
    if (rank % box.labelEvery || box.rows[0].cellH < 24) continue;
    ctx.fillStyle = T.muted;
    ctx.font = `9px ${T.font}`;
    ctx.textAlign = "left";
    const room = textWidth(ctx, text) + 5;
    if (to + room < box.left + box.plot) ctx.fillText(text, to + 5, y + 0.5);
  }
}

/** The bars under the rows of ranks on other nodes: twice the uncertainty long, at the left edge
    whatever part of the trace is shown, cut off at the right one; pixels. */
export function clockBars(t, box, view) {
  return box.rows.flatMap((row, rank) => {
    const clock = t.clockAt[rank];
    if (!clock) return [];
    const long = (2 * clock.unsure * box.plot) / (view.b - view.a);
    return [{ rank, y: row.bottom + 4, from: box.left, to: box.left + Math.min(long, box.plot), text: `± ${timeText(clock.unsure)}` }];
  });
}
