// ---------------------------------------------------------------- 11 the player

const SPEEDS = [0.25, 0.5, 1, 2, 4], WHOLE = 12000; // at 1 x the whole trace takes 12 s

/** Draws `payload` in `el`; returns the player: grow, update, seek, play, pause, set,
    look, state, bench, destroy. `heading` is the level of its title among the page's headings. */
export function mount(el, payload, { onPick = () => {}, heading = 3 } = {}) {
  const opened = performance.now();
  const root = document.createElement("section");
  root.className = "sl";
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.innerHTML = `<style>${STYLE}</style>${MARKUP}`;
  el.append(root);
  const $ = (q) => root.querySelector(q), button = (name) => $(`[data-do=${name}]`);
  const canvas = $("canvas"), ctx = canvas.getContext("2d"), picture = document.createElement("canvas");
  const pop = $(".pop"), range = $("input"), say = $(".say");
  $(".title").setAttribute("aria-level", heading);
  button("png").append(" PNG");
  button("json").append(" JSON for Perfetto");
  const still = matchMedia("(prefers-reduced-motion: reduce)"), scheme = matchMedia("(prefers-color-scheme: dark)");
  const S = { clock: "trace", axis: "time", path: false, model: true, colours: "tested", pick: -1, speed: 1, x: 0, view: { a: 0, b: 1 },
    playing: false, hover: null, asked: null, layers: {}, logic: new Map(), paths: new Map(), said: 0 };
  let t, X0, X1, B0, end = 1, moments, T, box, scene, ratio = 1;

  // -- data ------------------------------------------------------------------------------------

  function load(next, keep) {
    const was = keep && { x: S.x, atEnd: S.x >= end, all: S.view.a === 0 && S.view.b === end, view: S.view };
    if (!S.payload) S.colours = next.colours || "tested";
    S.payload = next;
    S.layers = {};
    for (const [name, layer] of Object.entries(next.layers)) if (layer) S.layers[name] = decode({ ...layer, world_size: next.world_size });
    if (!S.layers[S.clock]) S.clock = "trace";
    S.logic.clear();
    S.paths.clear();
    S.hover = null;
    S.pick = -1;
    pop.hidden = true;
    choose();
    S.x = was && !was.atEnd ? Math.min(was.x, end) : end;
    S.view = was && !was.all ? was.view : { a: 0, b: end };
    root.setAttribute("aria-label", `timeline: ${next.title || "trace"}`);
    words();
    transport();
    T = null;
    resize();
  }

  /** Take up the clock and the axis that are switched on. */
  function choose() {
    t = S.layers[S.clock];
    if (S.axis === "steps") {
      if (!S.logic.has(S.clock)) S.logic.set(S.clock, logic(t));
      ({ X0, X1 } = S.logic.get(S.clock));
    } else [X0, X1] = [t.start, t.done];
    B0 = S.axis === "steps" ? X0 : t.begin;
    moments = null;
    end = 1;
    if (S.axis === "time") end = Math.max(1, t.span);
    else for (const x of X1) end = Math.max(end, x);
  }

  function logic(t) {
    const level = logicalSteps(t), first = t.decks.map(() => new Map()), mine = (i) => first[t.decks.indexOf(deckOf(t, t.rank[i]))];
    for (let i = 0; i < t.n; i++) mine(i).set(level[i], Math.min(mine(i).get(level[i]) ?? Infinity, t.start[i]));
    const late = level.map((l, i) => t.start[i] - mine(i).get(l));
    const most = late.reduce((a, b) => Math.max(a, b), 1);
    return { X0: level, X1: level.map((l) => l + 1), most, late: late.map((ns) => ns / most) };
  }

  const at = () => (moments ||= events(X0, X1));
  const clockText = (x) => (S.axis === "steps" ? `step ${Math.floor(x)}` : spanText(t, x, t.span));

  function stepStarts() {
    const out = new Map();
    for (let i = 0; i < t.n; i++) out.set(t.step[i], Math.min(out.get(t.step[i]) ?? Infinity, t.start[i]));
    return [...out].sort((a, b) => a[1] - b[1]);
  }

  // -- words around the picture ----------------------------------------------------------------

  function words() {
    const p = S.payload, title = escape(p.title || "Trace");
    const bubble = t.decks[0].bubble && `, ${t.decks[0].bubble}`;
    const result = p.race || `${spanText(t, t.span)} on ${p.world_size} rank${p.world_size === 1 ? "" : "s"}${bubble}`;
    $(".title").innerHTML = `${title}<small>${escape(result)}</small>`;
    for (const name of ["trace", "own"]) button(name).setAttribute("aria-pressed", S.clock === name);
    button("own").parentElement.hidden = !S.layers.own;
    for (const name of ["time", "steps"]) button(name).setAttribute("aria-pressed", (S.axis === "time") === (name === "time"));
    for (const name of ["path", "model"]) button(name).setAttribute("aria-pressed", S[name]);
    button("model").hidden = !S.layers.model;
    button("colours").setAttribute("aria-pressed", S.colours === "paper");
    $(".badges").innerHTML = t.decks.map((deck) => `<div class="badge" data-kind="${deck.kind}">${escape(deck.name ? `${deck.name}: ${deck.badge}` : deck.badge)}</div>`).join("");
    $(".account").textContent = t.account;
    canvas.setAttribute("aria-label", t.account);
    if ($("details").open) table();
  }

  function legend() {
    const used = new Set(), names = new Set(t.ops.map((op) => op.name));
    for (const op of t.ops) if (op.name !== "wait") used.add(op.phase);
    if (S.axis === "steps") {
      const [low, high] = T.dark ? LATE_DARK : LATE;
      $(".legend").innerHTML = `<li><svg viewBox="0 0 20 14" aria-hidden="true"><path d="M0 1h7v12H0z" fill="${low}"/><path d="M7 1h6v12H7z" fill="${mix(high, low, 0.5)}"/><path d="M13 1h7v12h-7z" fill="${high}"/></svg>on time … ${spanText(t, S.logic.get(S.clock).most)} later than the first of its dependency step</li>`;
      return;
    }
    const items = Object.values(T.phases).filter((look) => used.has(look.key)).map((look) => swatch(T, look, t.kind) + escape(look.meaning));
    const causes = new Set(names.size ? t.waits.map((w) => w.why) : []);
    for (const why of Object.keys(WAIT_SWATCH))
      if (causes.has(why))
        items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x=".5" y=".5" width="19" height="13" rx="2" fill="none" stroke="${T.hatchInk}"/><path d="${WAIT_SWATCH[why]}" stroke="${T.hatchInk}"/>${why === "straggler" ? `<text x="10" y="11" font-size="11" font-weight="700" text-anchor="middle" fill="${T.ink}">!</text>` : ""}</svg>waits: ${why}`);
    if (t.memoryOf.some((m) => m.time.length)) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 13V9h5V5h5V2h4v6h4v5z" fill="${T.memory}"/><path d="M1 2h18" stroke="${T.muted}"/></svg>${t.decks[0].share ? "microbatches in flight, and their most" : "memory above what stays, and its maximum"}`);
    if (S.payload.cap) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M1 7h18" stroke="${T.ink}" stroke-width="1.5" stroke-dasharray="4 2.5"/></svg>the cap, ${t.decks[0].share ? counted(S.payload.cap, "microbatch") : bytesText(S.payload.cap)}; solid above it`);
    if (t.n <= 4000 && t.mb.some((mb) => mb >= 0)) items.push(cellWords());
    if (t.ports.size) items.push("under a row: what it sends, then what comes in; arrows point at the other rank's row");
    if (t.clockAt.some(Boolean)) items.push(clockWords());
    if (S.layers.model && S.model) items.push(`<svg viewBox="0 0 20 14" aria-hidden="true"><rect x="1" y="1" width="18" height="12" fill="none" stroke="${T.ink}" stroke-width="1.5" stroke-dasharray="4 2.5"/></svg>predicted (${escape(S.layers.model.badge)})`);
    $(".legend").innerHTML = items.map((item) => `<li>${item}</li>`).join("");
  }

  // The bar of another node's clock, and how wide it is of each node.
  function clockWords() {
    const sure = [...new Map(t.clockAt.filter(Boolean).map((clock) => [clock.node, clock.unsure]))];
    const most = Math.max(...sure.map(([, unsure]) => unsure));
    const each = sure.length > 4 ? `± ${timeText(most)} at most` : sure.map(([node, unsure]) => `node ${node} ± ${timeText(unsure)}`).join(", ");
    return `<svg viewBox="0 0 20 14" aria-hidden="true"><path d="M2 7h16M2 3v8M10 4v6M18 3v8" stroke="${T.ink}"/></svg>how sure another node's clock is, to scale (${each}: ping-pong, half a round trip); shaded where a message crosses nodes`;
  }

  function cellWords() {
    const chunks = Math.max(...t.decks.map((deck) => deck.chunks));
    if (t.decks.some((deck) => deck.ways > 1)) return "in a cell: letter and microbatch; ▾ entered at the first rank, ▴ at the last (lighter)";
    if (chunks > 1) return "in a cell: letter and microbatch; in the corner which of the rank's stages, later ones lighter";
    return chunks ? "in a cell: letter and microbatch" : "in a cell: letter and microbatch; layer or stage in the corner";
  }

  function table(most = 60) {
    const head = ["rank", "step", "instruction", "lane", "start", "takes", "why it waited"];
    const list = Array.from({ length: t.n }, (_, i) => i).sort((a, b) => t.start[a] - t.start[b]).slice(0, most);
    const body = list.map((i) => {
      const w = t.waitAt.get(i);
      const cells = [rankText(t, t.rank[i]).replace(/^rank /, ""), t.step[i], label(t, i), t.lanes[t.lane[i]], spanText(t, t.start[i], t.span), spanText(t, t.done[i] - t.start[i]), w ? waitText(t, w) : ""];
      return `<tr>${cells.map((c, k) => `<td${[0, 1, 4, 5].includes(k) ? " class=n" : ""}>${escape(c)}</td>`).join("")}</tr>`;
    });
    $(".scroll").innerHTML = `<table><caption>${t.n > most ? `the first ${most} of ${t.n} spans` : `${t.n} spans`}</caption><thead><tr>${head.map((h, k) => `<th scope=col${[0, 1, 4, 5].includes(k) ? " class=n" : ""}>${h}</th>`).join("")}</tr></thead><tbody>${body.join("")}</tbody></table>`;
  }

  // Screen readers hear at most one sentence in 400 ms; the last one always comes.
  function announce(text) {
    clearTimeout(S.timer);
    const speak = () => ((say.textContent = text), (S.said = performance.now()));
    const wait = 400 - (performance.now() - S.said);
    if (wait <= 0) speak();
    else S.timer = setTimeout(speak, wait);
  }

  // -- drawing ---------------------------------------------------------------------------------

  function resize() {
    const width = Math.floor(canvas.parentElement.clientWidth);
    if (!width || !t) return;
    ratio = Math.min(3, window.devicePixelRatio || 1);
    const memory = t.memoryOf.some((m) => m.time.length);
    box = layout({ width, ranks: S.payload.world_size, thin: Math.max(...t.slots), memory, ports: t.ports.size > 0,
      heads: t.decks.length > 1 ? t.decks.map((deck) => deck.first) : [], ramps: t.decks.some((deck) => deck.ramps.length) });
    for (const c of [canvas, picture]) {
      c.width = Math.round(width * ratio);
      c.height = Math.round(box.height * ratio);
    }
    canvas.style.height = `${box.height}px`;
    paint();
    draw();
  }

  function paint() {
    if (!T) {
      T = theme(root, S.payload.palette, S.colours === "paper");
      root.style.setProperty("--ring", T.phases.F.fill);
      legend();
    }
    const logical = S.axis === "steps";
    if (S.path && !S.paths.has(S.clock)) S.paths.set(S.clock, t.decks.map((deck) => criticalPath(t, deck)));
    scene = { ctx: picture.getContext("2d"), t, X0, X1, B0, view: S.view, box, T, ratio, logical, cap: S.payload.cap || 0, called: S.payload.called !== false,
      steps: logical || t.decks.length > 1 ? [] : stepStarts(), late: logical ? S.logic.get(S.clock).late : null,
      paths: S.path ? S.paths.get(S.clock) : null, model: S.model && !logical ? S.layers.model : null };
    paintScene(scene);
  }

  /** One frame: the picture, the part still to come under a veil, the cursor, what runs now. */
  function draw() {
    if (!scene) return;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(picture, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    const top = { ...scene, ctx }, right = box.left + box.plot;
    const x = top.px(S.x), running_ = S.x < end;
    if (running_ && x < right) {
      ctx.globalAlpha = 0.6;
      ctx.fillStyle = T.page;
      ctx.fillRect(Math.max(x, box.left), box.top - 4, right + 2 - Math.max(x, box.left), box.bottom - box.top + 4);
      ctx.globalAlpha = 1;
    }
    ctx.save();
    ctx.beginPath();
    ctx.rect(box.left - 2, 0, box.plot + 4, box.bottom);
    ctx.clip();
    if (running_) outlineNow(top);
    const told = S.hover && S.hover.row >= 0 ? S.hover.row : S.pick;
    if (told >= 0) outlineHover(top, told);
    ctx.restore();
    if (x >= box.left - 1 && x <= right + 1) paintCursor(top, x);
  }

  function outlineNow(s) {
    ctx.lineWidth = 2;
    ctx.strokeStyle = T.ink;
    for (const seg of t.segs) {
      const i = running(t.ports.has(t.slots[seg.lane]) ? B0 : X0, X1, seg, S.x);
      if (i < 0 || !box.rows[seg.rank]) continue;
      const [y, h] = placeOf(s, i), left = s.px(Math.min(X0[i], B0[i])), width = Math.max(2, s.px(X1[i]) - left);
      if (h < 4) continue;
      ctx.strokeRect(left, y - 1, width, h + 2);
    }
  }

  function outlineHover(s, i) {
    if (t.msg[i] >= 0) return paintGroup(s, i);
    if (t.chunk[i] >= 0) for (const j of messagesOf(i)) paintGroup(s, j);
    const w = t.waitAt.get(i);
    if (w && t.msg[w.message] >= 0 && S.axis === "time") paintGroup(s, w.message);
    const [y, h] = placeOf(s, i), left = s.px(X0[i]);
    ctx.lineWidth = 2;
    ctx.strokeStyle = T.ink;
    ctx.strokeRect(left, y - 1, Math.max(2, s.px(X1[i]) - left), h + 2);
  }

  /** The messages that a task needs, and those that carry its output on. */
  function messagesOf(i) {
    if (!t.sends) {
      t.sends = new Map();
      for (let j = 0; j < t.n; j++)
        if (t.msg[j] >= 0 && isSend(t, j))
          for (let k = t.depFrom[j]; k < t.depFrom[j + 1]; k++) t.sends.set(t.dep[k], [...(t.sends.get(t.dep[k]) || []), j]);
    }
    return [...t.dep.slice(t.depFrom[i], t.depFrom[i + 1])].filter((j) => t.msg[j] >= 0 && isPair(t, j)).concat(t.sends.get(i) || []);
  }

  function paintCursor(s, x) {
    const text = clockText(S.x);
    ctx.font = `600 11px ${T.font}`;
    const room = textWidth(ctx, text) + 14, left = Math.min(Math.max(x - room / 2, 2), box.width - room - 2);
    ctx.fillStyle = T.ink;
    ctx.fillRect(Math.round(x) - 0.5, 18, 1, box.bottom - 18);
    ctx.beginPath();
    ctx.roundRect(left, 0, room, 18, 9);
    ctx.fill();
    ctx.fillStyle = T.page;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillText(text, left + room / 2, 9.5);
  }

  function ask(what) {
    if (S.asked === "paint" || (S.asked && what === "draw")) return;
    if (!S.asked) requestAnimationFrame(() => {
      const full = S.asked === "paint";
      S.asked = null;
      if (!root.isConnected || !scene) return;
      if (full) paint();
      draw();
    });
    S.asked = what;
  }

  // -- time ------------------------------------------------------------------------------------

  function seek(x, { follow = true, quiet = false } = {}) {
    S.x = Math.min(end, Math.max(0, x));
    const wide = S.view.b - S.view.a;
    if (follow && wide < end && (S.x < S.view.a || S.x > S.view.b)) look(S.x - wide * 0.3, S.x + wide * 0.7);
    transport();
    if (!quiet) announce(moment(t, X0, X1, S.x, clockText(S.x)));
    ask("draw");
  }

  function transport() {
    range.value = Math.round((1000 * S.x) / end);
    range.setAttribute("aria-valuetext", clockText(S.x));
    $(".now").innerHTML = `<b>${clockText(S.x)}</b> of ${S.axis === "steps" ? end : clockText(end)}`;
  }

  function look(a, b) {
    const wide = Math.min(end, Math.max(b - a, S.axis === "steps" ? 4 : Math.min(100, end)));
    const left = Math.min(end - wide, Math.max(0, a));
    S.view = { a: left, b: left + wide };
    ask("paint");
  }

  function zoom(factor, x = S.x >= S.view.a && S.x <= S.view.b ? S.x : (S.view.a + S.view.b) / 2) {
    look(x - (x - S.view.a) / factor, x + (S.view.b - x) / factor);
  }

  function pan(share) {
    const by = (S.view.b - S.view.a) * share;
    look(S.view.a + by, S.view.b + by);
  }

  function stepEvent(direction) {
    const all = at(), i = lastUpTo(all, S.x);
    const to = direction > 0 ? i + 1 : all[i] === S.x ? i - 1 : i;
    seek(all[Math.min(all.length - 1, Math.max(0, to))]);
  }

  function stepStrange(direction) {
    const list = strange(t).map((s) => ({ ...s, x: S.axis === "steps" ? X0[s.row] : s.x })).sort((a, b) => a.x - b.x);
    const found = direction > 0 ? list.find((s) => s.x > S.x) : list.reverse().find((s) => s.x < S.x);
    if (!found) return announce("Nothing strange further on.");
    seek(found.x, { quiet: true });
    announce(`${clockText(found.x)}: ${found.text}.`);
    showRow(found.row, scene.px(found.x));
  }

  function play() {
    if (S.playing) return;
    if (S.x >= end) seek(0, { quiet: true });
    S.playing = true;
    playButton();
    let last = performance.now(), held = 0;
    const frame = (now) => {
      if (!S.playing || !root.isConnected) return;
      const passed = Math.min(100, now - last);
      last = now;
      if (still.matches) { // no tween: an event at a time
        held += passed;
        if (held > 700 / S.speed) [held] = [0, stepEvent(1)];
      } else seek(S.x + (passed / WHOLE) * end * S.speed, { quiet: true });
      if (S.x >= end) return pause();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  function pause() {
    if (!S.playing) return;
    S.playing = false;
    playButton();
    announce(moment(t, X0, X1, S.x, clockText(S.x)));
  }

  function playButton() {
    button("play").setAttribute("aria-label", S.playing ? "pause" : "play");
    button("play").firstElementChild.innerHTML = ICONS[S.playing ? "pause" : "play"];
  }

  // -- switches --------------------------------------------------------------------------------

  /** Flip views: clock "trace" or "own", axis "time" or "steps", path and model true or false,
      colours "tested" or "paper". */
  function set(next) {
    const share = S.x / end, part = { a: S.view.a / end, b: S.view.b / end };
    if (next.clock && !S.layers[next.clock]) return;
    Object.assign(S, next);
    if (next.colours) T = null;
    if (next.clock || next.axis) {
      choose();
      S.hover = null;
      pop.hidden = true;
      S.view = { a: part.a * end, b: part.b * end };
      seek(share * end, { quiet: true });
      announce(`${S.axis === "steps" ? "Dependency steps" : "Time"}, ${t.badge}`);
    }
    words();
    if (T) legend();
    resize();
  }

  const actions = {
    play: () => (S.playing ? pause() : play()),
    back: () => (pause(), stepEvent(-1)), next: () => (pause(), stepEvent(1)),
    trace: () => set({ clock: "trace" }), own: () => set({ clock: "own" }),
    time: () => set({ axis: "time" }), steps: () => set({ axis: "steps" }),
    path: () => set({ path: !S.path }), model: () => set({ model: !S.model }),
    colours: () => set({ colours: S.colours === "paper" ? "tested" : "paper" }),
    in: () => zoom(1.6), out: () => zoom(1 / 1.6), fit: () => look(0, end),
    help: () => {
      $(".help").hidden = !$(".help").hidden;
      button("help").setAttribute("aria-expanded", !$(".help").hidden);
    },
    png: savePicture,
    json: () => save(new Blob([JSON.stringify(chromeTrace(t))], { type: "application/json" }), "trace.json"),
  };

  function save(blob, name) {
    const a = document.createElement("a");
    a.href = URL.createObjectURL(blob);
    a.download = name;
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 1000);
  }

  // The picture leaves the page with its title and its provenance on it.
  function savePicture() {
    const out = document.createElement("canvas"), c = out.getContext("2d");
    out.width = picture.width;
    out.height = picture.height + Math.round(64 * ratio);
    c.scale(ratio, ratio);
    c.fillStyle = T.page;
    c.fillRect(0, 0, box.width, box.height + 64);
    c.drawImage(picture, 0, 32, box.width, box.height);
    c.textBaseline = "middle";
    c.fillStyle = T.ink;
    c.font = `600 14px ${T.font}`;
    c.fillText(`${S.payload.title}, ${spanText(t, t.span)}`, 12, 18, box.width - 24);
    c.fillStyle = T.muted;
    c.font = `11px ${T.font}`;
    c.textAlign = "right";
    c.fillText(t.decks.map((deck) => deck.badge).join(" | "), box.width - 12, box.height + 46, box.width - 24);
    out.toBlob((blob) => save(blob, "timeline.png"));
  }

  // -- pointer, wheel, keys ----------------------------------------------------------------------

  function place(event) {
    const r = canvas.getBoundingClientRect();
    const px = event.clientX - r.left, y = event.clientY - r.top;
    return { px, y, x: S.view.a + ((px - box.left) / box.plot) * (S.view.b - S.view.a) };
  }

  /** What lies under the pointer: a row of the trace, or the memory of a rank. */
  function under({ px, y, x }) {
    const bar = S.axis === "time" && clockBars(t, box, S.view).find((b) => Math.abs(y - b.y) <= CAP && px <= Math.max(b.to, box.left + 60));
    if (bar) return { row: -1, ...aboutClock(t, bar.rank) };
    const rank = box.rows.findIndex((row) => y >= row.y - 1 && y <= row.bottom + 1);
    if (rank < 0 || px < box.left - 2 || px > box.left + box.plot + 2) return null;
    const row = box.rows[rank], m = t.memoryOf[rank];
    if (y < row.cellY - 2 && m.time.length && S.axis === "time") {
      const bytes = m.bytes[Math.max(0, lastUpTo(m.time, x))];
      const { share } = deckOf(t, rank), cap = S.payload.cap, most = heldText(t, m.peak, rank);
      const limit = cap ? `; the cap is ${share ? counted(cap, "microbatch") : bytesText(cap)}` : "";
      return { row: -1, title: `memory of ${rankText(t, rank)}`, lines: [
        `${heldText(t, x < m.time[0] && share ? 0 : bytes, rank)} at ${spanText(t, x, t.span)}`,
        `${share ? `${most} at most` : `${bytesText(m.floor)} stay all through, ${bytesText(m.peak)} at most`}${limit}`] };
    }
    const lane = y < row.cellY + row.cellH + 1 ? 0 : 1 + row.lanes.findIndex((top) => y <= top + row.laneH + 1);
    const near = (3 * (S.view.b - S.view.a)) / box.plot;
    if (t.ports.has(lane)) return onWire(rank, lane, x, 2 * near);
    const seg = t.segs.find((s) => s.rank === rank && t.slots[s.lane] === lane);
    if (!seg) return null;
    let i = running(X0, X1, seg, x);
    if (i < 0) i = running(X0, X1, seg, x + near) < 0 ? running(X0, X1, seg, x - near) : running(X0, X1, seg, x + near);
    if (i >= 0) return { row: i, ...about(t, i) };
    const next = lastUpTo(X0, x, seg.from, seg.to) + 1, w = next < seg.to && t.waitAt.get(next);
    if (w && S.axis === "time" && w.start <= x) {
      const { lines } = about(t, next);
      return { row: next, title: `${rankText(t, rank)}, before ${label(t, next)}`, lines: [lines[0]] };
    }
    if (lane || S.axis === "steps") return null;
    const why = next >= seg.to ? "nothing left to do" : `${label(t, next)} comes next; no message holds it up`;
    const still = next > seg.from && next < seg.to ? "between two ops" : "idle";
    return { row: -1, title: `${rankText(t, rank)} is ${still}`, lines: [why] };
  }

  /** Of the lanes that share a port the message nearest to x, if one is near. */
  function onWire(rank, slot, x, near) {
    let best = -1, gap = near;
    for (const seg of t.segs) {
      if (seg.rank !== rank || t.slots[seg.lane] !== slot) continue;
      const last = lastUpTo(B0, x + near, seg.from, seg.to);
      for (let i = last; i >= seg.from && i > last - 2; i--) {
        const away = Math.max(0, B0[i] - x, x - X1[i]);
        if (away <= gap) [best, gap] = [i, away];
      }
    }
    return best < 0 ? null : { row: best, ...about(t, best) };
  }

  function show(found, px, y) {
    S.hover = found;
    pop.hidden = !found;
    ask("draw");
    if (!found) return;
    const cause = found.row >= 0 && t.waitAt.has(found.row);
    pop.innerHTML = `<b>${escape(found.title)}</b>` + found.lines.map((l, k) => `<span${cause && !k ? " class=why" : ""}>${escape(l)}</span>`).join("");
    const w = pop.offsetWidth, h = pop.offsetHeight, below = y + 22 + h < box.height;
    pop.style.left = `${Math.min(Math.max(4, px - w / 2), Math.max(4, box.width - w - 4))}px`;
    pop.style.top = `${below ? y + 22 : Math.max(0, y - h - 16)}px`;
  }

  const showRow = (i, px) => {
    const [y, h] = placeOf(scene, i);
    show({ row: i, ...about(t, i) }, px, y + h - 12);
  };

  let press = null;
  canvas.addEventListener("pointerdown", (e) => {
    const p = place(e);
    pause();
    press = { x: p.px, moved: false, pan: e.shiftKey || p.y > box.bottom, last: p.px, touch: e.pointerType === "touch" };
    canvas.setPointerCapture(e.pointerId);
    if (press.touch) press.long = setTimeout(() => ((press.moved = true), (press.held = true), show(under(p), p.px, p.y)), 380);
  });
  canvas.addEventListener("pointermove", (e) => {
    const p = place(e);
    if (!press) return e.pointerType === "touch" ? undefined : show(under(p), p.px, p.y);
    if (press.held || (Math.abs(p.px - press.x) < 3 && !press.moved)) return;
    clearTimeout(press.long);
    press.moved = true;
    show(null);
    if (press.pan) pan((press.last - p.px) / box.plot);
    else seek(p.x, { follow: false });
    press.last = p.px;
  });
  const release = (e) => {
    if (press) clearTimeout(press.long);
    if (press && !press.moved && e.type === "pointerup") {
      const p = place(e), found = under(p);
      if (!press.pan) seek(p.x);
      S.pick = found && found.row >= 0 ? found.row : -1;
      if (press.touch) show(found, p.px, p.y);
      if (found && found.row >= 0) onPick(picked(found.row));
    }
    press = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => !press && show(null));
  canvas.addEventListener("contextmenu", (e) => press && press.touch && e.preventDefault());
  canvas.addEventListener("wheel", (e) => {
    const p = place(e);
    if (e.ctrlKey || e.metaKey) zoom(Math.exp(-e.deltaY * 0.0022), p.x);
    else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / box.plot);
    else return;
    e.preventDefault();
    show(null);
  }, { passive: false });

  const picked = (i) => ({ rank: t.rank[i], step: t.step[i], index: t.index[i], label: label(t, i), start: t.start[i] + (S.payload.start || 0) });

  const faster = (by) => {
    S.speed = SPEEDS[Math.min(4, Math.max(0, SPEEDS.indexOf(S.speed) + by))];
    $("select").value = String(S.speed);
  };
  const KEYS = { " ": actions.play, "[": () => faster(-1), "]": () => faster(1), "+": actions.in, "=": actions.in, "-": actions.out,
    0: actions.fit, ",": () => pan(-0.2), ".": () => pan(0.2), c: actions.path, l: () => set({ axis: S.axis === "time" ? "steps" : "time" }),
    w: () => set({ clock: S.clock === "trace" ? "own" : "trace" }), m: actions.model, p: actions.colours, "?": actions.help,
    Home: () => seek(0), End: () => seek(end), Escape: () => ((S.pick = -1), show(null), $(".help").hidden || actions.help()) };
  root.addEventListener("keydown", (e) => {
    const tag = e.target.tagName, arrows = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.ctrlKey || e.metaKey || e.altKey || tag === "SELECT" || e.target.closest(".scroll")) return;
    if (e.key === " " && (tag === "BUTTON" || tag === "SUMMARY")) return;
    const act = arrows ? () => (pause(), (e.shiftKey ? stepStrange : stepEvent)(arrows)) : KEYS[e.key];
    if (!act) return;
    e.preventDefault();
    e.stopPropagation();
    act();
  });
  root.addEventListener("click", (e) => {
    const b = e.target.closest("[data-do]");
    if (b) actions[b.dataset.do]();
  });
  range.addEventListener("input", () => (pause(), seek((range.value / 1000) * end)));
  $("select").addEventListener("change", (e) => (S.speed = +e.target.value));
  $("details").addEventListener("toggle", () => $("details").open && table());

  // -- life ------------------------------------------------------------------------------------

  const retheme = () => ((T = null), resize());
  // The host's theme arrives as new CSS variables: the 1 ms transition of `color` reports it.
  root.addEventListener("transitionend", (e) => e.target === root && retheme());
  scheme.addEventListener("change", retheme);
  const sizes = new ResizeObserver(() => Math.floor(canvas.parentElement.clientWidth) !== (box && box.width) && resize());
  sizes.observe(canvas.parentElement);

  /** Scrub through the trace and time it: milliseconds a frame, drawing alone and in all. */
  async function bench(frames = 120) {
    const cost = [], gap = [], from = S.x;
    let last = await new Promise(requestAnimationFrame);
    for (let k = 0; k < frames; k++) {
      const begin = performance.now();
      seek((end * k) / frames, { follow: false, quiet: true });
      draw();
      cost.push(performance.now() - begin);
      const now = await new Promise(requestAnimationFrame);
      gap.push(now - last);
      last = now;
    }
    const begin = performance.now();
    paint();
    const repaint = performance.now() - begin;
    seek(from, { quiet: true });
    const rank = (list, q) => list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))];
    return { spans: t.n, frames, open_ms: api.opened, repaint_ms: repaint,
      draw_ms: { p50: rank(cost, 0.5), p95: rank(cost, 0.95), max: rank(cost, 1) },
      frame_ms: { p50: rank(gap, 0.5), p95: rank(gap, 0.95), max: rank(gap, 1) } };
  }

  const api = {
    root, seek, play, pause, set, look, bench,
    /** A new payload; the same run keeps its playhead, or follows the end if it was there. */
    grow: (next) => load(next, true),
    update: (next) => load(next, Boolean(S.payload) && next.run === S.payload.run),
    state: () => ({ x: S.x, end, view: S.view, clock: S.clock, axis: S.axis, path: S.path, model: S.model, colours: S.colours, pick: S.pick, playing: S.playing, spans: t.n, rows: box && box.rows }),
    destroy() {
      S.playing = false;
      clearTimeout(S.timer);
      sizes.disconnect();
      scheme.removeEventListener("change", retheme);
      root.remove();
    },
  };
  load(payload, false);
  api.opened = performance.now() - opened;
  globalThis.__shardlab_player = api; // for benchmarks and tests: the player mounted last
  return api;
}

