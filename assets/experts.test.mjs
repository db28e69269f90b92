// Claims about the expert grid's pure function: `node --test assets/experts.test.mjs`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const text = readFileSync(new URL("./experts.js", import.meta.url));
const { walk } = await import("data:text/javascript;base64," + text.toString("base64"));

test("down begins at the first token, up at the last, and neither leaves the figure", () => {
  assert.deepEqual([walk("ArrowDown", -1, 3), walk("ArrowDown", 0, 3), walk("ArrowDown", 2, 3)], [0, 1, 2]);
  assert.deepEqual([walk("ArrowUp", -1, 3), walk("ArrowUp", 2, 3), walk("ArrowUp", 0, 3)], [2, 1, 0]);
});

test("home, end and escape lead to the ends and out of it", () => {
  assert.deepEqual([walk("Home", 2, 3), walk("End", 0, 3), walk("Escape", 1, 3)], [0, 2, -1]);
});

test("other keys are left to the page, and so are all where there is no token", () => {
  assert.equal(walk("Tab", 0, 3), null);
  assert.equal(walk("ArrowDown", -1, 0), null);
});
