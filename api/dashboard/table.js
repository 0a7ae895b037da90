// A table of many rows, of which only those that are seen are elements.

import { fill, h } from "./dom.js";

const ROW = 32;
const BEYOND = 8;

/**
 * A table with virtual scrolling: {node, set(rows), sorted(key, descending)}.
 *
 * `columns`: [{key, label, cell(row) -> text or node, end: right-aligned, width: CSS, sortable}]. `onSort(key, descending)`
 * hears which column is asked for. `onOpen(row)`: a row can be opened, by a click or Enter. `onEnd()`: the last row is seen.
 * `mark(row)`: a class of the row. `height`: of the part that scrolls, in pixels.
 */
export function table({ label, columns, onSort, onOpen, onEnd, mark, height = 480, id }) {
  let rows = [];
  let sort = { key: null, descending: true };
  let shown = null;
  const grid = columns.map((column) => column.width ?? "minmax(96px, 1fr)").join(" ");
  const heads = columns.map((column) => {
    const text = column.sortable
      ? h("button", { type: "button", class: "table-sort", on: { click: () => ask(column) } }, column.label)
      : column.label;
    return h("span", { role: "columnheader", class: column.end ? "end" : "", "aria-sort": column.sortable ? "none" : null }, text);
  });
  const head = h("div", { class: "table-head", role: "row", style: { "grid-template-columns": grid } }, heads);
  const body = h("div", { class: "table-rows", role: "rowgroup" });
  const space = h("div", { class: "table-space", role: "presentation" }, body);
  const scroller = h("div", { class: "table-scroll", role: "table", tabindex: "0", "aria-label": label, "aria-rowcount": "0",
    style: { "max-height": `${height}px` } }, head, space);
  const node = h("div", { class: "table", id }, scroller);

  function ask(column) {
    sorted(column.key, sort.key === column.key ? !sort.descending : true);
    onSort?.(sort.key, sort.descending);
  }

  /** Shows which column the rows are sorted by. */
  function sorted(key, descending) {
    sort = { key, descending };
    columns.forEach((column, at) => {
      if (column.sortable) heads[at].setAttribute("aria-sort", column.key === key ? (descending ? "descending" : "ascending") : "none");
    });
  }

  function line(row, at) {
    const open = onOpen && {
      click: () => onOpen(row),
      keydown: (event) => {
        if (event.key !== "Enter" || event.target !== event.currentTarget) return;
        // Else the same key would press the button of a dialog that opens.
        event.preventDefault();
        onOpen(row);
      },
    };
    const extra = mark?.(row);
    return h("div", {
      role: "row", class: `table-row${onOpen ? " table-row-open" : ""}${extra ? ` ${extra}` : ""}`, "aria-rowindex": at + 2,
      tabindex: onOpen ? "0" : null, style: { "grid-template-columns": grid }, on: open || {},
    }, columns.map((column) => h("span", { role: "cell", class: column.end ? "end" : "" }, column.cell(row))));
  }

  function draw(force = false) {
    const first = Math.max(Math.floor(scroller.scrollTop / ROW) - BEYOND, 0);
    const last = Math.min(first + Math.ceil(scroller.clientHeight / ROW) + 2 * BEYOND, rows.length);
    if (!force && shown && shown[0] === first && shown[1] === last) return;
    shown = [first, last];
    body.style.transform = `translateY(${first * ROW}px)`;
    fill(body, rows.slice(first, last).map((row, at) => line(row, first + at)));
    if (last === rows.length && rows.length > 0) onEnd?.();
  }

  let waiting = 0;
  scroller.addEventListener("scroll", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => draw());
  });
  new ResizeObserver(() => draw()).observe(scroller);

  return {
    node,
    sorted,
    /** Shows these rows. */
    set(of) {
      rows = of;
      space.style.height = `${rows.length * ROW}px`;
      scroller.setAttribute("aria-rowcount", String(rows.length + 1));
      draw(true);
    },
  };
}
