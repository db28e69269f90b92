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
  if (!s.logical) paintFringes(s);
  ctx.globalAlpha = 1;
  if (s.model) paintModel(s);
  if (s.paths) for (const path of s.paths) paintPath(s, path);
  ctx.restore();
  if (!s.logical) paintClockBars(s);
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
      if (s.steps.length < box.plot / 60 && !s.t.decks[0].ramps.length) ctx.fillText(`step ${step}`, x + 5, box.top - 13);
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
    if (s.cap && m.peak > capOf(rank)) { // what is over the cap
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
  deck.ramps.forEach(([begin, steady, drain, end], k) => {
    if (drain <= steady) return;
    const y = top.y - 5;
    ctx.globalAlpha = 0.055;
    ctx.fillStyle = T.ink;
    for (const [a, b] of [[begin, steady], [drain, end]]) ctx.fillRect(s.px(a), y, s.px(b) - s.px(a), last.bottom - y);
    ctx.globalAlpha = 1;
    ctx.fillStyle = T.muted;
    ctx.textAlign = "center";
    ctx.font = `11px ${T.font}`;
    let step = s.steps.length > 1 && s.steps[k] ? `step ${s.steps[k][0]}` : "";
    const zones = [[["warm-up"], begin, steady], [deck.bubble ? [`steady (${deck.bubble})`, deck.bubble, "steady"] : ["steady"], steady, drain], [["drain"], drain, end]];
    for (const [names, a, b] of zones) {
      const x = s.px(a), wide = s.px(b) - x;
      const all = step ? [...names.map((name) => `${step}: ${name}`), step] : names; // where there is room first
      const text = all.find((name) => textWidth(ctx, name) < wide - 4);
      ctx.fillRect(x + 1, y, Math.max(1, wide - 2), 1);
      for (const end of [x + 1, x + wide - 2]) ctx.fillRect(end, y, 1, 4);
      if (!text) continue;
      ctx.fillText(text, x + wide / 2, y - 8);
      step = "";
    }
  });
}

// In a race: whose rows these are, and a flag where they end; the first one's is filled, if anybody is.
function paintHead(s, deck) {
  const { ctx, box, T, t } = s, row = box.rows[deck.first], best = Math.min(...t.decks.map((d) => d.span));
  if (!row) return;
  const y = row.y - (deck.ramps.length ? 31 : 14), first = s.called && deck.span === best;
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
  const late = `, ${spanText(t, deck.span - best, t.span)} later`;
  ctx.fillText(`${spanText(t, deck.span, t.span)}${!s.called ? "" : first ? ", first" : late}`, x - 18, y - 2);
}

