// The page: what is looked for, what keys and buttons do, and what others did meanwhile.
import { byId, count, make } from "./card.js";
import { Detail } from "./detail.js";
import { Grid, PAGE } from "./grid.js";
import { openSource } from "./source.js";

const SORTS = {
  "": "as in the file", confidence: "unsure first", "-confidence": "surest first", margin: "narrowest margin first",
  "-margin": "widest margin first", length: "shortest first", "-length": "longest first", label: "by label", error: "failed first",
  template: "by template", task: "by task", finish: "by finish reason", warning: "warnings first", decision: "reviewed first",
};
const QUICK = { "is:failed": "Failed only", "is:duplicate": "Duplicates by content", "is:repeated": "Same answer", "is:edited": "Edited" };
const QUICK_OF_TWO = { "is:agree": "Agree", "is:disagree": "Disagree", "is:missing": "Missing" };
const KEYS = {
  "j, k": "next, previous row", "arrows, PgDn, PgUp, Home, End": "move", enter: "open the row", e: "edit its answer", "1-9": "give it a label",
  a: "accept", x: "reject", "l, r": "choose left or right", u: "undo the last correction", s: "select, or not",
  "/": "find", "?": "this help", "red -car": "with red, without car", '"wide field" /dogs?/': "a phrase, a pattern",
  "label:cat -task:vqa": "a value, not a value", "confidence:..0.5 length:200..": "ranges", "text:red": "in the answer alone",
};
const WATCH_MS = 1500;
const source = openSource();
const grid = new Grid(byId("grid"), source, tell);
const detail = new Detail(source, decide);
const view = { q: "", sort: "", stamp: 0 };
let [latest, labels, isAll] = [null, [], false];
function tell(error) { byId("alert").textContent = error?.message ?? ""; }
function quote(value) { return /^[^\s"\\/:]+$/.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`; }

// Find the rows of the view anew.
async function find() {
  view.stamp += 1;
  view.q = byId("query").value;
  view.sort = byId("sort").value;
  const asked = { ...view };
  try {
    const reply = await source.show(asked, 0, 60, true);
    if (asked.stamp !== view.stamp) return;
    tell(reply.trouble && { message: reply.trouble });
    source.isCompared = reply.isCompared;
    grid.open(asked, reply);
    grid.selected.clear();
    setAll(false);
    note(reply);
    drawFacets(reply.facets);
  } catch (error) { tell(error); }
}

function note(reply) {
  latest = { ...reply, facets: null, rows: null };
  grid.found = reply.found;
  document.title = byId("name").textContent = reply.name;
  const busy = reply.reading === null ? "" : ` · reading, ${Math.floor(100 * reply.reading)} %`;
  const comparing = reply.comparing ? ` · comparing images, ${count(reply.comparing[0])} of ${count(reply.comparing[1])}` : "";
  const said = `${count(reply.found)} of ${count(reply.count)} rows${busy}${comparing}`;
  if (byId("status").textContent !== said) byId("status").textContent = said;
  labels = reply.labels ?? labels;
  byId("labels").replaceChildren(...labels.map((label, place) => make("li", {}, make("kbd", {}, String(place + 1)), " ", make("span", { dir: "auto" }, label))));
  byId("known-labels").replaceChildren(...labels.map((label) => make("option", { value: label })));
  drawQuick();
  drawBulk();
}

// A term goes into the filter, or out of it if it is there.
function toggle(term) {
  const query = byId("query");
  const parts = ` ${query.value} `;
  query.value = (parts.includes(` ${term} `) ? parts.replace(` ${term} `, " ") : `${query.value} ${term}`).trim();
  find();
}
function drawToggle(term, ...words) {
  const button = make("button", { type: "button", ariaPressed: String(` ${byId("query").value} `.includes(` ${term} `)) }, ...words);
  button.dataset.term = term;
  return button;
}
function redraw(parent, children) {
  const { term, bound } = document.activeElement?.dataset ?? {};
  const hadFocus = parent.contains(document.activeElement);
  parent.replaceChildren(...children);
  if (hadFocus) [...parent.querySelectorAll("[data-term], [data-bound]")].find((each) => (term ? each.dataset.term === term : each.dataset.bound === bound))?.focus();
}
function drawQuick() {
  redraw(byId("quick"), Object.entries({ ...QUICK, ...(source.isCompared && QUICK_OF_TWO) }).map(([term, words]) => drawToggle(term, words)));
}
function drawFacets(facets) {
  const sets = Object.entries(facets).filter(([, values]) => values.length).map(([name, values]) => make("fieldset", {},
    make("legend", {}, name), ...values.map(([value, number]) => drawToggle(`${name}:${quote(value)}`,
      make("span", { dir: "auto" }, value), make("span", {}, count(number))))));
  const ranges = ["confidence", "margin", "length"].map((name) => {
    const [, low = "", high = ""] = byId("query").value.match(new RegExp(`(?:^|\\s)${name}:(\\S*?)\\.\\.(\\S*)`)) ?? [];
    const input = (bound, value) => {
      const box = make("input", { type: "number", step: "any", value, ariaLabel: `${name} ${bound}` });
      box.dataset.bound = `${name} ${bound}`;
      box.addEventListener("change", () => setRange(name));
      return box;
    };
    return make("fieldset", {}, make("legend", {}, name), make("div", { className: "range" }, input("from", low), "–", input("to", high)));
  });
  redraw(byId("facets"), [...ranges, ...sets]);
}
function setRange(name) {
  const [low, high] = ["from", "to"].map((bound) => document.querySelector(`[data-bound="${name} ${bound}"]`).value);
  const rest = byId("query").value.replace(new RegExp(`(^|\\s)${name}:\\S*\\.\\.\\S*`), "").trim();
  byId("query").value = `${rest}${low || high ? ` ${name}:${low}..${high}` : ""}`.trim();
  find();
}
function drawBulk() {
  const chosen = isAll ? grid.found : grid.selected.size;
  byId("chosen").textContent = chosen ? `${count(chosen)} chosen:` : "This row:";
  byId("page").textContent = grid.found ? `${count(grid.first + 1)}–${count(grid.pageEnd)} of ${count(grid.found)}` : "no rows";
  byId("previous").disabled = grid.first === 0;
  byId("next").disabled = grid.pageEnd >= grid.found;
}
function setAll(is) { isAll = is; document.querySelector("[data-do=all]").setAttribute("aria-pressed", String(is)); }

// Correct rows, then show them as they are; raises what the source says against it.
async function decide(what) {
  const reply = await source.decide({ generation: latest.generation, ...what });
  latest.changes = reply.changes;
  tell();
  await refresh();
  byId("status").textContent = `${count(reply.changed)} ${reply.changed === 1 ? "row" : "rows"} changed`;
}

// What the keys and buttons are about: all that were found, those selected, or the one with the focus.
function target() {
  if (isAll) return { q: grid.view.q, sort: grid.view.sort, stamp: grid.view.stamp };
  if (grid.selected.size) return { rows: [...grid.selected] };
  const row = grid.activeRow;
  return row && { rows: [row.row], seen: { [row.row]: row.version } };
}
async function act(action, values = {}) {
  const about = target();
  if (!about) return;
  try { await decide({ action, values, ...about }); } catch (error) { tell(error); if (error.isOutdated) await refresh(); }
}
async function refresh() {
  grid.forget();
  await grid.ask(grid.active);
  grid.draw();
  drawBulk();
}
function ask(title, first, second) {
  byId("ask-name").textContent = title;
  [["ask-first", first], ["ask-second", second]].forEach(([id, words]) => {
    byId(id).value = "";
    byId(id).hidden = byId(`${id}-name`).hidden = !words;
    byId(`${id}-name`).textContent = words ?? "";
  });
  const dialog = byId("ask");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" && byId("ask-first").value ? [byId("ask-first").value, byId("ask-second").value] : null), { once: true });
  });
}

