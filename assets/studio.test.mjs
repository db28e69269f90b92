// Claims about the studio's pure functions: `node --test assets/studio.test.mjs`.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

// studio.js stands in one module with parts of the player; views/studio.py puts them together.
const code = "from parallel_core.views.studio import source; import sys; sys.stdout.write(source())";
const python = process.env.PYTHON || "python3";
const text = execFileSync(python, ["-X", "utf8", "-c", code], { maxBuffer: 1 << 24 });
const studio = await import("data:text/javascript;base64," + Buffer.from(text).toString("base64"));
const { decodeScene, tally, momentOf, underway, orderOf, membersOf, places, gridShape, boxesOf } = studio;
const { cardOf, fit, seats, bow, along, waysOf, whereIs, LAYOUT_WORDS } = studio;

/** A scene of n ranks with one chunk each, and messages [from, to, ready, begin, done, why]. */
function sceneOf(n, messages, extra = {}) {
  const slot = { row: 0, label: "0", colour: 0, wanted: 2 ** n - 1, moments: [[0, 1, 4, 0], [10, 3, 9, 0], [20, 0, null, 0], [30, 15, 20, 1]] };
  return { kind: "modelled", badge: "modelled: by hand", title: "by hand", account: "", n, span: 40, least: [0, ""], node: 2,
    tree: Array.from({ length: n }, (_, r) => r - 1), colours: [["#DA8D58", "#E5848C"]], fabric: null,
    ranks: Array.from({ length: n }, () => ({ slots: [slot], standing: [] })), sums: [[10, 1, 0, "1 + 4 = 5"]], model: [],
    messages: messages.map(([from, to, ready, begin, done, why = ""]) => [from, to, ready, begin, done, 100, [[0, 1, 3, 4, "0"]], "chunk 0", "message", why, []]), ...extra };
}
const two = () => decodeScene(sceneOf(4, [[0, 1, 0, 0, 10], [2, 3, 0, 0, 20], [0, 3, 0, 20, 40, "busy"]]));
const SIZES = [{ w: 340, h: 560 }, { w: 1180, h: 450 }];

test("what left has arrived: the counters conserve at every moment", () => {
  const s = two();
  for (const x of [0, 9, 10, 25, 40]) assert.equal(tally(s, x).out, tally(s, x).into);
  assert.deepEqual(tally(s, 10), { sent: [100, 0, 0, 0], received: [0, 100, 0, 0], added: [0, 1, 0, 0], out: 100, into: 100, adds: 1, most: 100 });
  assert.equal(tally(s, 40).out, s.total);
});

test("a slot holds what its latest moment says, and nothing after it was handed on", () => {
  const slot = two().ranks[0].slots[0];
  assert.deepEqual([0, 15, 25, 35].map((x) => momentOf(slot, x)?.[1] ?? null), [1, 3, null, 15]);
});

test("a message is in a queue, then on the wire, then done", () => {
  const s = two(), told = (x) => [underway(s, x).waiting.length, underway(s, x).flying.length, underway(s, x).done];
  assert.deepEqual(told(5), [1, 2, 0]);
  assert.deepEqual(told(15), [1, 1, 1]);
  assert.deepEqual(told(30), [0, 1, 2]);
  assert.deepEqual(told(40), [0, 0, 3]);
});

test("two scenes share one clock: messages come in the order of their ends", () => {
  const order = orderOf([two(), two()]);
  assert.deepEqual(order.map((o) => [o.x, o.scene]), [[10, 0], [10, 1], [20, 0], [20, 1], [40, 0], [40, 1]]);
});

test("sets of ranks are bits, up to the thirty-second", () => {
  assert.deepEqual(membersOf(0b1011), [0, 1, 3]);
  assert.deepEqual(membersOf(2 ** 31 + 1), [0, 31]);
});

test("cards never touch and stay on the stage, in every layout and for every number of ranks", () => {
  for (const size of SIZES)
    for (const n of [2, 3, 4, 5, 8, 16, 32])
      for (const kind of Object.keys(LAYOUT_WORDS)) {
        if (kind === "fabric") continue;
        const s = decodeScene(sceneOf(n, [[0, 1, 0, 0, 10]]));
        const { card, at } = fit(kind, s, kind === "tree" ? { w: size.w, h: n * 128 } : size);
        assert.equal(at.length, n, `${kind} ${n}`);
        for (let i = 0; i < n; i++)
          for (let j = 0; j < i; j++)
            assert.ok(Math.abs(at[i].x - at[j].x) >= card.w || Math.abs(at[i].y - at[j].y) >= card.h, `${kind} ${n} ${size.w}: ${i} on ${j}`);
      }
});

