// ---------------------------------------------------------------- A1 where things stand, what a key means

const ROW = { memory: 20, gap: 3, cell: 30, between: 12 };
const PITCH = ROW.memory + ROW.gap + ROW.cell + ROW.between;
const TOP = 24, LETTER = 6.6, EDGE = 10; // px: the axis, a letter of a label, room at both ends

/** The least pixels a cell takes whose label can be read. */
export const roomFor = (text) => LETTER * text.length + 6;

/** The time axis: pixels a beat so that the board fills `width`, but no cell is too narrow to read.
    `end` leaves room for what comes next. */
export function axisOf(data, width) {
  const cells = data.ranks.flatMap((rank) => rank.cells.map(([, , , text, a, b]) => [text, b - a]).concat(rank.ghosts.map(([, , text, a, b]) => [text, b - a])));
  const least = Math.max(0, ...cells.filter(([, length]) => length > 1e-9).map(([text, length]) => roomFor(text) / length));
  const end = Math.max(data.end, data.par ? data.par[0] : 0, 1) * 1.02;
  const per = Math.max((width - 2 * EDGE) / end, Math.min(least, 8000 / end));
  return { end, per, width: Math.max(width, Math.ceil(end * per + 2 * EDGE)), x: (t) => EDGE + t * per };
}

/** Where each row stands, from the top. */
export function rowOf(rank) {
  const y = TOP + rank * PITCH;
  return { y, memory: y, cell: y + ROW.memory + ROW.gap, bottom: y + ROW.memory + ROW.gap + ROW.cell };
}

export const heightOf = (data) => TOP + data.ranks.length * PITCH;

/** The memory strip as steps: [[x, held], ...] up to the last end of the rank. */
export function memorySteps(rank) {
  const out = [];
  let held = 0;
  for (const [at, now] of rank.holds) {
    out.push([at, held], [at, now]);
    held = now;
  }
  const last = rank.cells.at(-1);
  if (last) out.push([last[5], held]);
  return out;
}

export const peakOf = (rank) => rank.holds.reduce((most, [, held]) => Math.max(most, held), 0);

/** Where in a row a cell would land that is let go at time t: before the first whose middle is later. */
export function dropAt(cells, t) {
  const at = cells.findIndex(([, , , , a, b]) => t < (a + b) / 2);
  return at < 0 ? cells.length : at;
}

/** What `op` on `rank` would place: the first that can run, of `stage` if one is chosen. */
export function nextOf(rank, op, stage = null) {
  const found = rank.moves.filter((move) => move[0] === op && (stage === null || move[1] === stage));
  return found.find((move) => !move[3]) || found[0] || null;
}

/** What a key asks for, or null: {do, ...}. `at` is the cell the reader stands on, or null. */
export function keyAction(event, at = null) {
  const key = event.key, ctrl = event.ctrlKey || event.metaKey;
  if (ctrl && !event.altKey && key.toLowerCase() === "z") return { do: event.shiftKey ? "redo" : "undo" };
  if (ctrl && !event.altKey && key.toLowerCase() === "y") return { do: "redo" };
  if (ctrl || event.altKey) return null;
  if ("fbiw".includes(key.toLowerCase()) && key.length === 1) return { do: "place", op: key.toUpperCase() };
  if (key === "ArrowUp" || key === "ArrowDown") return { do: "rank", by: key === "ArrowUp" ? -1 : 1 };
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const by = key === "ArrowLeft" ? -1 : 1;
    return event.shiftKey && at !== null ? { do: "shift", by } : { do: "cell", by };
  }
  if (/^[0-9]$/.test(key)) return { do: "stage", at: key === "0" ? null : Number(key) - 1 };
  return { Backspace: { do: "undo" }, c: { do: "path" }, g: { do: "rest" }, "?": { do: "help" }, Escape: { do: "close" } }[key] || null;
}

/** 12.5 -> "12.5": at most three digits behind the point. */
export const beats = (value) => String(Math.round(value * 1000) / 1000);