const ACTIONS = {
  accept: () => act("accept"), reject: () => act("reject"), left: () => act("left"), right: () => act("right"),
  async label() { const said = await ask("Set the label", "Label"); if (said) await act("label", { label: said[0] }); },
  async replace() { const said = await ask("Find and replace in answers", "Find", "Replace with"); if (said) await act("replace", { old: said[0], new: said[1] }); },
  async undo() {
    try { const { changed } = await source.undo(); await refresh(); byId("status").textContent = changed ? `${count(changed)} taken back` : "nothing to undo"; } catch (error) { tell(error); }
  },
  all() { setAll(!isAll); drawBulk(); },
  save() { source.save(); },
  edit: () => show(true), open: () => show(false),
};
async function show(isEditing) {
  if (grid.activeRow) try { await detail.open(grid.activeRow.row, isEditing); } catch (error) { tell(error); }
}
function press(event) {
  const isTyping = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && isTyping) { grid.go(grid.active); return; }
  if (isTyping) return;
  const { columns } = grid.measure();
  const isInGrid = byId("grid").contains(event.target);
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: 3 * columns, PageUp: -3 * columns, Home: -Infinity, End: Infinity };
  const step = { j: 1, k: -1 }[event.key] ?? (isInGrid ? moves[event.key] : undefined);
  const named = { a: "accept", x: "reject", u: "undo", e: "edit", l: "left", r: "right" }[event.key];
  if (step) grid.go(isInGrid || document.activeElement === document.body ? Math.min(grid.found - 1, grid.active + step) : grid.active);
  else if (named && !((named === "left" || named === "right") && !source.isCompared)) ACTIONS[named]();
  else if (event.key === "Enter" && isInGrid) ACTIONS.open();
  else if (event.key === "s" && grid.activeRow) { grid.select(grid.activeRow.row); setAll(false); drawBulk(); }
  else if (/^[1-9]$/.test(event.key) && labels[event.key - 1]) act("label", { label: labels[event.key - 1] });
  else if (event.key === "/") byId("query").focus();
  else if (event.key === "?") byId("help").showModal();
  else return;
  event.preventDefault();
}