test("a tree stands by its parents, each below its own", () => {
  const s = decodeScene(sceneOf(4, [[0, 1, 0, 0, 1]], { tree: [-1, 0, 0, 2] }));
  const at = places("tree", s, { w: 600, h: 400 }, cardOf(s, 20, 1));
  assert.ok(at[0].y < at[1].y && at[1].y === at[2].y && at[2].y < at[3].y);
  assert.equal(at[2].x, at[3].x);
});

test("a torus has its own shape, other numbers of ranks a grid as square as they allow", () => {
  const shaped = (n, shape) => gridShape(decodeScene(sceneOf(n, [], { fabric: { text: "", shape, names: [], links: [] } })));
  assert.deepEqual([shaped(8, [4, 2]), shaped(8, [2, 4]), shaped(12, []), shaped(7, [])], [[4, 2], [2, 4], [4, 3], [7, 1]]);
});

test("nodes are boxes that hold their ranks", () => {
  for (const box of boxesOf(decodeScene(sceneOf(8, [], { node: 4 })), 800, 400)) {
    assert.equal(box.seats.length, 4);
    for (const seat of box.seats) assert.ok(seat.x > box.x && seat.x < box.x + box.w && seat.y > box.y && seat.y < box.y + box.h);
  }
});

test("seats lie inside their card", () => {
  const s = two(), card = cardOf(s, 24, 1);
  for (const seat of seats(s, card, 0)) assert.ok(seat.x > 0 && seat.x < card.w && seat.y > 0 && seat.y < card.h);
});

test("both directions of a link part, and a bow begins and ends at its cards", () => {
  const a = { x: 0, y: 0 }, b = { x: 100, y: 0 }, box = { w: 20, h: 20 };
  const there = bow(a, b, box, box), back = bow(b, a, box, box);
  assert.ok(along(there, 0.5).y < 0 && along(back, 0.5).y > 0);
  assert.deepEqual([along(there, 0), along(there, 1)], [there.from, there.to]);
  assert.ok(Math.abs(there.from.x - 10) < 1e-9 && Math.abs(there.to.x - 90) < 1e-9);
});

test("a message moves in true time: half of its way after half of its time", () => {
  const s = two(), spot = { ...fit("ring", s, { w: 600, h: 400 }), w: 600, h: 400, ways: new Map() };
  const m = s.messages[1], [way] = waysOf("ring", s, spot, m.from, m.to);
  assert.deepEqual(whereIs("ring", s, spot, m, 0), way.from);
  assert.deepEqual(whereIs("ring", s, spot, m, 10), along(way, 0.5));
  assert.deepEqual(whereIs("ring", s, spot, m, 20), way.to);
});

test("on its network's own layout a message takes its links one by one", () => {
  const fabric = { text: "torus:4x1", shape: [4, 1], names: [], links: [[0, 1], [1, 2], [2, 3], [0, 3]] };
  const s = decodeScene(sceneOf(4, [[0, 2, 0, 0, 20]], { fabric })), spot = { ...fit("grid", s, { w: 800, h: 300 }), w: 800, h: 300, ways: new Map() };
  const m = { ...s.messages[0], way: [[0, 0], [10, 1], [20, 2]] };
  const near = (p, q) => Math.hypot(p.x - q.x, p.y - q.y) < spot.card.w;
  assert.ok(near(whereIs("grid", s, spot, m, 10), spot.at[1]));
  assert.ok(whereIs("grid", s, spot, m, 5).x < spot.at[1].x && whereIs("grid", s, spot, m, 15).x > spot.at[1].x);
});

test("a link that wraps leaves at one edge and comes in at the other", () => {
  const s = decodeScene(sceneOf(4, [[0, 3, 0, 0, 20]], { fabric: { text: "", shape: [4, 1], names: [], links: [] } }));
  const spot = { ...fit("grid", s, { w: 900, h: 300 }), w: 900, h: 300, ways: new Map() };
  const [out, back] = waysOf("grid", s, spot, 0, 3);
  assert.ok(out.to.x === 0 && back.from.x === 900 && back.to.x > spot.at[3].x);
});

test("the same default export serves anywidget and Streamlit", () => {
  assert.equal(typeof studio.default().render, "function");
  assert.equal(typeof studio.mount, "function");
});
