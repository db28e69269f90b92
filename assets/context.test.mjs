// Claims about the context ring's pure functions: `node --test assets/context.test.mjs`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const text = readFileSync(new URL("./context.js", import.meta.url));
const { beatAt, hopAt, travelled, stepFrom, turn } = await import("data:text/javascript;base64," + text.toString("base64"));

// hop, start, end, message: a contiguous ring of four, and Ulysses with its two messages
const RING = [[0, 0, 0.5, 0], [1, 0.5, 1.5, 0], [2, 1.5, 2.5, 0], [3, 2.5, 3.5, 0]];
const HEADS = [[-1, 0, 0.4, 0.4], [0, 0.4, 2.4, 0], [-1, 2.4, 2.6, 0.2]];

test("a hop begins where its beat does and all is over at the end", () => {
  assert.deepEqual([0, 0.49, 0.5, 2.4, 2.5].map((t) => hopAt(RING, t)), [0, 0, 1, 2, 3]);
  assert.equal(hopAt(RING, 3.5), Infinity);
  assert.equal(beatAt(RING, 99), 3);
});

test("before the first tile nothing is computed, and on the way home all is", () => {
  assert.equal(hopAt(HEADS, 0.2), -1);
  assert.equal(hopAt(HEADS, 1), 0);
  assert.equal(hopAt(HEADS, 2.5), Infinity);
});

test("what travels is between two members as long as its message takes", () => {
  const slow = [[0, 0, 2, 2], [1, 2, 2.5, 0]];
  assert.equal(travelled(slow, 1), 0.5);
  assert.equal(travelled(slow, 2), 1);
  assert.equal(travelled(slow, 2.4), 1); // after the last hop nothing is sent
  const quick = [[0, 0, 2, 0.5], [1, 2, 2.5, 0]];
  assert.equal(travelled(quick, 0.5), 1);
  assert.equal(travelled(quick, 1.9), 1);
  assert.equal(travelled(HEADS, 0.1), 0);
});

test("keys stop at every beat and at the end, both ways", () => {
  const on = [0];
  while (on.at(-1) < 3.5) on.push(stepFrom(RING, 3.5, on.at(-1), 1));
  assert.deepEqual(on, [0, 0.5, 1.5, 2.5, 3.5]);
  assert.equal(stepFrom(RING, 3.5, 3.5, -1), 2.5);
  assert.equal(stepFrom(RING, 3.5, 0, -1), 0);
  assert.equal(stepFrom(RING, 7, 3, 1), 7); // a rival ends later
});

test("a full turn brings a guest home", () => {
  assert.equal(turn(1, 4, 4, 120, 90).replaceAll("-0.00", "0.00"), "translate(0.00 0.00)");
  assert.equal(turn(0, 1, 4, 120, 90), "translate(90.00 90.00)");
});
