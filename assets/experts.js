/* The ShardLab expert grid: walks through the tokens of the figure that views/expert_grid.py drew.

   Arrow keys, Home and End go from token to token, a pointer picks one; a sentence says where it
   goes. Without a script the figure is whole all the same. */

/** The token that a key leads to from `at` (-1: none yet) of `count`; null if the key means nothing. */
export function walk(key, at, count) {
  const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? count - 1 : at - 1, Home: 0, End: count - 1, Escape: -1 }[key];
  if (to === undefined || !count) return null;
  return key === "Escape" ? -1 : Math.min(count - 1, Math.max(0, to));
}

/** Draw `data` into `root`; {update, state, destroy}. */
export function mount(root, data) {
  let at = -1;
  const pick = (to) => {
    at = to;
    root.querySelectorAll(".token").forEach((row) => row.classList.toggle("here", Number(row.dataset.at) === at));
    root.querySelector(".experts").classList.toggle("picked", at >= 0);
    root.querySelector(".says").textContent = at < 0 ? data.hint : data.says[at];
  };
  const onKey = (event) => {
    const to = walk(event.key, at, data.says.length);
    if (to === null) return;
    event.preventDefault();
    pick(to);
  };
  const onPoint = (event) => {
    const row = event.target.closest(".token");
    if (row) pick(Number(row.dataset.at));
  };
  const build = () => {
    root.innerHTML = data.figure;
    const stage = root.querySelector(".stage");
    stage.addEventListener("keydown", onKey);
    stage.addEventListener("click", onPoint);
    stage.addEventListener("pointermove", onPoint);
    pick(Math.min(at, data.says.length - 1));
  };
  build();
  const api = {
    update(next) {
      if (next.run !== data.run) at = -1;
      data = next;
      build();
    },
    state: () => ({ at, says: root.querySelector(".says").textContent }),
    destroy() {
      if (globalThis.__shardlab_experts === api) delete globalThis.__shardlab_experts;
    },
  };
  globalThis.__shardlab_experts ??= api; // the first figure of a page, for those who test it
  return api;
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
  return () => { // a rerun may clean up and call again at once: the picked token must live through it
    held.leaving = setTimeout(() => {
      if (held.view) held.view.destroy();
      mounted.delete(parentElement);
    }, 250);
  };
}