export function score(data) {
  const so = `${beats(data.makespan)} ${data.makespan === 1 ? "beat" : "beats"} placed`;
  const par = data.par ? `par ${beats(data.par[0])} (${data.par[1]})` : "no par";
  if (data.missing) return `${so}; ${data.missing} of ${data.pieces} pieces to go; ${par}`;
  if (!data.par) return `Whole: ${beats(data.makespan)} beats`;
  const over = data.makespan - data.par[0];
  const how = Math.abs(over) < 1e-6 ? "par" : over > 0 ? `${beats(over)} over par` : `${beats(-over)} under par`;
  return `Whole: ${beats(data.makespan)} beats, ${how} (${data.par[1]} has ${beats(data.par[0])})`;
}

// ---------------------------------------------------------------- A2 markup and style

const ARENA_STYLE = `
.sl .score{font-weight:600}.sl .board{position:relative;display:grid;grid-template-columns:auto minmax(0,1fr);gap:0 6px}
.sl .names{padding-top:${TOP}px}.sl .names button{display:block;width:100%;min-width:64px;height:${PITCH - 6}px;margin-bottom:6px;padding:0 8px;text-align:left;line-height:1.3;white-space:normal}
.sl .names i{font-style:normal}.sl .names small{display:block;color:inherit;opacity:.8;font-size:11px}
.sl .plot{position:relative;overflow-x:auto;overflow-y:hidden}.sl .plot svg{display:block;font:12px var(--st-font,ui-sans-serif,system-ui,sans-serif)}
.sl .plot svg .cell{cursor:grab;touch-action:pan-y}.sl .plot svg text{pointer-events:none;user-select:none}
.sl .tray{display:grid;gap:4px;margin:8px 0 0;padding:0;list-style:none}.sl .tray li{display:flex;flex-wrap:wrap;gap:4px 6px;align-items:center;margin:0}
.sl .tray b{min-width:58px;font-weight:400;color:var(--soft)}.sl .tray li[data-on] b{color:var(--ink);font-weight:600}
.sl .tray button{min-width:44px;border-width:1.5px;border-style:dashed}.sl .tray button[aria-disabled=true]{border:1px solid var(--line);color:var(--soft);cursor:help}.sl button:disabled{opacity:.45;cursor:default}
.sl .say{color:var(--ink);min-height:2.9em;font-size:13.5px}.sl .say[data-no]{border-left:4px solid var(--no,#cd4315);padding-left:8px}
@container (max-width:560px){.sl .names button{min-width:40px;padding:0 4px;font-size:11px;text-align:center}.sl .names i{display:none}
.sl .tray li:not([data-on]){display:none}.sl .tray button{min-width:48px;height:40px}.sl .wide{display:none}}
`;

const ARENA_MARKUP = `
<div class="top"><div class="title" role="heading"></div>
 <button data-do="undo" aria-keyshortcuts="Control+Z Backspace">Undo</button><button data-do="redo" aria-keyshortcuts="Control+Y">Redo</button>
 <button data-do="path">Critical path</button><button data-do="rest">Rest</button><button class="icon" data-do="help" aria-label="help" aria-expanded="false">?</button></div>
<p class="score" aria-live="polite"></p>
<div class="board"><div class="names" role="group" aria-label="rank"></div><div class="plot" tabindex="0" role="group" aria-label="timeline, scrolls sideways"><svg role="img"></svg></div><div class="pop" role="tooltip" hidden></div></div>
<ul class="tray" aria-label="what each rank can place next"></ul>
<p class="say" role="status" aria-live="polite"></p>
<div class="foot"><ul class="legend"></ul><div class="badge"></div></div>
<div class="help" hidden><b>Keys</b><dl>
<dt><kbd>↑ ↓</kbd></dt><dd>choose the rank</dd><dt><kbd>F B I W</kbd></dt><dd>place the next forward, backward, its input half, its weight half</dd>
<dt><kbd>1 2 … 0</kbd></dt><dd>of the rank's first, second … stage; of any</dd>
<dt><kbd>← →</kbd></dt><dd>stand on a cell and hear why it waits</dd><dt><kbd>shift ← →</kbd></dt><dd>move that cell (or drag it)</dd>
<dt><kbd>backspace</kbd>, <kbd>ctrl z</kbd></dt><dd>undo</dd><dt><kbd>ctrl y</kbd></dt><dd>redo</dd><dt><kbd>c</kbd></dt><dd>critical path</dd><dt><kbd>g</kbd></dt><dd>the rest, placed greedily</dd></dl></div>
<details><summary>In words and as a table</summary><p class="account"></p><div class="scroll" tabindex="0" role="region" aria-label="tasks"></div></details>`;

