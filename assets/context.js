/* The ShardLab context ring: moves a cursor through the figure that views/context_ring.py drew.

   The cursor is time, in tiles, not a tick: a hop lasts as long as its slowest rank and its bytes.
   At the end, where it starts, the figure is the finished picture. */

/** The beat at time t: the last one that has begun; [hop, start, end, message]. */
export function beatAt(beats, t) {
  let found = 0;
  for (let i = 1; i < beats.length; i += 1) if (beats[i][1] <= t) found = i;
  return found;
}

/** The hop that tiles are compared with: Infinity when all is over, -1 before the first tile. */
export function hopAt(beats, t) {
  const at = beatAt(beats, t);
  if (t >= beats.at(-1)[2]) return Infinity;
  if (beats[at][0] >= 0) return beats[at][0];
  return beats.slice(at).some((beat) => beat[0] >= 0) ? -1 : Infinity;
}

/** How many members further what travels is: whole between messages, a part while one is under way. */
export function travelled(beats, t) {
  const last = beats.reduce((most, beat) => Math.max(most, beat[0]), 0);
  const at = beats.findLastIndex((beat) => beat[0] >= 0 && beat[1] <= t);
  if (at < 0) return 0;
  const [hop, start, end, message] = beats[at];
  if (hop === last) return hop;
  const takes = Math.max(message, 0.12 * (end - start)); // what takes no time is still seen to go
  return hop + Math.min(1, Math.max(0, (t - start) / takes));
}

/** Where the arrow keys go: the next start of a beat, or the one before. */
export function stepFrom(beats, end, t, way) {
  const stops = [...new Set([...beats.map((beat) => beat[1]), end])].sort((a, b) => a - b);
  const small = 1e-9 * Math.max(end, 1);
  return way > 0 ? stops.find((x) => x > t + small) ?? end : stops.findLast((x) => x < t - small) ?? 0;
}

const SECONDS = 9; // that the whole takes to play

function mount(root, first) {
  let data = first, t = data.end, playing = 0, before = 0;
  root.innerHTML = '<div class="figure"></div>';
  const box = root.querySelector(".figure");
  const $ = (name) => box.querySelector(name);

  function build() {
    const [style, rest] = data.figure.split("</style>");
    box.innerHTML = `${style}</style><div class="controls"><button class="play">Play</button>
      <button class="back">Previous hop</button><button class="on">Next hop</button>
      <input type="range" min="0" max="1000" value="1000" aria-label="Time, from the first tile to the end">
      </div><p class="says" aria-live="polite"></p>${rest}`;
    $(".play").onclick = () => (playing ? stop() : play());
    $(".back").onclick = () => (stop(), go(stepFrom(data.beats, data.end, t, -1)));
    $(".on").onclick = () => (stop(), go(t >= data.end ? 0 : stepFrom(data.beats, data.end, t, 1)));
    $("input").oninput = (event) => (stop(), go((data.end * event.target.value) / 1000));
    go(t);
  }

  function go(to) {
    t = Math.min(Math.max(to, 0), data.end);
    $("input").value = String(Math.round((1000 * t) / (data.end || 1)));
    $("input").setAttribute("aria-valuetext", `${t.toPrecision(3)} of ${data.end.toPrecision(3)} tiles`);
    const over = t >= data.end;
    paint(box.querySelectorAll(".map .t, .work .t"), hopAt(data.beats, t));
    ring(over ? 0 : travelled(data.beats, t));
    for (const now of box.querySelectorAll(".now")) {
      now.style.left = `${(100 * t) / (data.end || 1)}%`;
      now.style.visibility = over ? "hidden" : "visible";
    }
    const beat = beatAt(data.beats, t), done = t >= data.beats.at(-1)[2];
    const says = done ? `All tiles are done. Step from hop to hop, or play.` : data.says[beat];
    if ($(".says").textContent !== says) $(".says").textContent = says;
  }

  function paint(tiles, hop) {
    for (const tile of tiles) {
      const mine = Number(tile.dataset.hop);
      tile.classList.toggle("later", mine > hop);
      tile.classList.toggle("here", mine === hop);
    }
  }

  function ring(by) {
    const svg = $(".ring");
    if (!svg) return;
    const n = Number(svg.dataset.n), middle = Number(svg.dataset.middle);
    for (const guest of svg.querySelectorAll(".guest"))
      guest.setAttribute("transform", turn(Number(guest.dataset.home), by, n, middle, Number(svg.dataset.away)));
  }

  function tick(now) {
    if (!playing) return;
    go(t + ((now - before) / 1000 / SECONDS) * data.end);
    before = now;
    if (t >= data.end) stop();
    else playing = requestAnimationFrame(tick);
  }

  function play() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return go(t >= data.end ? 0 : stepFrom(data.beats, data.end, t, 1));
    if (t >= data.end) go(0);
    before = performance.now();
    $(".play").textContent = "Pause";
    playing = requestAnimationFrame(tick);
  }

  function stop() {
    if (playing) cancelAnimationFrame(playing);
    playing = 0;
    $(".play").textContent = "Play";
  }

  root.onkeydown = (event) => {
    const arrows = { ArrowLeft: ".back", ArrowRight: ".on" };
    if (event.target.type === "range" || !arrows[event.key]) return;
    event.preventDefault();
    $(arrows[event.key]).click();
  };
  build();
  const api = {
    update(next) {
      const same = next.run === data.run;
      stop();
      t = same ? Math.min(t, next.end) : next.end;
      data = next;
      build();
    },
    state: () => ({ t, end: data.end, playing: Boolean(playing), says: $(".says").textContent }),
    destroy() {
      stop();
      if (globalThis.__shardlab_context === api) delete globalThis.__shardlab_context;
    },
  };
  globalThis.__shardlab_context = api;
  return api;
}

/** The move of a guest from its home to `by` members further along the circle. */
export function turn(home, by, n, middle, away) {
  const place = (at) => [0, 1].map((i) => middle + away * [Math.cos, Math.sin][i]((2 * Math.PI * at) / n - Math.PI / 2));
  const [a, b] = [place(home), place(home + by)];
  return `translate(${(b[0] - a[0]).toFixed(2)} ${(b[1] - a[1]).toFixed(2)})`;
}

const read = (data) => (typeof data === "string" ? JSON.parse(data) : data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
const mounted = new WeakMap(); // Streamlit calls again with the same parent when data changes

/** Streamlit v2: called with {parentElement, data}, returns a cleanup. */
export default function ({ parentElement, data }) {
  const held = mounted.get(parentElement) || {};
  clearTimeout(held.leaving);
  if (held.view && held.data !== data) held.view.update(read(data));
  if (!held.view && data) held.view = mount(parentElement.querySelector("#player") || parentElement, read(data));
  held.data = data;
  mounted.set(parentElement, held);
  return () => { // a rerun may clean up and call again at once: the cursor must live through it
    held.leaving = setTimeout(() => {
      if (held.view) held.view.destroy();
      mounted.delete(parentElement);
    }, 250);
  };
}
