// ---------------------------------------------------------------- 4 logical steps, critical path

const isSend = (t, i) => t.ops[t.op[i]].name === "send";
const isPair = (t, i) => isSend(t, i) || t.ops[t.op[i]].name === "recv";

/** Per row its dependency step: one after the latest of its lane, its inputs and its group. */
export function logicalSteps(t) {
  const node = Int32Array.from({ length: t.n }, (_, i) => i);
  for (const list of t.ends) if (list && !isPair(t, list[0])) for (const i of list) node[i] = list[0];
  const next = Array.from({ length: t.n }, () => []), missing = new Int32Array(t.n);
  const edge = (from, to) => {
    if (node[from] === node[to]) return;
    next[node[from]].push(node[to]);
    missing[node[to]]++;
  };
  for (let i = 0; i < t.n; i++) {
    if (!t.head[i]) edge(i - 1, i);
    for (let k = t.depFrom[i]; k < t.depFrom[i + 1]; k++) edge(t.dep[k], i);
  }
  for (const list of t.ends)
    if (list && isPair(t, list[0]))
      for (const a of list) for (const b of list) if (isSend(t, a) && !isSend(t, b)) edge(a, b);
  const level = new Float64Array(t.n), ready = [];
  for (let i = 0; i < t.n; i++) if (node[i] === i && !missing[i]) ready.push(i);
  while (ready.length) {
    const i = ready.pop();
    for (const j of next[i]) {
      level[j] = Math.max(level[j], level[i] + 1);
      if (!--missing[j]) ready.push(j);
    }
  }
  return level.map((_, i) => level[node[i]]);
}

/** Of a message the end that was posted last: whoever kept the others waiting. */
function lastPosted(t, message) {
  return t.ends[message].reduce((a, b) => (t.post[b] > t.post[a] ? b : a));
}

/** The rows that decide the makespan, first to last: from the last end back, always to the
    latest thing that had to be there. In a race each deck has its own. */
export function criticalPath(t, deck = t.decks[0]) {
  let i = -1;
  for (let k = 0; k < t.n; k++)
    if (t.rank[k] >= deck.first && t.rank[k] < deck.end && (i < 0 || t.done[k] > t.done[i])) i = k;
  const seen = new Uint8Array(t.n), path = [];
  while (i >= 0 && !seen[i]) {
    path.push(i);
    seen[i] = 1;
    if (t.msg[i] >= 0) {
      const last = lastPosted(t, t.msg[i]);
      if (t.post[last] > t.start[i] && t.done[i] >= t.post[last] && !seen[last]) {
        path.push((i = last));
        seen[i] = 1;
      }
    }
    let before = t.head[i] ? -1 : i - 1;
    for (let k = t.depFrom[i]; k < t.depFrom[i + 1]; k++)
      if (before < 0 || t.done[t.dep[k]] >= t.done[before]) before = t.dep[k];
    i = before;
  }
  return path.reverse();
}

