// Claims about the player's pure functions: `node --test assets/player.test.mjs`.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

// The folder's files are one module, joined as views/player.py joins them.
const folder = new URL("./player/", import.meta.url);
const text = readdirSync(folder).sort().map((name) => readFileSync(new URL(name, folder), "utf8")).join("");
const player = await import("data:text/javascript;base64," + Buffer.from(text).toString("base64"));
const { decode, timeText, bytesText, label, waitText, about, moment, lastUpTo, running, events, strange } = player;
const { spanText, heldText, rankText, logicalSteps, criticalPath, layout, ticks, pixelColumns, mix, chromeTrace } = player;

const none = { row: [], start: [], length: [], late: [], queue: [], why: [], message: [], culprit: [], doing: [], slow: [] };

/** A payload layer from [rank, lane, op, start, done, post, message, deps (rows back)] rows. */
function layerOf(spans, extra = {}) {
  const names = [...new Set(spans.map((s) => s[2]))];
  const segments = [];
  for (const [rank, lane] of spans) {
    const last = segments.at(-1);
    if (last && last[0] === rank && last[1] === lane) last[2]++;
    else segments.push([rank, lane, 1]);
  }
  const steps = (list) => list.map((v, i) => v - (i ? list[i - 1] : 0));
  const n = spans.length;
  return {
    kind: "modelled", badge: "modelled: by hand", account: "", n, world_size: 1 + Math.max(...spans.map((s) => s[0])),
    busy: Array.from({ length: 1 + Math.max(...spans.map((s) => s[0])) }, () => 0.5),
    span: Math.max(...spans.map((s) => s[4])), lanes: ["compute", "comm"], segments,
    ops: names.map((name) => [name, name.length > 1 ? "collective" : name, name]),
    names: { where: ["layer1"], axis: ["", "dp"], peers: [[]], source: [""] },
    columns: { op: spans.map((s) => names.indexOf(s[2])), where: 0, axis: 0, peers: 0, source: 0, mb: 0,
      message: spans.map((s) => s[6] ?? -1), bytes: 2048, cpu: 0, start: steps(spans.map((s) => s[3])),
      duration: spans.map((s) => s[4] - s[3]), lead: spans.map((s) => s[3] - (s[5] ?? s[3])), index: 0, memory: 0, step: 0,
      dep_count: spans.map((s) => (s[7] ?? []).length) },
    deps: spans.flatMap((s) => s[7] ?? []), waits: none, ...extra,
  };
}

// Rank 0 is done early and waits; rank 1 is late, and both meet in one all-reduce.
const PAIR = [
  [0, 0, "F", 0, 10], [0, 0, "wait", 10, 36, 10, -1, [-1]], [0, 1, "all_reduce", 10, 35, 10, 0, [2]],
  [1, 0, "F", 0, 30], [1, 0, "wait", 30, 36, 30, -1, [-1]], [1, 1, "all_reduce", 30, 36, 30, 0, [2]],
];
const WAITS = { row: [1], start: [10], length: [26], late: [20], queue: [0], why: ["late peer"], message: [2], culprit: [5], doing: [3], slow: [0] };
const pair = () => decode(layerOf(PAIR, { waits: WAITS }));

test("numbers carry three figures and the unit of their size", () => {
  assert.deepEqual([3_100_000, 999, 22e9, 12_345, 0].map((v) => timeText(v)), ["3.10 ms", "999 ns", "22 s", "12.3 µs", "0 ns"]);
  assert.equal(timeText(500, 2e6), "0.00 ms");
  assert.deepEqual([100, 4 << 20, 1536].map(bytesText), ["100 B", "4 MiB", "1.50 KiB"]);
});

test("decoding undoes differences, lanes and distances", () => {
  const t = pair();
  assert.deepEqual([...t.start], [0, 10, 10, 0, 30, 30]);
  assert.deepEqual([...t.done], [10, 36, 35, 30, 36, 36]);
  assert.deepEqual([...t.rank], [0, 0, 0, 1, 1, 1]);
  assert.deepEqual([...t.head], [1, 0, 1, 1, 0, 1]);
  assert.deepEqual([...t.dep], [2, 0, 5, 3]);
  assert.equal(label(t, 0), "F layer1 mb0");
});

