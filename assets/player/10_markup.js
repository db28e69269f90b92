// ---------------------------------------------------------------- 10 markup, style

const ICONS = {
  play: "<path d='M4.5 2.8v10.4l8.6-5.2z' fill='currentColor' stroke='none'/>",
  pause: "<path d='M4.5 3v10M11.5 3v10' stroke-width='2.6'/>",
  back: "<path d='M11.5 3.2v9.6L5 8zM3.6 3.2v9.6'/>",
  next: "<path d='M4.5 3.2v9.6L11 8zM12.4 3.2v9.6'/>",
  out: "<path d='M3 8h10'/>",
  in: "<path d='M3 8h10M8 3v10'/>",
  fit: "<path d='M5.5 5 2.5 8l3 3M10.5 5l3 3-3 3M2.5 8h11'/>",
  save: "<path d='M8 2.5v7.5m0 0 3-3m-3 3-3-3M3 13.2h10'/>",
};

const STYLE = `
.sl{--page:var(--st-background-color,#fff);--ink:var(--st-text-color,#16202c);--soft:color-mix(in srgb,var(--ink) 62%,var(--page));
--line:color-mix(in srgb,var(--ink) 14%,var(--page));--fill:color-mix(in srgb,var(--ink) 6%,var(--page));
container-type:inline-size;box-sizing:border-box;position:relative;padding:8px;color:var(--ink);background:var(--page);transition:color 1ms;
font:13px/1.45 var(--st-font,ui-sans-serif,system-ui,-apple-system,"Segoe UI",sans-serif);font-variant-numeric:tabular-nums;outline:none}
@media (prefers-color-scheme:dark){.sl{--page:var(--st-background-color,#12161c);--ink:var(--st-text-color,#e6eaf0)}}
.sl *{box-sizing:border-box}
.sl:focus-visible{box-shadow:inset 0 0 0 2px var(--ring,#4b74ce);border-radius:8px}
.sl button:focus-visible,.sl select:focus-visible,.sl input:focus-visible,.sl summary:focus-visible{outline:2px solid var(--ring,#4b74ce);outline-offset:2px}
.sl .top,.sl .bar,.sl .foot{display:flex;flex-wrap:wrap;align-items:center;gap:8px 12px}
.sl .top{justify-content:space-between;margin-bottom:6px}
.sl .title{font-size:15px;font-weight:600;letter-spacing:-.005em;margin-right:auto}
.sl .title small{font-weight:400;color:var(--soft);font-size:13px;margin-left:8px}
.sl button,.sl select{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);border-radius:6px;height:30px;padding:0 10px;cursor:pointer;white-space:nowrap}
.sl button:hover,.sl select:hover{background:var(--fill)}
.sl button[aria-pressed=true]{background:var(--ink);color:var(--page);border-color:var(--ink)}
.sl .icon{width:32px;padding:0;display:inline-grid;place-items:center}
.sl .go{background:var(--ink);color:var(--page);border-color:var(--ink);width:40px}
.sl .go:hover{background:var(--ink);opacity:.85}
.sl svg.i{width:16px;height:16px;fill:none;stroke:currentColor;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round;display:block}
.sl .set{display:inline-flex}.sl .set button{border-radius:0;margin-left:-1px}
.sl .set button:first-child{border-radius:6px 0 0 6px;margin-left:0}.sl .set button:last-child{border-radius:0 6px 6px 0}
.sl .stage{position:relative;line-height:0;overflow:hidden}
.sl canvas{display:block;width:100%;touch-action:pan-y;cursor:crosshair}
.sl input[type=range]{flex:1 1 140px;min-width:110px;height:30px;margin:0;accent-color:var(--ink);background:none}
.sl .now{min-width:126px;color:var(--soft)}.sl .now b{color:var(--ink);font-weight:600}
.sl .foot{margin-top:12px;gap:6px 16px;color:var(--soft);font-size:12px;align-items:flex-start}
.sl .legend{display:flex;flex-wrap:wrap;gap:5px 14px;list-style:none;margin:0;padding:0;flex:1 1 320px}
.sl .legend li{display:inline-flex;align-items:center;gap:6px;margin:0}
.sl .legend svg{width:20px;height:14px;flex:none}
.sl .badges{display:flex;flex-direction:column;align-items:flex-end;gap:6px;max-width:100%}
.sl .badge{border:1px solid var(--line);border-radius:6px;padding:2px 9px;color:var(--ink);max-width:100%;overflow-wrap:anywhere}
.sl .badge[data-kind=modelled]{border:1.5px dashed var(--soft)}.sl .badge[data-kind=replayed]{border-color:var(--ink)}
.sl .badge[data-kind=quoted]{border-style:dotted}
.sl .pop{position:absolute;z-index:2;max-width:min(340px,92%);padding:9px 12px;border-radius:8px;background:var(--page);border:1px solid var(--line);
box-shadow:0 6px 24px rgba(0,0,0,.16);font-size:12.5px;line-height:1.45;pointer-events:none}
.sl .pop b{display:block;margin-bottom:2px}.sl .pop span{display:block;color:var(--soft)}.sl .pop span.why{color:var(--ink)}
.sl .help{position:absolute;z-index:3;inset:38px 0 auto auto;width:min(420px,100%);padding:14px 18px;border-radius:10px;background:var(--page);border:1px solid var(--line);box-shadow:0 8px 32px rgba(0,0,0,.2)}
.sl .help dl{display:grid;grid-template-columns:auto 1fr;gap:3px 14px;margin:6px 0 12px}.sl .help dd{margin:0;color:var(--soft)}
.sl .help button{display:inline-flex;align-items:center;gap:6px}
.sl kbd{font:inherit;font-weight:600}
.sl .say{min-height:1.45em;margin:8px 0 0;color:var(--soft);font-size:12.5px}
.sl details{margin-top:8px;font-size:12.5px}.sl summary{cursor:pointer;color:var(--soft)}
.sl .scroll{overflow:auto;max-height:320px;border:1px solid var(--line);border-radius:6px}
.sl caption{text-align:left;padding:4px 10px;color:var(--soft)}
.sl table{border-collapse:collapse;width:100%}.sl th,.sl td{text-align:left;padding:3px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
.sl td.n,.sl th.n{text-align:right}.sl [hidden]{display:none!important}
@container (max-width:560px){.sl .top{gap:6px;justify-content:flex-start}.sl .title{flex-basis:100%}.sl button,.sl select{padding:0 8px}.sl .icon{padding:0}.sl input[type=range]{flex-basis:100%;order:1}.sl .now{min-width:0;margin-left:auto}.sl .bar select,.sl .bar .set,.sl .bar>.icon:last-child{order:2}.sl .bar .set{margin-left:auto}}
`;

