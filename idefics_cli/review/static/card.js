// What a row looks like in the grid. Text only ever becomes text: nothing here makes HTML of it.
export function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}
export const byId = (id) => document.getElementById(id);
export const percent = (number) => `${(100 * number).toFixed(number > 0.9995 || number < 0.0005 ? 0 : 1)} %`;
export const count = (number) => number.toLocaleString("en");
export function drawPicture(source, row, number, size) {
  const name = row.images[number];
  const box = make("div", { className: "picture" });
  if (name === undefined) return box;
  const image = make("img", { alt: name.split("/").pop(), decoding: "async", loading: size === "small" ? "lazy" : "eager" });
  image.addEventListener("error", () => box.replaceChildren(`${name.split("/").pop()} cannot be shown`));
  image.src = source.pictureOf(row.row, number, size);
  box.append(image);
  return box;
}
export function drawScores(scores) {
  return make("ul", { className: "scores", ariaLabel: "Scores" }, ...scores.map((score) => {
    const bar = make("i", { ariaHidden: "true" });
    bar.style.width = `${100 * Math.min(1, Math.max(0, score.probability))}%`;
    return make("li", {}, bar, make("span", { dir: "auto" }, score.label), make("span", {}, percent(score.probability)));
  }));
}
export function drawSide(diff, side) {
  const pieces = diff.filter(([of]) => of === "both" || of === side);
  const tag = side === "left" ? "del" : "ins";
  return make("p", { className: "answer", dir: "auto" },
    ...pieces.map(([of, text]) => (of === "both" ? text : make(tag, {}, text))));
}
export function drawAnswer(answer, said) {
  const isLabel = answer.label !== null && answer.label === answer.text;
  return [
    answer.error ? make("p", { className: "answer error", dir: "auto" }, `${answer.error.code}: ${answer.error.message}`) : "",
    answer.label ? make("span", { className: "label", dir: "auto" }, answer.label) : "",
    isLabel || answer.error ? "" : said || make("p", { className: "answer", dir: "auto" }, answer.text),
    answer.scores.length ? drawScores(answer.scores) : "",
    answer.confidence === null || answer.scores.length ? "" : make("span", { className: "dim" }, `confidence ${percent(answer.confidence)}`),
  ];
}
export function drawCard(source, row, position, found, isSelected) {
  const select = make("input", { type: "checkbox", checked: isSelected, tabIndex: -1, ariaLabel: `Select row ${position + 1}` });
  select.dataset.do = "select";
  const asked = Object.entries(row.fields).filter(([name]) => name !== "labels").map(([, value]) => value).join(" · ");
  const card = make("article", { className: `card ${row.decision}`, tabIndex: -1, ariaLabel: `Row ${position + 1} of ${count(found)}: ${row.id}` },
    make("header", {}, select, make("span", { dir: "auto", title: row.id }, row.id),
      make("span", { className: "decision" }, row.decision)),
    drawPicture(source, row, 0, "small"),
    asked ? make("span", { className: "dim", dir: "auto" }, asked) : "");
  if (row.other) {
    card.append(make("div", { className: "sides" },
      make("div", {}, ...drawAnswer(row, drawSide(row.diff, "left"))),
      make("div", {}, ...drawAnswer(row.other, drawSide(row.diff, "right")))));
  } else {
    card.append(...drawAnswer(row));
    if (source.isCompared) card.append(make("span", { className: "dim" }, row.file ? "only in the other file" : "not in the other file"));
  }
  card.append(...row.warnings.map((warning) => make("span", { className: "dim", dir: "auto" }, `⚠ ${warning}`)));
  card.classList.toggle("selected", isSelected);
  card.dataset.position = position;
  return card;
}
