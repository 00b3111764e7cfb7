"use strict";

(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  function draw() {
    const figures = read("figures");
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById("plot-" + name);
      if (place) Plotly.newPlot(place, figure.data, fitting(figure.layout, place.offsetWidth), { displayModeBar: false });
    }
    window.addEventListener("resize", () => {
      if (!window.matchMedia("print").matches) plots().forEach((place) => Plotly.Plots.resize(place));
    });
    window.addEventListener("beforeprint", () => plots().forEach((place) => shrink(place)));
    window.addEventListener("afterprint", () => plots().forEach((place) => (place.style.zoom = "")));
  }

  // On a phone names beside a plot leave no room for it: small names, and none where they would cover each other.
  function fitting(layout, width) {
    if (width > 480) return layout;
    const { xaxis, yaxis } = layout;
    const crowded = xaxis.tickangle === -90;
    const small = yaxis.ticktext ? { tickfont: { size: 9 } } : {};
    return {
      ...layout,
      height: crowded ? 150 : layout.height,
      xaxis: { ...xaxis, showticklabels: !crowded, ...(yaxis.ticktext ? { nticks: 4 } : {}) },
      yaxis: { ...yaxis, ...small },
    };
  }

  const plots = () => [...document.querySelectorAll(".plot")];

  // Plots keep their pixels on paper; 700 pixels are the width of an A4 page, two columns share it.
  function shrink(place) {
    const column = place.closest(".pair") ? 336 : 700;
    place.style.zoom = Math.min(1, column / place.offsetWidth);
  }

  // Every layer is a table body of its own: its row of numbers and the line that says why.
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        table.append(...[...table.tBodies].sort(comparison(column, down)));
      });
    });
  }

  function comparison(column, down) {
    const key = (body) => {
      const cell = body.rows[0].cells[column];
      return cell.dataset.value ?? cell.textContent.trim();
    };
    return (first, second) => {
      const a = key(first), b = key(second);
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = Number(a) - Number(b);
      const order = Number.isNaN(numbers) ? a.localeCompare(b, "en", { numeric: true }) : numbers;
      return down ? -order : order;
    };
  }

  function filterable(input, table, shown) {
    const bodies = [...table.tBodies];
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const body of bodies) {
        const text = body.rows[0].cells[0].dataset.value + body.textContent;
        body.hidden = !text.toLowerCase().includes(wanted);
      }
      const left = bodies.filter((body) => !body.hidden).length;
      shown.textContent = wanted ? left + " of " + bodies.length : "";
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
})();