const MARKUP = `
<div class="top"><div class="title" role="heading"></div>
 <span class="set" role="group" aria-label="clock"><button data-do="trace">Wall clock</button><button data-do="own">Own device</button></span>
 <span class="set" role="group" aria-label="axis"><button data-do="time">Time</button><button data-do="steps">Steps</button></span>
 <button data-do="path">Critical path</button><button data-do="model">Prediction</button></div>
<div class="stage"><canvas role="img"></canvas><div class="pop" role="tooltip" hidden></div></div>
<div class="bar"><button class="icon" data-do="back" aria-label="previous event">@back</button><button class="icon go" data-do="play" aria-label="play">@play</button><button class="icon" data-do="next" aria-label="next event">@next</button>
 <span class="now"></span><input type="range" min="0" max="1000" value="1000" step="1" aria-label="position in time">
 <select aria-label="speed"><option value="0.25">¼ ×</option><option value="0.5">½ ×</option><option value="1" selected>1 ×</option><option value="2">2 ×</option><option value="4">4 ×</option></select>
 <span class="set" role="group" aria-label="zoom"><button class="icon" data-do="out" aria-label="zoom out">@out</button><button class="icon" data-do="fit" aria-label="show all">@fit</button><button class="icon" data-do="in" aria-label="zoom in">@in</button></span>
 <button class="icon" data-do="help" aria-label="help and export" aria-expanded="false">?</button></div>
<p class="say" aria-live="polite"></p>
<div class="foot"><ul class="legend"></ul><div class="badges"></div></div>
<div class="help" hidden><b>Keys</b><dl>
<dt><kbd>space</kbd></dt><dd>play, pause</dd><dt><kbd>← →</kbd></dt><dd>previous, next event</dd><dt><kbd>shift ← →</kbd></dt><dd>the longest waits, the memory peak</dd>
<dt><kbd>[ ]</kbd></dt><dd>slower, faster</dd><dt><kbd>+ − 0</kbd></dt><dd>zoom in, out, show all (also ctrl and wheel)</dd><dt><kbd>, .</kbd></dt><dd>pan (also a sideways wheel)</dd>
<dt><kbd>c</kbd></dt><dd>critical path</dd><dt><kbd>l</kbd></dt><dd>time or dependency steps</dd><dt><kbd>w</kbd></dt><dd>wall clock or own device</dd><dt><kbd>m</kbd></dt><dd>prediction</dd><dt><kbd>p</kbd></dt><dd>colours as in the papers' figures</dd></dl>
<button data-do="colours">Paper colours</button>
<button data-do="png">@save</button> <button data-do="json">@save</button></div>
<details><summary>In words and as a table</summary><p class="account"></p><div class="scroll" tabindex="0" role="region" aria-label="spans"></div></details>
`.replace(/@(\w+)/g, (_, name) => `<svg class="i" viewBox="0 0 16 16" aria-hidden="true">${ICONS[name]}</svg>`);

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function swatch(T, look, kind) {
  const fill = kind === "modelled" ? look.wash : look.fill, mid = look.letter && look.hatch !== "half";
  const edge = kind === "modelled" ? `stroke="${look.fill}" stroke-dasharray="3 2" stroke-width="1.5"` : `stroke="rgba(0,0,0,.55)"`;
  const half = look.hatch === "half" ? `<path d="M10 1h9v12h-9z" fill="${kind === "modelled" ? T.phases.W.wash : T.phases.W.fill}"/>` : "";
  const lines = look.hatch === "/" ? `<path d="M2 12 12 2M9 12l9-9" stroke="rgba(0,0,0,.35)"/>` : "";
  const text = look.letter ? `<text x="${mid ? 10 : 6}" y="10.5" font-size="9" text-anchor="middle" fill="${kind === "modelled" ? T.ink : look.ink}">${look.letter}</text>` : "";
  return `<svg viewBox="0 0 20 14" aria-hidden="true"><rect x=".75" y=".75" width="18.5" height="12.5" rx="2" fill="${fill}"/>${half}${lines}<rect x=".75" y=".75" width="18.5" height="12.5" rx="2" fill="none" ${edge}/>${text}</svg>`;
}

const WAIT_SWATCH = {
  "late peer": "M1 1l12 12M7 1l12 12M13 1l6 6M1 7l6 6", "late sender": "M1 1l12 12M7 1l12 12M13 1l6 6M1 7l6 6", "late receiver": "M1 13 13 1M7 13 19 1M1 7l6-6M13 13l6-6",
  "link busy": "M3 4h1M8 4h1M13 4h1M5 9h1M10 9h1M15 9h1", "on the wire": "M1 4h18M1 7h18M1 10h18", straggler: "M1 1l12 12M13 1l6 6M1 7l6 6",
};

