// Claims about the editor's pure functions: `node --test assets/arena.test.mjs`.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

// arena.js stands in one module with parts of the player; views/arena.py puts them together.
const code = "from parallel_core.views.arena import source; import sys; sys.stdout.write(source())";
const python = process.env.PYTHON || "python3";
const text = execFileSync(python, ["-X", "utf8", "-c", code], { maxBuffer: 1 << 24 });
const arena = await import("data:text/javascript;base64," + Buffer.from(text).toString("base64"));
const { axisOf, rowOf, heightOf, memorySteps, peakOf, dropAt, nextOf, keyAction, score, beats } = arena;

/** A cell of `op` from a to b beats. */
const cell = (op, mb, a, b) => [op, mb, 0, `${op}${mb}`, a, b, 0, ""];
const rank = (cells = [], extra = {}) => ({ stages: [0], cells, ghosts: [], holds: [], moves: [], ...extra });
const board = (ranks, extra = {}) => ({ ranks, end: 12, makespan: 3, missing: 2, pieces: 4, par: null, cap: null, ...extra });
const press = (key, extra = {}) => ({ key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...extra });

test("the axis fills a wide stage and never makes a cell too narrow to read", () => {
  const data = board([rank([cell("F", 0, 0, 1)], { ghosts: [["B", 0, "B0", 4, 6]] })]);
  const wide = axisOf(data, 1000), narrow = axisOf(data, 100);
  assert.equal(wide.width, 1000);
  assert.ok(wide.x(data.end) <= 1000);
  assert.ok(narrow.per >= arena.roomFor("F0") && narrow.width > 100);
});

test("an empty board, and one whose tasks take no time, still have an axis", () => {
  for (const data of [board([rank()], { end: 0 }), board([rank([cell("F", 0, 0, 0)])], { end: 0 })]) {
    const axis = axisOf(data, 500);
    assert.ok(Number.isFinite(axis.per) && axis.per > 0 && Number.isFinite(axis.width));
  }
});

test("par is on the axis even where nothing placed reaches it", () => {
  const axis = axisOf(board([rank()], { par: [27, "zb-h1"] }), 600);
  assert.ok(axis.x(27) <= axis.width);
});

test("rows never touch, and the stage holds all of them", () => {
  const data = board([rank(), rank(), rank()]);
  for (const r of [1, 2]) assert.ok(rowOf(r).memory > rowOf(r - 1).bottom);
  assert.ok(rowOf(2).bottom <= heightOf(data));
});

test("memory goes in steps, from what the forward makes to what the backward frees", () => {
  const row = rank([cell("F", 0, 0, 1), cell("B", 0, 3, 5)], { holds: [[0, 1], [5, 0]] });
  assert.deepEqual(memorySteps(row), [[0, 0], [0, 1], [5, 1], [5, 0], [5, 0]]);
  assert.equal(peakOf(row), 1);
  assert.deepEqual([memorySteps(rank()), peakOf(rank())], [[], 0]);
});

test("a cell lands before the first one whose middle lies behind it", () => {
  const cells = [cell("F", 0, 0, 1), cell("F", 1, 1, 2), cell("B", 0, 4, 6)];
  assert.deepEqual([-1, 0.4, 0.6, 1.6, 4.9, 5.1, 99].map((t) => dropAt(cells, t)), [0, 0, 1, 2, 2, 3, 3]);
});

test("a key places what can run before what cannot, of the stage that was chosen", () => {
  const row = rank([], { moves: [["F", 0, "0F2", "cannot yet"], ["F", 3, "3F0", ""], ["B", 0, "0B0", "cannot"]] });
  assert.equal(nextOf(row, "F")[2], "3F0");
  assert.equal(nextOf(row, "F", 0)[2], "0F2");
  assert.equal(nextOf(row, "B")[3], "cannot");
  assert.equal(nextOf(row, "W"), null);
});

test("keys: letters place, arrows walk, backspace and ctrl-z take back", () => {
  assert.deepEqual(keyAction(press("f")), { do: "place", op: "F" });
  assert.deepEqual(keyAction(press("W")), { do: "place", op: "W" });
  assert.deepEqual(keyAction(press("ArrowUp")), { do: "rank", by: -1 });
  assert.deepEqual(keyAction(press("ArrowRight")), { do: "cell", by: 1 });
  assert.deepEqual(keyAction(press("ArrowRight", { shiftKey: true }), 2), { do: "shift", by: 1 });
  assert.deepEqual(keyAction(press("ArrowRight", { shiftKey: true })), { do: "cell", by: 1 });
  assert.deepEqual(keyAction(press("2")), { do: "stage", at: 1 });
  assert.deepEqual(keyAction(press("0")), { do: "stage", at: null });
  for (const undo of [press("Backspace"), press("z", { ctrlKey: true }), press("z", { metaKey: true })]) assert.deepEqual(keyAction(undo), { do: "undo" });
  for (const redo of [press("y", { ctrlKey: true }), press("Z", { ctrlKey: true, shiftKey: true })]) assert.deepEqual(keyAction(redo), { do: "redo" });
});

test("the browser keeps its own keys", () => {
  for (const own of [press("Tab"), press("f", { ctrlKey: true }), press("w", { metaKey: true }), press("ArrowLeft", { altKey: true }), press("Enter"), press("F5")]) assert.equal(keyAction(own), null);
});

test("the score says what is placed, what is left, and how far from par", () => {
  assert.equal(score(board([])), "3 beats placed; 2 of 4 pieces to go; no par");
  assert.match(score(board([], { makespan: 1 })), /^1 beat placed;/);
  const whole = { missing: 0, par: [27, "zb-h1"] };
  assert.equal(score(board([], { ...whole, makespan: 33 })), "Whole: 33 beats, 6 over par (zb-h1 has 27)");
  assert.equal(score(board([], { ...whole, makespan: 27 })), "Whole: 27 beats, par (zb-h1 has 27)");
  assert.equal(score(board([], { ...whole, makespan: 26.5 })), "Whole: 26.5 beats, 0.5 under par (zb-h1 has 27)");
  assert.equal(beats(1 / 3), "0.333");
});

test("the same default export serves anywidget and Streamlit", () => {
  assert.equal(typeof arena.default().render, "function");
  assert.equal(typeof arena.mount, "function");
});
