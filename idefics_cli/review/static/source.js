// Where rows come from: the server, or the page itself when it was written to a file. Both answer alike.
export class Trouble extends Error {
  constructor(message, isOutdated = false) { super(message); this.isOutdated = isOutdated; }
}
export function openSource() {
  const embedded = document.getElementById("embedded");
  return embedded ? new Embedded(JSON.parse(embedded.textContent)) : new Server();
}
class Server {
  isCompared = false;
  show(view, start, count, facets) {
    return this.ask(`rows?${new URLSearchParams({ ...view, start, count, facets: facets ? 1 : 0 })}`);
  }
  whole(row) { return this.ask(`rows/${row}`); }
  decide(what) { return this.ask("decide", what); }
  undo() { return this.ask("undo", {}); }
  pictureOf(row, number, size) { return `pictures/${size}/${row}/${number}?of=${this.generation}`; }
  async ask(address, body) {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    let reply;
    try { reply = await fetch(address, options); } catch {
      throw new Trouble("The server has ended, nothing was saved. Run `idefics review` again and open the address that it prints.");
    }
    const said = await reply.json().catch(() => ({ error: `the server answered ${reply.status}` }));
    if (!reply.ok) throw new Trouble(said.error, reply.status === 409);
    this.generation = said.generation ?? this.generation;
    return said;
  }
}

const TERM = /(-?)(?:([a-z]+):)?(?:"((?:[^"\\]|\\.)*)"|\/((?:[^/\\]|\\.)+)\/)(?=\s|$)|(\S+)/gs;
const NUMBERS = ["confidence", "margin", "length"];
const FACETS = {
  label: (row) => row.label, template: (row) => row.template, task: (row) => row.task, error: (row) => row.error?.code,
  finish: (row) => row.finish, warning: (row) => row.warnings, decision: (row) => row.decision,
};
const PROPERTIES = {
  failed: (row) => row.error !== null, edited: ({ text, label, was }) => text !== was.text || label !== was.label, reviewed: (row) => row.decision !== "",
  missing: (row, all) => all.isCompared && !row.other, agree: (row) => row.agrees === true, disagree: (row) => row.agrees === false,
  repeated: (row, all) => row.text !== "" && all.rows.filter((other) => other.text === row.text).length > 1,
  duplicate: (row, all) => all.rows.filter((other) => all.pictures[other.row]?.[0] === all.pictures[row.row]?.[0]).length > 1,
};

