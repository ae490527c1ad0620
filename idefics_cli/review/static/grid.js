// The rows of a view, of which only those on the screen are in the page. A page has so many that the browser can still
// scroll through them; the source has the rest.

import { drawCard, make } from "./card.js";

export const PAGE = 2000;
const CHUNK = 60;
const MARGIN = 400;

export class Grid {
  constructor(element, source, onTrouble) {
    Object.assign(this, { element, source, onTrouble, found: 0, first: 0, active: 0, selected: new Set() });
    this.rows = new Map();
    this.waiting = new Map();
    this.drawn = new Map();
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(element.parentElement);
  }

  // Begin anew with the rows of a view.
  open(view, reply) {
    this.view = view;
    this.forget();
    this.take(reply);
    this.first = 0;
    this.active = Math.max(0, Math.min(this.active, this.found - 1));
    this.draw();
  }
  take(reply) { this.found = reply.found; reply.rows.forEach((row, place) => this.rows.set(reply.start + place, row)); }

  // What is shown may be old: it stays until there is something newer.
  forget() {
    this.rows.clear();
    this.waiting.clear();
    for (const item of this.drawn.values()) item.isOld = true;
  }
  get pageEnd() { return Math.min(this.found, this.first + PAGE); }
  turn(first) {
    this.first = Math.max(0, Math.min(first, Math.max(0, this.found - 1)));
    this.first -= this.first % PAGE;
    this.draw();
  }
  measure() {
    const width = this.element.clientWidth;
    const least = this.source.isCompared ? 330 : 230;
    const columns = Math.max(1, Math.floor(width / least));
    return { columns, width: width / columns, height: this.source.isCompared ? 380 : 320 };
  }
  draw() {
    const { columns, width, height } = this.measure();
    const size = this.pageEnd - this.first;
    this.element.style.height = `${Math.ceil(size / columns) * height}px`;
    const top = -this.element.getBoundingClientRect().top;
    const firstLine = Math.max(0, Math.floor((top - MARGIN) / height));
    const lastLine = Math.ceil((top + innerHeight + MARGIN) / height);
    const start = this.first + firstLine * columns;
    const end = Math.min(this.pageEnd, this.first + lastLine * columns);
    for (const [position, item] of this.drawn) {
      if (position < start || position >= end) { item.remove(); this.drawn.delete(position); }
    }
    for (let position = start; position < end; position += 1) {
      const place = position - this.first;
      const item = this.drawCardAt(position);
      item.style.width = `${width}px`;
      item.style.height = `${height}px`;
      item.style.transform = `translate(${(place % columns) * width}px, ${Math.floor(place / columns) * height}px)`;
    }
    if (start < end) { this.ask(start); this.ask(end - 1); }
  }
  drawCardAt(position) {
    const row = this.rows.get(position);
    let item = this.drawn.get(position);
    if (item && (!row || (item.row === row && !item.isOld))) return item;
    const hadFocus = item && item.contains(document.activeElement);
    if (!item) {
      item = make("li", {});
      const before = [...this.drawn.keys()].filter((other) => other > position);
      this.element.insertBefore(item, before.length ? this.drawn.get(Math.min(...before)) : null);
      this.drawn.set(position, item);
    }
    item.setAttribute("aria-setsize", this.found);
    item.setAttribute("aria-posinset", position + 1);
    item.row = row;
    item.isOld = false;
    item.replaceChildren(row ? drawCard(this.source, row, position, this.found, this.selected.has(row.row))
      : make("article", { className: "card" }, "…"));
    if (position === this.active) item.firstChild.tabIndex = 0;
    if (hadFocus) item.firstChild.focus({ preventScroll: true });
    return item;
  }
  async ask(position) {
    const start = position - (position % CHUNK);
    if (this.rows.has(position) || this.waiting.has(start)) return this.waiting.get(start);
    const { view } = this;
    const asking = this.source.show(view, start, CHUNK, false).then((reply) => {
      if (this.view !== view || !this.waiting.has(start)) return;
      this.waiting.delete(start);
      reply.rows.forEach((row, place) => this.rows.set(reply.start + place, row));
      this.draw();
    }).catch((error) => { this.waiting.delete(start); this.onTrouble(error); });
    this.waiting.set(start, asking);
    return asking;
  }

  // Make a position the one that keys act on, with the focus and in sight.
  async go(position, hasFocus = true) {
    this.active = Math.max(0, Math.min(position, this.found - 1));
    if (this.found === 0) return;
    if (this.active < this.first || this.active >= this.pageEnd) this.turn(this.active);
    const { columns, height } = this.measure();
    const top = Math.floor((this.active - this.first) / columns) * height + this.element.getBoundingClientRect().top;
    const header = document.querySelector("body > header");
    const above = getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
    if (top < above) scrollBy(0, top - above);
    else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight);
    this.draw();
    await this.ask(this.active);
    for (const [place, item] of this.drawn) item.firstChild.tabIndex = place === this.active ? 0 : -1;
    if (hasFocus) this.drawn.get(this.active)?.firstChild.focus({ preventScroll: true });
  }
  select(row, isSelected = !this.selected.has(row)) {
    if (isSelected) this.selected.add(row); else this.selected.delete(row);
    for (const item of this.drawn.values()) if (item.row?.row === row) item.isOld = true;
    this.draw();
  }
  get activeRow() { return this.rows.get(this.active); }
}
