// ---------------------------------------------------------------- 6 level of detail

/** One phase per pixel column, 0 for blank, where spans are thinner than pixels.

    Each column goes to the phase that covers most of it. What a column could not show is carried
    to the next, so that over a few pixels every phase gets its share: a thin F among long Bs is
    not lost. A mark always wins a column against blank unless blank is a whole pixel in credit. */
export function pixelColumns(X0, X1, phase, { from, to, a, perPixel, width, phases }) {
  const out = new Uint8Array(width), cover = new Float64Array(phases + 1);
  const credit = new Float64Array(phases + 1);
  let i = from;
  for (let x = 0; x < width; x++) {
    const left = a + x * perPixel, right = left + perPixel;
    while (i < to && X1[i] <= left) i++;
    cover.fill(0);
    let covered = 0;
    for (let k = i; k < to && X0[k] < right; k++) {
      const part = (Math.min(X1[k], right) - Math.max(X0[k], left)) / perPixel;
      if (phase[k] && X1[k] > left) [cover[phase[k]], covered] = [cover[phase[k]] + Math.max(part, 1e-9), covered + part];
    }
    if (!covered && !cover.some((c) => c > 0)) {
      credit.fill(0);
      continue;
    }
    cover[0] = Math.max(0, 1 - covered);
    let best = -1;
    for (let p = 1; p <= phases; p++) {
      credit[p] = cover[p] ? credit[p] + cover[p] : 0;
      if (cover[p] && (best < 0 || credit[p] > credit[best])) best = p;
    }
    credit[0] += cover[0];
    if (credit[0] >= 1) best = 0;
    credit[best] -= 1;
    out[x] = best;
  }
  return out;
}