test("a wait is told by its cause, the late rank and what it did", () => {
  const t = pair();
  assert.equal(waitText(t, t.waits[0]), "waits 26 ns for all_reduce layer1 mb0: 20 ns for rank 1, which was in F layer1 mb0; 6 ns on the wire");
  const all = { ...t.waits[0], late: 26, wire: 0 };
  assert.equal(waitText(t, all), "waits 26 ns for rank 1, which was in F layer1 mb0");
  assert.equal(waitText(t, { ...all, slow: 2 }), "waits 26 ns for rank 1, which was in F layer1 mb0 (2.0 times its median)");
  assert.match(about(t, 1).lines[0], /^waits 26 ns/);
  assert.match(moment(t, t.start, t.done, 15, "15 ns"), /^15 ns: rank 0 waits 26 ns .*, rank 1 F layer1 mb0\.$/);
});

test("binary search finds the last start, and nothing in a gap", () => {
  assert.deepEqual([-1, 0, 5, 99].map((x) => lastUpTo([0, 2, 4, 6], x)), [-1, 0, 2, 3]);
  const seg = { from: 0, to: 2 };
  assert.deepEqual([5, 10, 15, 20].map((x) => running([0, 12], [10, 20], seg, x)), [0, -1, 1, -1]);
});

test("events are distinct and end with the last end", () => {
  assert.deepEqual([...events([3, 0, 3], [4, 2, 9])], [0, 3, 9]);
});

test("the strange things are the longest waits, in the order of time", () => {
  const found = strange(pair());
  assert.equal(found.length, 1);
  assert.match(found[0].text, /^rank 0 waits 26 ns/);
});

test("a collective stands in one dependency step, after the latest of its group", () => {
  const level = logicalSteps(pair());
  assert.deepEqual([...level], [0, 2, 1, 0, 2, 1]);
});

test("a receive comes after its send, not the other way round", () => {
  const t = decode(layerOf([[0, 0, "F", 0, 1], [0, 1, "send", 1, 2, 1, 0, [1]], [1, 1, "recv", 0, 2, 0, 0]]));
  assert.deepEqual([...logicalSteps(t)], [0, 1, 2]);
});

test("the critical path goes through the late rank, not through the one that waited", () => {
  const t = pair();
  assert.deepEqual(criticalPath(t).map((i) => `${t.ops[t.op[i]].name}${t.rank[i]}`), ["F1", "all_reduce1", "all_reduce0", "wait0"]);
  assert.deepEqual(criticalPath(decode(layerOf([[0, 0, "F", 0, 3], [0, 0, "B", 3, 9]]))), [0, 1]);
});

test("rows do not overlap, whatever the width and the number of ranks", () => {
  for (const width of [320, 390, 1280])
    for (const ranks of [1, 4, 64]) {
      const box = layout({ width, ranks, thin: 2 });
      box.rows.forEach((row, i) => {
        assert.ok(row.memoryY + row.memoryH <= row.cellY && row.cellY + row.cellH <= row.lanes[0]);
        assert.ok(row.lanes[0] + row.laneH <= row.lanes[1]);
        if (i) assert.ok(box.rows[i - 1].bottom <= row.y);
      });
      assert.ok(box.plot > 0 && box.left + box.plot <= width);
    }
});

test("ticks are round and inside the view", () => {
  assert.deepEqual(ticks(0, 14.2, 8), [0, 2, 4, 6, 8, 10, 12, 14]);
  assert.deepEqual(ticks(3, 4, 4), [3, 3.5, 4]);
});

test("level of detail keeps each phase's share, and thin cells among long ones", () => {
  // 10 pixels; per pixel F (phase 1) has 30 %, B (phase 2) 70 %: F must get 3 of 10 columns.
  const X0 = [], X1 = [], phase = [];
  for (let x = 0; x < 10; x++) {
    X0.push(x, x + 0.3);
    X1.push(x + 0.3, x + 1);
    phase.push(1, 2);
  }
  const shape = { from: 0, to: 20, a: 0, perPixel: 1, width: 10, phases: 2 };
  const columns = [...pixelColumns(X0, X1, phase, shape)];
  assert.equal(columns.filter((c) => c === 1).length, 3);
  assert.equal(columns.filter((c) => c === 2).length, 7);
});

test("a lone cell far thinner than a pixel is drawn, and blank stays blank", () => {
  const shape = { from: 0, to: 1, a: 0, perPixel: 1, width: 8, phases: 1 };
  assert.deepEqual([...pixelColumns([3.4], [3.41], [1], shape)], [0, 0, 0, 1, 0, 0, 0, 0]);
});

test("a lane half idle is drawn half idle", () => {
  const X0 = Array.from({ length: 20 }, (_, i) => i), shape = { from: 0, to: 20, a: 0, perPixel: 1, width: 20, phases: 1 };
  const columns = [...pixelColumns(X0, X0.map((x) => x + 0.5), X0.map(() => 1), shape)];
  assert.equal(columns.filter((c) => c === 1).length, 10);
});

