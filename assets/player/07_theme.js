// ---------------------------------------------------------------- 7 theme

const hex = (n) => Math.round(n).toString(16).padStart(2, "0");
const channels = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));

/** `share` of colour a laid over colour b, both #rrggbb. */
export function mix(a, b, share) {
  const [p, q] = [channels(a), channels(b)];
  return "#" + p.map((v, i) => hex(v * share + q[i] * (1 - share))).join("");
}

export function isDark(colour) {
  const [r, g, b] = channels(colour);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
}

function hexOf(css) {
  const found = css.match(/[\d.]+/g);
  if (!found) return "#ffffff";
  const scale = css.startsWith("color(") ? 255 : 1; // color(srgb 0.1 0.2 0.3)
  return "#" + found.slice(0, 3).map((v) => hex(v * scale)).join("");
}

function theme(root, palette, paper = false) {
  const style = getComputedStyle(root);
  const page = hexOf(style.backgroundColor), ink = hexOf(style.color), dark = isDark(page);
  const phases = {};
  const colours = paper ? { ...palette.phases, ...palette.paper } : palette.phases;
  for (const [key, s] of Object.entries(colours)) {
    const fill = dark ? s.dark : s.light;
    phases[key] = { key, fill, ink: dark ? s.dark_ink : s.light_ink, letter: s.letter, hatch: s.hatch,
      meaning: s.meaning, wash: mix(fill, page, dark ? 0.34 : 0.26), dense: mix(fill, page, 0.55) };
  }
  return { page, ink, dark, phases, font: style.fontFamily, muted: mix(ink, page, 0.62),
    line: mix(ink, page, 0.1), track: mix(ink, page, 0.045), hatchInk: mix(ink, page, 0.5),
    memory: mix(ink, page, 0.2), edge: "rgba(0,0,0,.55)", patterns: new Map(), tones: new Map() };
}

const STROKES = { // on a tile of 6 x 6
  "/": (c) => (c.moveTo(-1, 7), c.lineTo(7, -1), c.moveTo(-1, 1), c.lineTo(1, -1), c.moveTo(5, 7), c.lineTo(7, 5)),
  "\\": (c) => (c.moveTo(-1, -1), c.lineTo(7, 7), c.moveTo(5, -1), c.lineTo(7, 1), c.moveTo(-1, 5), c.lineTo(1, 7)),
  "|": (c) => (c.moveTo(3, 0), c.lineTo(3, 6)),
  "-": (c) => (c.moveTo(0, 3), c.lineTo(6, 3)),
  x: (c) => (STROKES["/"](c), STROKES["\\"](c)),
  ".": (c) => (c.rect(1, 1, 0.6, 0.6), c.rect(4, 4, 0.6, 0.6)),
};
export const HATCH_OF = { "late peer": "\\", "late sender": "\\", "late receiver": "/", "link busy": ".", "on the wire": "-", straggler: "\\", fill: "" };

function pattern(T, ctx, kind, colour, ratio) {
  const key = kind + colour + ratio;
  if (!T.patterns.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6 * ratio;
    const c = tile.getContext("2d");
    c.scale(ratio, ratio);
    c.strokeStyle = colour;
    c.lineWidth = 1;
    c.beginPath();
    STROKES[kind](c);
    c.stroke();
    const made = ctx.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(1 / ratio));
    T.patterns.set(key, made);
  }
  return T.patterns.get(key);
}

