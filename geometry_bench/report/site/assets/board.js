"use strict";
// Fills the board from the data in the page, sorts it, searches it and hides rows. No order is by a value until it is asked for.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const region = document.getElementById("board");
  const controls = document.getElementById("controls");
  const search = document.getElementById("search");
  const alignment = document.getElementById("alignment");
  const verdict = document.getElementById("verdict");
  const count = document.getElementById("count");
  const AT_ONCE = 60;
  const [VALUE, ERROR, LOW, HIGH, MARKS, REASON, ANCHOR, UNREADABLE] = [0, 1, 2, 3, 4, 5, 6, 7];

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const isolated = (text) => make("bdi", "", text);
  const number = (value, digits) => {
    const text = Math.abs(value) < 1e6 ? value.toFixed(digits) : value.toPrecision(3);
    return (text.startsWith("-") ? text.replaceAll("-", "−") : `+${text}`);
  };

  // Rows

  const markOf = (which) => {
    const [letter, kind, meaning] = data.marks[which];
    const mark = make("abbr", `mark ${kind}`, letter);
    mark.title = meaning;
    return mark;
  };
  const filled = (row, cell, isPublished) => {
    const link = make("a");
    link.href = `${row.page}#${cell[ANCHOR]}`;
    if (cell[VALUE] === null) {
      link.append(make("span", "why", data.texts[cell[REASON]]));
      return link;
    }
    link.append(make("span", "v", number(cell[VALUE], isPublished ? 2 : 3)));
    if (cell[ERROR] !== null) link.append(make("span", "e", ` ± ${cell[ERROR].toFixed(3)}`));
    const marks = make("span", "marks");
    marks.append(...cell[MARKS].map(markOf));
    if (cell[MARKS].length) link.append(" ", marks);
    if (cell[LOW] !== null) link.append(make("span", "null", `null ${number(cell[LOW], 2)} … ${number(cell[HIGH], 2)}`));
    if (cell[UNREADABLE]) link.append(make("span", "flag", "unreadable"));
    if (cell[REASON] !== null) link.title = data.texts[cell[REASON]];
    return link;
  };
  const built = (row) => {
    const kind = data.kinds[row.kind];
    const element = make("tr", kind);
    const head = make("th");
    head.scope = "row";
    const name = make("a");
    name.href = row.page;
    name.append(isolated(row.name));
    head.append(name);
    const told = [row.alignment, row.within && `in ${row.within}`, row.settings, row.revision].filter(Boolean);
    const meta = make("span", "meta");
    meta.append(make("span", `kind ${kind}`, kind), " ");
    told.forEach((text, place) => meta.append(place ? " · " : "", isolated(text)));
    head.append(" ", meta);
    element.append(head);
    const cells = row.cells.map((cell) => {
      const box = make("td");
      if (cell) {
        box.append(filled(row, cell, kind === "published"));
      } else {
        box.append(make("span", "unknown", "·"));
        box.title = kind === "published" ? "the source reports none" : "not measured";
      }
      element.append(box);
      return box;
    });
    return { element, cells };
  };
  const about = (row, place) => {
    const kind = data.kinds[row.kind];
    const words = [row.name, row.alignment, row.revision, row.settings, row.within, kind].join(" ").toLowerCase();
    return { row, place, kind, words, made: null };
  };

  const table = make("table");
  const caption = make("thead");
  const heads = make("tr");
  const sorted = { column: -1, direction: 0 };
  const head = (label, key, column) => {
    const cell = make("th");
    cell.scope = "col";
    cell.setAttribute("aria-sort", "none");
    const button = make("button", "sort", label);
    button.type = "button";
    button.addEventListener("click", () => sortBy(column));
    cell.append(button);
    if (key) {
      const link = make("a", "column");
      link.append(...key.split(/(?<=[._[-])/).flatMap((part) => [part, make("wbr")]));
      link.href = data.columns[column].claim;
      link.title = data.columns[column].statement;
      cell.append(link);
    }
    heads.append(cell);
    return cell;
  };
  const headCells = [head("subject", "", -1), ...data.columns.map((column, place) => head(column.label, column.key, place))];
  caption.append(heads);
  const body = make("tbody");
  const rows = data.rows.map(about);
  table.append(caption, body);
  region.append(table);

  // Order: as it came, by name, or by a column; values of text that a model cannot read come after the others

  const rank = (cell) => (!cell || cell[VALUE] === null ? 2 : cell[UNREADABLE] ? 1 : 0);
  const compared = (a, b) => {
    if (sorted.direction === 0) return a.place - b.place;
    if (sorted.column < 0) return sorted.direction * a.row.name.localeCompare(b.row.name, "en") || a.place - b.place;
    const [ours, theirs] = [a.row.cells[sorted.column], b.row.cells[sorted.column]];
    const [first, second] = [rank(ours), rank(theirs)];
    if (first !== second) return first - second;
    return (first < 2 ? sorted.direction * (ours[VALUE] - theirs[VALUE]) : 0) || a.place - b.place;
  };
  const sortBy = (column) => {
    const next = { 0: column < 0 ? 1 : -1, 1: column < 0 ? -1 : 0, "-1": column < 0 ? 0 : 1 };
    sorted.direction = sorted.column === column ? next[sorted.direction] : next[0];
    sorted.column = column;
    arrange();
  };
  const arrange = () => {
    headCells.forEach((cell, place) => {
      const is = place - 1 === sorted.column && sorted.direction !== 0;
      cell.setAttribute("aria-sort", is ? (sorted.direction > 0 ? "ascending" : "descending") : "none");
    });
    rows.sort(compared);
    filter();
  };

  // Filters

  const has = (cell, mark) => cell && cell[MARKS].includes(mark);
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = new Set([...controls.querySelectorAll("[name=kind]:checked")].map((box) => box.value));
    const mark = verdict.value === "" ? null : Number(verdict.value);
    const hits = (one) => one.row.cells.map((cell) => mark !== null && has(cell, mark));
    const visible = rows.filter((one) => kinds.has(one.kind) && words.every((word) => one.words.includes(word))
      && (alignment.value === "" || (one.row.alignment || "not declared") === alignment.value)
      && (mark === null || hits(one).includes(true)));
    show(visible, hits);
    count.textContent = visible.length === rows.length ? `${rows.length} rows` : `${visible.length} of ${rows.length} rows`;
  };

  // The first rows at once, the others in turns, so that a long board answers before it is whole

  let turn = 0;
  const show = (visible, hits) => {
    const ours = ++turn;
    body.replaceChildren();
    const add = (from) => {
      if (ours !== turn) return;
      visible.slice(from, from + AT_ONCE).forEach((one, offset) => {
        one.made ||= built(one.row);
        const before = visible[from + offset - 1];
        one.made.element.classList.toggle("first-of-kind", Boolean(before) && before.kind !== one.kind && sorted.direction === 0);
        const marked = hits(one);
        one.made.cells.forEach((box, place) => box.classList.toggle("hit", marked[place]));
        body.append(one.made.element);
      });
      if (from + AT_ONCE < visible.length) setTimeout(add, 0, from + AT_ONCE);
      else region.dataset.whole = "true";
    };
    delete region.dataset.whole;
    add(0);
  };
  const option = (select, value, text) => {
    const element = make("option", "", text);
    element.value = value;
    select.append(element);
  };
  for (const method of [...new Set(rows.map((one) => one.row.alignment || "not declared"))].sort()) option(alignment, method, method);
  data.marks.forEach(([letter, , meaning], place) => {
    if (rows.some((one) => one.row.cells.some((cell) => has(cell, place)))) option(verdict, place, `${letter} ${meaning}`);
  });
  controls.addEventListener("input", filter);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  arrange();
  region.dataset.ready = "true";
})();