test("colours mix, and the Chrome trace names every span", () => {
  assert.equal(mix("#000000", "#ffffff", 0.5), "#808080");
  const out = chromeTrace(pair());
  assert.equal(out.traceEvents.filter((e) => e.ph === "X").length, 6);
  assert.equal(out.traceEvents.find((e) => e.ph === "X" && e.pid === 1).dur, 0.03);
});

test("the same default export serves anywidget and Streamlit", () => {
  assert.equal(typeof player.default().render, "function");
  assert.equal(typeof player.mount, "function");
});

// Two ranks of a pipeline, twice: rank 1 receives from 0 on one lane and sends back on another.
const PIPE = [
  [0, 0, "F", 0, 10], [0, 1, "send", 10, 10, 10, 0, [1]],
  [1, 0, "F", 14, 24, 14, -1, [-1]], [1, 1, "recv", 0, 14, 0, 0],
];
const deck = (name, more = {}) => ({ name, ranks: 2, kind: "modelled", badge: name, span: 24, chunks: 1, ways: 1, ramps: [], bubble: "", beat: 4, share: 0.5, ...more });
const ports = { slots: [0, 1], ports: [1], decks: [deck("")] };
const twice = () => {
  const moved = PIPE.map(([rank, lane, op, start, done, post, message, deps]) =>
    [rank + 2, lane, op, start, done - (op === "F" && rank ? 5 : 0), post, message >= 0 ? message + 1 : message, deps]);
  return decode(layerOf([...PIPE, ...moved], { ...ports, decks: [deck("A"), deck("B", { span: 19 })] }));
};

test("a message through a port is drawn from when its last end was posted", () => {
  const t = decode(layerOf(PIPE, ports));
  assert.deepEqual([...t.begin], [0, 10, 14, 10]);
  assert.deepEqual([...decode(layerOf(PIPE)).begin], [0, 10, 14, 0]);
});

test("beats and microbatches are said where the trace means them", () => {
  const t = decode(layerOf(PIPE, ports));
  assert.deepEqual([4, 10, 0].map((ns) => spanText(t, ns)), ["1 beat", "2.5 beats", "0 beats"]);
  assert.deepEqual([2, 4].map((n) => heldText(t, n, 0)), ["1 microbatch in flight", "2 microbatches in flight"]);
  assert.equal(heldText(decode(layerOf(PIPE)), 1536, 0), "1.50 KiB live");
  assert.match(about(t, 3).lines.join(), /2.5 beats to 3.5 beats: 1 beat/);
});

test("the critical path crosses a message that takes no time", () => {
  const still = PIPE.map((row) => row.slice());
  [still[2][3], still[2][4], still[3][4]] = [10, 20, 10];
  assert.deepEqual(criticalPath(decode(layerOf(still, ports))), [0, 1, 3, 2]);
});

test("in a race every rank has its run's name, and every run its own path", () => {
  const t = twice();
  assert.deepEqual([0, 3].map((r) => rankText(t, r)), ["A rank 0", "B rank 1"]);
  assert.deepEqual(t.decks.map((d) => criticalPath(t, d)), [[0, 1, 3, 2], [4, 5, 7, 6]]);
  assert.match(moment(t, t.start, t.done, 15, "15 ns"), /A rank 1 F layer1 mb0, B rank 0 idle/);
  assert.equal(decode(layerOf(PIPE)).decks.length, 1);
});

test("headings stand between the rows of a race", () => {
  const plain = layout({ width: 900, ranks: 4 }), race = layout({ width: 900, ranks: 4, heads: [0, 2] });
  const gap = (box, i) => box.rows[i + 1].y - box.rows[i].bottom;
  assert.equal(gap(race, 0), gap(plain, 0));
  assert.ok(gap(race, 1) > gap(race, 0) + 20 && race.bottom > plain.bottom);
});

// Ranks 0 and 1 are on one node, rank 2 on another: one message within the first node, one across.
const NODES = [
  [0, 0, "F", 0, 10], [0, 1, "send", 10, 20, 10, 0], [0, 1, "all_reduce", 40, 60, 40, 1],
  [1, 0, "F", 0, 10], [1, 1, "recv", 10, 20, 10, 0], [1, 1, "all_reduce", 40, 60, 40, 1],
  [2, 0, "F", 0, 38], [2, 1, "all_reduce", 50, 60, 50, 1],
];
const clocks = [[1, -7_000_000, 4, [2]]];
const deckOfNodes = { name: "", ranks: 3, kind: "measured", badge: "", span: 60, chunks: 0, ways: 1, ramps: [], bubble: "", beat: 0, share: 0, clocks };
const nodes = (more = {}) => decode(layerOf(NODES, { decks: [deckOfNodes], names: { where: [""], axis: [""], peers: [[0, 1]], source: [""] }, ...more }));

