// One row in full: its pictures, all of its text, what is known of it, and what a person makes of it.

import { byId, drawAnswer, drawPicture, drawSide, make, percent } from "./card.js";

export class Detail {
  constructor(source, onDecide) {
    Object.assign(this, { source, onDecide, dialog: byId("detail"), row: null });
    this.dialog.addEventListener("click", (event) => {
      const action = event.target.closest("button")?.dataset.do;
      if (action) this.act(action);
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      if (event.target.id === "text" || event.target.id === "label") { event.preventDefault(); this.act("save"); }
    });
  }
  get isOpen() { return this.dialog.open; }
  async open(number, isEditing) {
    const row = await this.source.whole(number);
    this.row = row;
    byId("detail-name").textContent = row.id;
    byId("detail-pictures").replaceChildren(...row.images.map((_, place) => drawPicture(this.source, row, place, "large")));
    byId("detail-facts").replaceChildren(this.drawFacts(row));
    byId("text").value = this.text = row.text;
    byId("label").value = this.label = row.label ?? "";
    byId("detail-alert").textContent = "";
    for (const button of this.dialog.querySelectorAll("[data-do=left], [data-do=right]")) button.hidden = !row.other;
    if (!this.dialog.open) this.dialog.showModal();
    if (isEditing) { byId("text").focus(); byId("text").select(); }
  }
  drawFacts(row) {
    const facts = [
      ...Object.entries(row.fields), ["template", row.template], ["finish", row.finish], ["decision", row.decision],
      ["as it was", row.before], ["confidence", row.confidence === null ? null : percent(row.confidence)], ...row.warnings.map((warning) => ["warning", warning]),
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const list = make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, String(value))]));
    const sides = row.other ? make("div", { className: "sides" },
      make("div", {}, ...drawAnswer(row, drawSide(row.diff, "left"))),
      make("div", {}, ...drawAnswer(row.other, drawSide(row.diff, "right")))) : "";
    const error = !row.other && row.error ? make("p", { className: "error", dir: "auto" }, `${row.error.code}: ${row.error.message}`) : "";
    return make("div", {}, sides, error, list);
  }

  // Save what was typed, or decide; the dialog stays open with the words in it if that fails.
  async act(action) {
    const { row } = this;
    const text = byId("text").value;
    const label = byId("label").value.trim();
    const seen = { [row.row]: row.version };
    try {
      if (action === "save" && text !== this.text) {
        await this.onDecide({ action: "text", values: { text }, rows: [row.row], seen });
        seen[row.row] += 1;
        this.text = text;
      }
      if (action === "save" && label && label !== this.label) {
        await this.onDecide({ action: "label", values: { label }, rows: [row.row], seen });
      }
      if (action !== "save") await this.onDecide({ action, values: {}, rows: [row.row], seen });
      this.dialog.close();
    } catch (error) {
      const advice = error.isOutdated ? " Close this and open the row again; your words are still here to copy." : "";
      byId("detail-alert").textContent = error.message + advice;
    }
  }
}
