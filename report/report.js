"use strict";

(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  function draw() {
    const figures = read("figures");
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById("plot-" + name);
      if (place) {
        Plotly.newPlot(place, figure.data, figure.layout, {
          displayModeBar: false,
          responsive: true,
        });
      }
    }
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table.tBodies[0], column, down);
      });
    });
  }

  function sort(body, column, down) {
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const sign = down ? -1 : 1;
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = Number(x) - Number(y);
      return sign * (Number.isNaN(numbers) ? x.localeCompare(y, "en", { numeric: true }) : numbers);
    };
    body.append(...[...body.rows].sort(compare));
  }

  function filterable(input, table, shown) {
    const rows = [...table.tBodies[0].rows];
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      let count = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        count += row.hidden ? 0 : 1;
      }
      shown.textContent = wanted ? count + " of " + rows.length : "";
    });
  }

  function download(link) {
    link.addEventListener("click", () => {
      const text = JSON.stringify(read("report-data"), null, 2) + "\n";
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    });
  }

  if (window.Plotly) draw();
  document.querySelectorAll("table.sortable").forEach(sortable);
  const input = document.getElementById("filter");
  if (input) filterable(input, document.getElementById("layers-table"), document.getElementById("filtered"));
  download(document.getElementById("download"));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((item) => item.classList.contains("print") && (item.open = true));
  });
})();
