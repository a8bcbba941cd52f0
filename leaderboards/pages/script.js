// Sorting, filtering and copying. Without this script every row is there, in its rank's order.
"use strict";
(() => {
  const FIRST = 200; // rows in the page at first, and with each "more": moving 5,000 takes a browser seconds
  const WAIT = 120; // milliseconds after the last key before the rows are filtered

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function cellValue(row, column, numeric) {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    const text = cell.dataset.value;
    return text === undefined || text === "" ? null : Number(text);
  }

  // What has no value comes last, whichever way the others go.
  function compare(one, two, numeric, sign) {
    if (one === null || two === null) return (one === null) - (two === null);
    return sign * (numeric ? one - two : collator.compare(one, two));
  }

  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();

  // What the filter searches: names, not numbers, or "team 2" would find every row with a 2 in it.
  const names = (row) =>
    Array.from(row.querySelectorAll("th, td:not(.number, .bars)"), (cell) => plain(cell.textContent)).join("\n");

  function board(table) {
    const body = table.tBodies[0];
    const form = document.querySelector("form.filter");
    const output = form.querySelector("output");
    const more = document.querySelector(".more");
    const rows = Array.from(body.rows, (row, place) => ({
      row, place, text: names(row), checked: row.querySelector(".badge.good") !== null,
    }));
    let order = rows;
    let limit = FIRST;

    function show() {
      const wanted = plain(form.elements.text.value);
      const checkedOnly = form.elements.checked.checked;
      const found = order.filter((entry) => (!checkedOnly || entry.checked) && entry.text.includes(wanted));
      const count = rows.length.toLocaleString("en");
      output.textContent = found.length === rows.length ? `${count} ${rows.length === 1 ? "row" : "rows"}`
        : `${found.length.toLocaleString("en")} of ${count} rows`;
      const rest = found.length - limit;
      more.hidden = rest <= 0;
      more.firstElementChild.textContent = `Show ${Math.min(FIRST, rest)} more of ${found.length.toLocaleString("en")} rows`;
      body.replaceChildren(...found.slice(0, limit).map((entry) => entry.row));
    }

    function sort(header, numeric) {
      const column = header.cellIndex;
      const upwards = header.getAttribute("aria-sort") === "descending"
        || (!header.hasAttribute("aria-sort") && (!numeric || column === 0));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const values = new Map(rows.map((entry) => [entry, cellValue(entry.row, column, numeric)]));
      order = rows.slice().sort((one, two) =>
        compare(values.get(one), values.get(two), numeric, upwards ? 1 : -1) || one.place - two.place);
      show();
    }

    let timer = 0;
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(show, WAIT);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      show();
    });
    for (const button of table.querySelectorAll("button[data-sort]")) {
      button.addEventListener("click", () => sort(button.closest("th"), button.dataset.sort === "number"));
    }
    more.firstElementChild.addEventListener("click", () => {
      limit += FIRST;
      show();
    });
    addEventListener("beforeprint", () => {
      limit = Infinity;
      show();
    });
    form.hidden = false;
    show();
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // No access to the clipboard: leave the command selected for the user to copy.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  }

  const table = document.querySelector("table.board");
  if (table) board(table);
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.setAttribute("aria-live", "polite");
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
})();