// What others did, and rows that came since.
async function watch() {
  if (!document.hidden && latest && grid.view) {
    try {
      const reply = await source.show(grid.view, 0, 1, true);
      if (reply.generation !== latest.generation) await find();
      else {
        const hasNews = reply.changes !== latest.changes;
        const hasMore = reply.count !== latest.count || reply.found !== latest.found || reply.reading !== null || reply.comparing;
        if (hasNews || hasMore || latest.comparing || latest.reading !== null) { note(reply); drawFacets(reply.facets); if (hasNews || view.sort) grid.forget(); grid.draw(); }
        if (reply.trouble) tell({ message: reply.trouble });
      }
    } catch (error) { tell(error); }
  }
  setTimeout(watch, WATCH_MS);
}

byId("sort").append(...Object.entries(SORTS).map(([value, words]) => make("option", { value }, words)));
byId("keys").append(...Object.entries(KEYS).flatMap(([keys, words]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, words)]));
byId("filters").open = matchMedia("(min-width: 761px)").matches;
document.querySelector("[data-do=save]").hidden = !source.canSave;
byId("find").addEventListener("submit", (event) => { event.preventDefault(); find().then(() => grid.go(0)); });
try { if (location.hash) byId("query").value = decodeURIComponent(location.hash.slice(1)); } catch { /* no address of ours */ }
for (const name of ["query", "sort"]) byId(name).addEventListener("change", find);
byId("ask-help").addEventListener("click", () => byId("help").showModal());
for (const name of ["detail", "ask"]) byId(name).addEventListener("close", () => grid.go(grid.active));
for (const [name, turn] of [["previous", () => grid.first - PAGE], ["next", () => grid.pageEnd]]) byId(name).addEventListener("click", () => grid.go(turn()).then(drawBulk));
byId("goto").addEventListener("change", (event) => grid.go(event.target.valueAsNumber - 1 || 0).then(drawBulk));
document.addEventListener("click", (event) => {
  const term = event.target.closest("[data-term]")?.dataset.term;
  if (term) toggle(term);
  const action = event.target.closest("#bulk [data-do]")?.dataset.do;
  if (action) ACTIONS[action]();
});
byId("grid").addEventListener("click", (event) => {
  const card = event.target.closest(".card[data-position]");
  if (!card) return;
  const position = Number(card.dataset.position);
  const box = event.target.closest("[data-do=select]");
  if (box) { grid.select(grid.rows.get(position).row, box.checked); setAll(false); drawBulk(); grid.go(position); } else grid.go(position).then(() => event.detail === 2 && ACTIONS.open());
});
document.addEventListener("keydown", press);
find().then(watch);