const NS = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---------------------------------------------------------------- A3 drawing

/** One cell, as a modelled mark is drawn: a wash of its colour in a dashed edge; B in two halves. */
function drawCell(T, op, text, box, { ghost = false, faint = false, outlined = false } = {}) {
  const look = T.phases[op], group = svg("g", { opacity: faint ? 0.35 : 1 });
  const whole = { x: box.x + 0.75, y: box.y + 0.75, width: Math.max(1, box.w - 1.5), height: box.h - 1.5, rx: 3 };
  if (!ghost) {
    group.append(svg("rect", { ...whole, fill: look.wash }));
    if (look.hatch === "half") group.append(svg("rect", { ...whole, x: box.x + box.w / 2, width: Math.max(0.5, box.w / 2 - 0.75), fill: T.phases.W.wash }));
    if (look.hatch === "/") group.append(svg("rect", { ...whole, fill: "url(#arena-hatch)" }));
  }
  group.append(svg("rect", { ...whole, fill: "none", stroke: ghost ? T.muted : look.fill, "stroke-width": ghost ? 1 : 1.5, "stroke-dasharray": ghost ? "1 3" : "4 3" }));
  if (outlined) group.append(svg("rect", { ...whole, fill: "none", stroke: T.ink, "stroke-width": 2.5 }));
  if (box.w > roomFor(text) - 3) group.append(svg("text", { x: box.x + box.w / 2, y: box.y + box.h / 2 + 4, "text-anchor": "middle", fill: ghost ? T.muted : T.ink }, text));
  return group;
}

function drawMemory(T, rank, axis, row, most, cap) {
  const group = svg("g", {}), y = (held) => row.memory + ROW.memory - (held / most) * (ROW.memory - 2);
  const steps = memorySteps(rank);
  if (steps.length) {
    const points = [[steps[0][0], 0], ...steps].map(([t, held]) => `${axis.x(t)},${y(held)}`);
    group.append(svg("polygon", { points: [...points, `${axis.x(steps.at(-1)[0])},${y(0)}`].join(" "), fill: T.memory }));
  }
  if (cap !== null) {
    group.append(svg("path", { d: `M${EDGE} ${y(cap)}H${axis.width - EDGE}`, stroke: T.ink, "stroke-dasharray": "6 3" }));
  }
  return group;
}

