// Rows, cells, and what is written on them.

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

