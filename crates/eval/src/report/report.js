// Tables that can be searched and sorted. Without this the page says the same.
for (const figure of document.querySelectorAll("figure.grid")) {
  const body = figure.querySelector("tbody"), rows = [...body.rows];
  if (rows.length > 3) {
    figure.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      const key = row => {
        const cell = row.cells[column];
        return "sort" in cell.dataset ? +cell.dataset.sort : cell.innerText.trim().toLowerCase();
      };
      // Numbers before words before nothing, whichever way round.
      const rank = value => (typeof value === "number" ? 0 : value ? 1 : 2);
      button.onclick = () => {
        const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        figure.querySelectorAll("[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
        const keyed = rows.map(row => [key(row), row]);
        keyed.sort(([a], [b]) => rank(a) - rank(b) || down * (rank(a) ? a.localeCompare(b) : a - b));
        body.append(...keyed.map(([, row]) => row));
      };
    });
  }
  if (figure.classList.contains("search")) {
    const input = document.createElement("input"), found = document.createElement("span");
    input.type = "search";
    input.placeholder = `search ${rows.length} rows`;
    input.setAttribute("aria-label", "search this table");
    found.className = "found";
    found.setAttribute("role", "status");
    input.oninput = () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        count += !row.hidden;
      }
      found.textContent = input.value ? `${count} of ${rows.length}` : "";
    };
    figure.querySelector("figcaption").append(found, input);
  }
}