function draw(node, T, data, look, width) {
  const axis = axisOf(data, width), height = heightOf(data);
  node.replaceChildren();
  for (const [name, value] of [["width", axis.width], ["height", height], ["viewBox", `0 0 ${axis.width} ${height}`]]) node.setAttribute(name, value);
  const hatch = svg("pattern", { id: "arena-hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  hatch.append(svg("path", { d: "M0 0V6", stroke: T.hatchInk, "stroke-width": 1.4 }));
  node.append(hatch);
  for (const t of ticks(0, axis.end, Math.max(2, Math.floor(axis.width / 70)))) {
    node.append(svg("path", { d: `M${axis.x(t)} ${TOP - 5}V${height}`, stroke: T.line }));
    node.append(svg("text", { x: axis.x(t), y: TOP - 10, "text-anchor": "middle", fill: T.muted }, beats(t)));
  }
  const most = Math.max(1, data.cap || 0, ...data.ranks.map(peakOf));
  data.ranks.forEach((rank, r) => {
    const row = rowOf(r);
    if (r === look.rank) node.append(svg("rect", { x: 0, y: row.y - 3, width: axis.width, height: PITCH - 6, rx: 5, fill: T.track }));
    node.append(drawMemory(T, rank, axis, row, most, data.cap));
    if (look.rest) for (const [op, , text, a, b] of rank.ghosts) node.append(drawCell(T, op, text, boxAt(axis, row, a, b), { ghost: true, faint: look.path }));
    rank.cells.forEach(([op, , , text, a, b, onPath], at) => {
      const cell = drawCell(T, op, text, boxAt(axis, row, a, b), { faint: look.path && !onPath, outlined: (look.path && onPath) || (r === look.rank && at === look.at) });
      cell.setAttribute("class", "cell");
      cell.dataset.at = `${r} ${at}`;
      node.append(cell);
    });
  });
  if (data.par) node.append(svg("path", { d: `M${axis.x(data.par[0])} ${TOP - 5}V${height}`, stroke: T.ink, "stroke-width": 1.5, "stroke-dasharray": "2 4" }));
  return axis;
}

const boxAt = (axis, row, a, b) => ({ x: axis.x(a), y: row.cell, w: (b - a) * axis.per, h: ROW.cell });

// ---------------------------------------------------------------- A4 the editor

export function mount(el, payload, { onPick = () => {}, heading = 3 } = {}) {
  const root = document.createElement("div");
  root.className = "sl";
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  root.setAttribute("aria-label", "schedule editor: arrows choose the rank, F B I W place its next task, backspace takes back, question mark for all keys");
  root.innerHTML = `<style>${STYLE}${ARENA_STYLE}</style>${ARENA_MARKUP}`;
  el.replaceChildren(root);
  const $ = (selector) => root.querySelector(selector);
  let data = payload, axis = null, T = null, waiting = null, timer = 0, drag = null;
  const look = { rank: 0, at: null, stage: null, path: false, rest: true };
  const queue = [];
  $(".title").setAttribute("aria-level", heading);

  function say(text, no = false) {
    const line = $(".say");
    line.textContent = text ? text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".") : "";
    line.toggleAttribute("data-no", no && Boolean(text));
  }

  /** Moves go to Python one state at a time; what is typed meanwhile follows in one message. */
  function send(move) {
    queue.push(move);
    flush();
  }
  function flush() {
    if (waiting !== null || !queue.length) return;
    waiting = data.revision;
    clearTimeout(timer);
    timer = setTimeout(() => ((waiting = null), flush()), 5000);
    onPick({ run: data.run, revision: data.revision, moves: queue.splice(0) });
  }

  function place(rank, op, stage = look.stage === null ? null : (data.ranks[rank].stages[look.stage] ?? null)) {
    look.at = null;
    if (waiting === null && !queue.length) {
      const next = nextOf(data.ranks[rank], op, stage);
      if (!next) return say(`rank ${rank} has no ${op} left to place`, true);
      if (next[3]) return say(next[3], true);
    }
    send({ do: "place", rank, op, stage });
  }

  function stand(rank, at) {
    look.rank = rank;
    look.at = at;
    if (at !== null) say(about(rank, at));
    render();
  }
  function about(rank, at) {
    const [, , , text, a, b, , why] = data.ranks[rank].cells[at];
    return `${text} on rank ${rank}, ${beats(a)} to ${beats(b)}${why ? `; ${why}` : ""}`;
  }

  function act(what) {
    const rank = data.ranks[look.rank], count = rank.cells.length;
    if (what.do === "place") place(look.rank, what.op);
    else if (what.do === "undo" || what.do === "redo") send({ do: what.do });
    else if (what.do === "rank") stand((look.rank + what.by + data.ranks.length) % data.ranks.length, null);
    else if (what.do === "cell" && count) stand(look.rank, look.at === null ? (what.by < 0 ? count - 1 : 0) : Math.max(0, Math.min(count - 1, look.at + what.by)));
    else if (what.do === "shift" && look.at !== null) move(look.rank, look.at, look.at + what.by);
    else if (what.do === "stage") (look.stage = what.at), say(what.at === null ? "places tasks of any stage" : `places tasks of stage ${rank.stages[what.at] ?? "none"}`);
    else if (what.do === "path" || what.do === "rest") (look[what.do] = !look[what.do]), render();
    else if (what.do === "help" || what.do === "close") {
      $(".help").hidden = what.do === "close" || !$(".help").hidden;
      $("[data-do=help]").setAttribute("aria-expanded", !$(".help").hidden);
    }
  }
  function move(rank, from, to) {
    if (to < 0 || to >= data.ranks[rank].cells.length || to === from) return;
    look.at = to;
    send({ do: "move", rank, from, to });
  }

  function render() {
    T = theme(root, data.palette);
    root.style.setProperty("--no", T.phases.I.fill);
    root.style.setProperty("--ring", T.phases.F.fill);
    $(".title").textContent = data.missing ? "Your schedule" : "Your schedule, whole";
    $(".score").textContent = score(data);
    $(".account").textContent = data.account;
    $(".account").style.whiteSpace = "pre-line";
    $(".badge").textContent = data.badge;
    $(".badge").dataset.kind = data.kind;
    for (const name of ["undo", "redo"]) $(`[data-do=${name}]`).disabled = !data[name];
    for (const name of ["path", "rest"]) $(`[data-do=${name}]`).setAttribute("aria-pressed", look[name]);
    look.rank = Math.min(look.rank, data.ranks.length - 1);
    if (look.at !== null && look.at >= data.ranks[look.rank].cells.length) look.at = null;
    names();
    tray();
    axis = draw($("svg:not(.i)"), T, data, look, Math.max(120, $(".plot").clientWidth));
    $("svg:not(.i)").setAttribute("aria-label", data.account);
    $(".legend").innerHTML = ["F", "B", "I", "W"].map((op) => `<li>${swatch(T, T.phases[op], "modelled")}${escape(T.phases[op].meaning)}</li>`).join("") + (data.par ? "<li>┆ par: the shortest of the table on this board</li>" : "") + `<li>grey: microbatches in memory${data.cap === null ? "" : ", dashed: the cap"}</li>`;
    table();
  }

  function names() {
    const had = root.getRootNode().activeElement?.dataset?.rank;
    $(".names").innerHTML = data.ranks.map((rank, r) => `<button data-rank="${r}" aria-pressed="${r === look.rank}">rank ${r}<small><i>stage ${rank.stages.join(", ")}, </i>peak ${beats(peakOf(rank))}${data.cap === null ? "" : ` of ${beats(data.cap)}`}</small></button>`).join("");
    if (had !== undefined) $(`.names [data-rank="${had}"]`)?.focus();
  }
  function tray() {
    const had = root.getRootNode().activeElement?.dataset?.put;
    $(".tray").hidden = !data.missing;
    $(".tray").innerHTML = data.ranks.map((rank, r) => `<li${r === look.rank ? " data-on" : ""}><b>rank ${r}</b>${rank.moves.map(([op, stage, text, why]) =>
      `<button data-put="${r} ${op} ${stage}" ${why ? `aria-disabled="true" title="${escape(why)}"` : `style="border-color:${T.phases[op].fill};background:${T.phases[op].wash}"`}>${escape(text)}</button>`).join("") || "<span>all placed</span>"}</li>`).join("");
    if (had !== undefined) ($(`[data-put="${had}"]`) || root).focus();
  }
  function table() {
    const rows = data.ranks.flatMap((rank, r) => rank.cells.map(([, , , text, a, b, onPath, why]) => `<tr><td class="n">${r}</td><td>${escape(text)}</td><td class="n">${beats(a)}</td><td class="n">${beats(b)}</td><td>${onPath ? "yes" : ""}</td><td>${escape(why)}</td></tr>`));
    $(".scroll").innerHTML = `<table><thead><tr><th class="n">rank</th><th>task</th><th class="n">begins</th><th class="n">ends</th><th>critical path</th><th>why not sooner</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
  }

  // -- events
  const cellUnder = (event) => event.target.closest?.("[data-at]")?.dataset.at.split(" ").map(Number) ?? null;
  const timeUnder = (event) => (event.clientX - $("svg:not(.i)").getBoundingClientRect().left - EDGE) / axis.per;
  root.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|TEXTAREA|SUMMARY)$/.test(event.target.tagName)) return;
    const what = keyAction(event, look.at);
    if (!what) return;
    event.preventDefault();
    event.stopPropagation();
    act(what);
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.do) act({ do: button.dataset.do });
    else if (button?.dataset.rank) stand(Number(button.dataset.rank), null);
    else if (button?.dataset.put) {
      const [rank, op, stage] = button.dataset.put.split(" ");
      look.rank = Number(rank);
      place(look.rank, op, Number(stage));
    }
  });
  const plot = $(".plot");
  plot.addEventListener("pointerdown", (event) => {
    const found = cellUnder(event);
    if (found) drag = { rank: found[0], from: found[1], x: event.clientX, id: event.pointerId, on: false };
    else {
      const y = event.clientY - plot.getBoundingClientRect().top, rank = Math.floor((y - TOP) / PITCH);
      if (rank >= 0 && rank < data.ranks.length) stand(rank, null);
    }
  });
  plot.addEventListener("pointermove", (event) => {
    if (drag && (drag.on || Math.abs(event.clientX - drag.x) > 6)) {
      if (!drag.on) plot.setPointerCapture(drag.id);
      drag.on = true;
      marker(drag.rank, timeUnder(event));
    }
    hover(event);
  });
  plot.addEventListener("pointerup", (event) => {
    const held = drag;
    drag = null;
    if (!held) return;
    if (!held.on) return stand(held.rank, held.from);
    const to = dropAt(data.ranks[held.rank].cells, timeUnder(event));
    look.rank = held.rank;
    move(held.rank, held.from, to > held.from ? to - 1 : to);
    render();
  });
  plot.addEventListener("pointercancel", () => ((drag = null), render()));
  plot.addEventListener("pointerleave", () => ($(".pop").hidden = true));

  function marker(rank, t) {
    const cells = data.ranks[rank].cells, at = dropAt(cells, t), row = rowOf(rank);
    const x = axis.x(at < cells.length ? cells[at][4] : cells.at(-1)[5]);
    $("svg:not(.i) .marker")?.remove();
    $("svg:not(.i)").append(svg("path", { class: "marker", d: `M${x} ${row.cell - 4}V${row.bottom + 4}`, stroke: T.ink, "stroke-width": 3 }));
  }
  function hover(event) {
    const found = cellUnder(event), pop = $(".pop");
    pop.hidden = !found || Boolean(drag?.on);
    if (pop.hidden) return;
    const [, , , text, a, b, , why] = data.ranks[found[0]].cells[found[1]];
    pop.innerHTML = `<b>${escape(text)} on rank ${found[0]}</b><span>${beats(a)} to ${beats(b)}</span>${why ? `<span class="why">${escape(why)}</span>` : ""}`;
    const box = $(".board").getBoundingClientRect();
    pop.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - 240))}px`;
    pop.style.top = `${rowOf(found[0]).bottom + 2}px`;
  }

  const resized = new ResizeObserver(() => render());
  resized.observe(plot);
  root.addEventListener("transitionend", (event) => event.target === root && render()); // the theme changed
  render();
  say(data.says, data.refused);

  const api = {
    update(next) {
      const fresh = next.run !== data.run || next.revision !== data.revision;
      if (next.run !== data.run) (queue.length = 0), (look.at = null);
      data = next;
      if (fresh) (waiting = null), clearTimeout(timer);
      render();
      if (fresh) say(data.says, data.refused);
      flush();
    },
    state: () => ({ rank: look.rank, at: look.at, revision: data.revision, waiting, cells: data.ranks.map((r) => r.cells.map((c) => c[3])), says: $(".say").textContent }),
    destroy() {
      resized.disconnect();
      clearTimeout(timer);
      if (globalThis.__shardlab_arena === api) delete globalThis.__shardlab_arena;
    },
  };
  globalThis.__shardlab_arena = api;
  return api;
}

