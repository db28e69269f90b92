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

