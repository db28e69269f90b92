// ---------------------------------------------------------------- 12 hosts

const read = (data) => (typeof data === "string" ? JSON.parse(data) : data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
const mounted = new WeakMap(); // Streamlit calls again with the same parent when data changes

/** Streamlit v2: called with {parentElement, data, setTriggerValue}, returns a cleanup.
    anywidget: called with nothing, returns {render}. */
export default function (host) {
  if (!host || !host.parentElement) return { render };
  const { parentElement, data, setTriggerValue } = host;
  const held = mounted.get(parentElement) || {};
  clearTimeout(held.leaving);
  held.pick = (what) => setTriggerValue && setTriggerValue("picked", what);
  if (held.player && held.data !== data) held.player.update(read(data));
  if (!held.player && data) held.player = mount(parentElement.querySelector("#player") || parentElement, read(data), { onPick: (what) => held.pick(what) });
  held.data = data;
  mounted.set(parentElement, held);
  return () => { // a rerun may clean up and call again at once: the playhead must live through it
    held.leaving = setTimeout(() => {
      if (held.player) held.player.destroy();
      mounted.delete(parentElement);
    }, 250);
  };
}

function render({ model, el }) {
  const onPick = (what) => (model.set("picked", what), model.save_changes());
  const player = mount(el, model.get("payload"), { onPick });
  const change = () => player.update(model.get("payload"));
  model.on("change:payload", change);
  return () => (model.off("change:payload", change), player.destroy());
}
