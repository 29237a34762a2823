"use strict";
(() => {
  const said = document.getElementById("said");
  const words = (row, place) => row.cells[place].textContent.trim();
  const key = (row, place) => {
    const value = row.cells[place].querySelector(".value");
    const text = value ? value.textContent.trim() : words(row, place);
    const number = /^[-+]?[\d.]+(e[-+]?\d+)?/i.exec(text);
    return [text, number ? Number.parseFloat(number[0]) : Number.NaN];
  };
  const compare = (first, second) => {
    const [a, b] = [first[1], second[1]];
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    return first[0].localeCompare(second[0], "en", { numeric: true });
  };
  const sort = (head, button) => {
    const table = head.closest("table");
    const body = table.tBodies[0];
    const place = head.cellIndex;
    const keyed = Array.from(body.rows, (row) => [key(row, place), row]);
    const numbers = keyed.some(([own]) => !Number.isNaN(own[1]));
    const before = head.getAttribute("aria-sort");
    // At first the largest number, or the first word.
    const down = numbers ? before !== "descending" : before === "ascending";
    const known = keyed.filter(([own]) => !numbers || !Number.isNaN(own[1]));
    const unknown = keyed.filter((one) => !known.includes(one));
    known.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    body.append(...known.map(([, row]) => row), ...unknown.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    said.textContent = `sorted by ${button.textContent.trim()}, ${down ? "descending" : "ascending"}`;
  };
  for (const head of document.querySelectorAll('thead th[scope="col"]')) {
    let button = head.querySelector("button");
    if (!button && head.textContent.trim()) {
      button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
    }
    if (button) button.addEventListener("click", () => sort(head, button));
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