test("only messages with an end on another node cross nodes", () => {
  const t = nodes();
  assert.deepEqual([0, 1, 2, 4, 5, 7].map((i) => player.crossesNodes(t, i)), [false, false, true, false, true, true]);
  assert.deepEqual([[0, 1], [0, 2], [2, 1], [2, 2]].map(([a, b]) => player.unsureBetween(t, a, b)), [0, 4, 4, 0]);
  const third = { ...deckOfNodes, clocks: [...clocks, [2, 0, 6, [1]]] };
  assert.equal(player.unsureBetween(nodes({ decks: [third] }), 1, 2), 10);
  assert.equal(player.unsureBetween(pair(), 0, 1), 0);
  const later = { ...deckOfNodes, name: "b", clocks: [[1, 0, 4, [1]]] }; // the second of a race: ranks 3 to 5
  const race = decode(layerOf(NODES, { decks: [{ ...deckOfNodes, name: "a", clocks: [] }, later], world_size: 6 }));
  assert.deepEqual([0, 1, 2, 3, 4, 5].map((rank) => Boolean(race.clockAt[rank])), [false, false, false, false, true, false]);
});

test("a clock's bar is twice its uncertainty long, to scale, under its own ranks alone", () => {
  const t = nodes(), box = layout({ width: 900, ranks: 3 });
  const [bar, ...rest] = player.clockBars(t, box, { a: 0, b: 60 });
  assert.equal(rest.length, 0);
  assert.equal(bar.rank, 2);
  assert.ok(bar.y > box.rows[2].bottom && bar.y < box.bottom);
  assert.ok(Math.abs(bar.to - bar.from - (8 / 60) * box.plot) < 1e-9);
  const [near] = player.clockBars(t, box, { a: 30, b: 60 }); // zoomed in
  assert.ok(Math.abs(near.to - near.from - 2 * (bar.to - bar.from)) < 1e-9);
  const [cut] = player.clockBars(t, box, { a: 30, b: 31 });
  assert.equal(cut.to, box.left + box.plot);
  assert.equal(bar.text, "± 4 ns");
  assert.deepEqual(player.clockBars(pair(), layout({ width: 900, ranks: 2 }), { a: 0, b: 36 }), []);
});

test("a fringe is shaded around both ends of a message that crosses nodes, as wide as the bar", () => {
  const t = nodes(), box = layout({ width: 900, ranks: 3 }), drawn = [];
  const ctx = { set globalAlpha(v) { this.alpha = v; }, fillRect: function (x, y, w, h) { if (this.alpha < 0.5) drawn.push({ x, y, w, h }); } };
  const view = { a: 0, b: 60 }, px = (x) => box.left + (x / 60) * box.plot;
  player.paintFringes({ ctx, t, X0: t.start, X1: t.done, B0: t.begin, view, box, px, T: { ink: "#000000" } });
  assert.deepEqual(drawn.map(({ x, w }) => Math.round((x + w / 2 - box.left) * 60 / box.plot)), [50, 60]);
  for (const { w, y } of drawn) {
    assert.ok(Math.abs(w - (8 / 60) * box.plot) < 1e-9);
    assert.ok(y >= box.rows[2].lanes[0] - 1 && y < box.rows[2].bottom);
  }
});

test("a message across nodes, and a wait shorter than the clocks are sure, say so", () => {
  const waits = { row: [2], start: [40], length: [20], late: [3], queue: [0], why: ["late peer"], message: [2], culprit: [7], doing: [-1], slow: [0], root: [-1] };
  const t = nodes({ waits });
  assert.ok(about(t, 2).lines.includes("it crosses nodes: when its ends were is known to ± 4 ns of each other"));
  assert.ok(about(t, 2).lines.includes("who was late is not certain: the two clocks are known to ± 4 ns"));
  assert.ok(!about(nodes({ waits: { ...waits, late: [5] } }), 2).lines.some((line) => line.includes("not certain")));
  assert.ok(!about(t, 1).lines.some((line) => line.includes("crosses")));
  const told = player.aboutClock(t, 2);
  assert.equal(told.title, "rank 2 is on node 1: its times are ± 4 ns");
  assert.match(told.lines.join(" "), /clock was -7 ms; .*first node.* half of the shortest round trip/);
});

test("an exported slice says how sure its node's clock is", () => {
  const sure = chromeTrace(nodes()).traceEvents.filter((e) => e.ph === "X").map((e) => [e.pid, e.args.clock_unsure_us]);
  assert.ok(sure.every(([rank, us]) => us === (rank === 2 ? 0.004 : undefined)));
});
