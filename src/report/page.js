// A click on a heading sorts its table; a second click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (!heading) return;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.cells[heading.cellIndex];
      if (!heading.classList.contains("number")) return cell.textContent.trim();
      return "value" in cell.dataset ? Number(cell.dataset.value) : Number.NEGATIVE_INFINITY;
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => (ascending ? 1 : -1) * compare(value(a), value(b)));
    body.append(...rows);
  });
}