// A term of a filter as [name of its group, whether a row satisfies it]; the words are those of review/filter.py.
function readTerm([, not, field, phrase, pattern, word], all) {
  let isNot = not === "-";
  let value = phrase?.replace(/\\(.)/gs, "$1");
  if (word !== undefined) {
    isNot = word.startsWith("-") && word.length > 1;
    value = isNot ? word.slice(1) : word;
    const named = value.match(/^([a-z]+):(.+)$/s);
    if (named && (named[1] in FACETS || NUMBERS.includes(named[1]) || ["is", "text"].includes(named[1]))) [, field, value] = named;
  }
  let holds;
  if (pattern !== undefined) {
    const expression = new RegExp(pattern.replaceAll("\\/", "/"), "imu");
    holds = (row) => expression.test(field === "text" ? row.text : row.haystack);
  } else if (NUMBERS.includes(field)) {
    const [low, high] = value.split("..");
    if (high === undefined) throw new Trouble(`${field}:${value} is not a range; write ${field}:0.2..0.8`);
    holds = (row) => row[field] !== null && (low === "" || row[field] >= +low) && (high === "" || row[field] <= +high);
  } else if (field === "is") {
    if (!(value in PROPERTIES)) throw new Trouble(`is:${value} is not known; known: ${Object.keys(PROPERTIES).join(", ")}`);
    holds = (row) => PROPERTIES[value](row, all);
  } else if (field in FACETS) {
    holds = (row) => [FACETS[field](row)].flat().includes(value);
  } else {
    holds = (row) => (field === "text" ? row.text : row.haystack).toLowerCase().includes(value.toLowerCase());
  }
  const group = field in FACETS && !isNot ? field : null;
  return [group, isNot ? (row) => !holds(row) : holds];
}
class Embedded {
  constructor(content) {
    Object.assign(this, content, { canSave: true, entries: [], undoable: [], changes: 0 });
    for (const row of this.rows) this.refresh(row);
  }
  refresh(row) {
    row.haystack = [row.text, row.label, row.id, ...row.images, ...Object.values(row.fields), row.error?.message].join("\n");
    row.length = row.text.length;
    if (row.other) {
      const said = (answer) => (answer.label ?? answer.text).toLowerCase().trim();
      row.agrees = !row.error && !row.other.error && said(row) === said(row.other);
    }
  }
  async show({ q, sort, stamp }, start, count, facets) {
    if (this.stamp !== `${q} ${sort} ${stamp}`) this.find(q, sort);
    this.stamp = `${q} ${sort} ${stamp}`;
    const tally = ([name, read]) => {
      const counts = new Map();
      for (const row of this.rows.filter((each) => this.holds(each, name))) {
        for (const value of [read(row)].flat()) if (value) counts.set(value, (counts.get(value) || 0) + 1);
      }
      return [name, [...counts].sort((a, b) => b[1] - a[1])];
    };
    return {
      rows: this.found.slice(start, start + count), start, found: this.found.length, count: this.rows.length, name: this.name,
      changes: this.changes, reading: null, facets: facets && Object.fromEntries(Object.entries(FACETS).map(tally)), labels: this.labels,
      trouble: "", isCompared: this.isCompared,
    };
  }
  find(q, sort) {
    try { this.terms = [...q.matchAll(TERM)].map((match) => readTerm(match, this)); } catch (error) {
      throw new Trouble(error.message);
    }
    this.found = this.rows.filter((row) => this.holds(row));
    const name = sort.replace(/^-/, "");
    if (!name) return;
    const value = (row) => (name in FACETS ? FACETS[name](row) : row[name]);
    const isMissing = (one) => one === null || one === undefined || one === "";
    const sign = sort.startsWith("-") ? -1 : 1;
    this.found.sort((a, b) => isMissing(value(a)) - isMissing(value(b)) || sign * ((value(a) > value(b)) - (value(a) < value(b))));
  }

  // Values of one field are alternatives; everything else must hold.
  holds(row, without) {
    const groups = new Map();
    for (const [group, holds] of this.terms) {
      if (group === null) { if (!holds(row)) return false; }
      else if (group !== without) groups.set(group, groups.get(group) || holds(row));
    }
    return [...groups.values()].every(Boolean);
  }
  async whole(number) { return this.rows[number]; }
  pictureOf(row, number) { return this.pictures[row][number] || ""; }
  async decide({ action, values, rows }) {
    const chosen = (rows || this.found.map((row) => row.row)).map((number) => this.rows[number]);
    const step = chosen.filter((row) => this.change(row, action, values, new Date().toISOString()));
    if (step.length) this.undoable.push(step.map((row) => [row, row.former]));
    return { changed: step.length, changes: this.changes };
  }
  change(row, action, values, time) {
    const before = { text: row.text, label: row.label };
    const after = { ...before };
    if (action === "text") after.text = values.text;
    if (action === "replace") after.text = row.text.replaceAll(values.old, values.new);
    if (action === "label") Object.assign(after, { label: values.label }, !row.text || row.text === row.label ? { text: values.label } : {});
    if (action === "right") Object.assign(after, { text: row.other.text, label: row.other.label });
    const decision = ["text", "replace", "label"].includes(action) ? "edit" : action;
    if (after.text === before.text && after.label === before.label && (decision === "edit" || decision === row.decision)) return false;
    row.former = { ...before, decision: row.decision, error: row.error };
    this.write(row, after, decision, time);
    return true;
  }
  write(row, after, decision, time, undo) {
    const before = { text: row.text, label: row.label };
    this.entries.push({ id: row.who[0], key: row.who[1], before, after, decision: decision || null, time, ...(undo && { undo }) });
    if (after.text !== before.text || after.label !== before.label) row.error = null;
    Object.assign(row, after, { decision });
    this.changes += 1;
    this.refresh(row);
  }
  async undo() {
    const step = this.undoable.pop() || [];
    const time = new Date().toISOString();
    for (const [row, { text, label, decision, error }] of step) {
      this.write(row, { text, label }, decision, time, true);
      row.error = error;
    }
    return { changed: step.length, changes: this.changes };
  }

  // What `idefics review --apply` reads, as a file.
  save() {
    const lines = this.entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
    link.download = this.reviewName;
    link.click();
  }
}
