// What lies over the cells: waits, the prediction, the critical path, messages.

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

