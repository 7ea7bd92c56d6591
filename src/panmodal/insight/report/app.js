"use strict";
/* Theme, tables that sort and filter, downloads. Nothing here needs the network. */
const panmodal = { redraw: [] };

panmodal.theme = (() => {
  const root = document.documentElement, button = document.querySelector(".theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const saved = () => { try { return localStorage.getItem("panmodal-theme"); } catch { return null; } };
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => {
    if (button) { button.textContent = current() === "dark" ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${button.textContent.toLowerCase()} colours`); }
    for (const again of panmodal.redraw) again();
  };
  if (["dark", "light"].includes(saved())) root.dataset.theme = saved();
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      try { localStorage.setItem("panmodal-theme", root.dataset.theme); } catch { /* private windows and files may refuse */ }
      tell();
    });
  }
  dark.addEventListener("change", tell);
  tell();
  return { current, tell };
})();

/* On a phone the contents are folded away. */
if (matchMedia("(max-width: 60rem)").matches) document.querySelector(".side details")?.removeAttribute("open");

panmodal.inflate = async text => {
  const bytes = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
};

/* --- tables ------------------------------------------------------------------------------------------------------- */

panmodal.compare = (a, b, down) => {
  const missing = v => v === "" || v === "–" || v === null || v === undefined || (typeof v === "number" && Number.isNaN(v));
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return down ? -order : order;
};

panmodal.sortable = (heads, sort) => heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button"; button.textContent = head.textContent; head.replaceChildren(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(column, down);
  });
});

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column], raw = cell.dataset.value ?? cell.textContent.trim();
    if (heads[column].classList.contains("text")) return raw;
    const number = parseFloat(raw.replace("%", ""));
    return Number.isNaN(number) ? raw === "nan" ? "" : raw : number;
  };
  panmodal.sortable(heads, (column, down) => {
    const rows = [...body.rows].map(row => [value(row, column), row]);
    rows.sort((a, b) => panmodal.compare(a[0], b[0], down));
    body.append(...rows.map(pair => pair[1]));
    clip();
  });
  /* A filter and a "show all" button for long tables. */
  const shown = Number(table.dataset.shown || 0), total = body.rows.length;
  let words = [], all = !shown || total <= shown, button = null, told = null;
  const clip = () => {
    let count = 0;
    for (const row of body.rows) {
      const text = words.length ? row.textContent.toLowerCase() : "";
      const match = words.every(word => text.includes(word));
      count += match;
      row.hidden = !match || (!all && !words.length && count > shown);
    }
    if (told) told.textContent = words.length ? `${count} of ${total}` : "";
    if (button) { button.hidden = words.length > 0; button.textContent = all ? `Show the first ${shown}` : `Show all ${total}`; }
  };
  if (total > 8) {
    const tools = document.createElement("div"); tools.className = "tools";
    const search = document.createElement("input");
    search.type = "search"; search.placeholder = "Filter rows"; search.setAttribute("aria-label", `Filter the rows of ${table.caption?.textContent || "this table"}`);
    search.addEventListener("input", () => { words = search.value.toLowerCase().split(/\s+/).filter(Boolean); clip(); });
    told = document.createElement("span"); told.className = "soft"; told.setAttribute("role", "status");
    tools.append(search, told);
    if (!all) {
      button = document.createElement("button"); button.type = "button";
      button.addEventListener("click", () => { all = !all; clip(); });
      tools.append(button);
    }
    table.parentElement.before(tools);
  }
  clip();
}

/* --- downloads ---------------------------------------------------------------------------------------------------- */

panmodal.save = (name, data, type) => {
  const link = document.createElement("a"), address = URL.createObjectURL(new Blob([data], { type }));
  link.href = address; link.download = name; document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};
if (typeof DecompressionStream === "function") {
  /* Compressed tables are saved as they were. */
  for (const link of document.querySelectorAll('a[download$=".csv.gz"]')) {
    link.addEventListener("click", async event => {
      event.preventDefault();
      panmodal.save(link.download.replace(/\.gz$/, ""), await panmodal.inflate(link.getAttribute("href").split(",")[1]), "text/csv");
    });
  }
}
/* A link beside a table stands for the one in the list of downloads, so that the page holds each table once. */
for (const link of document.querySelectorAll("a.get[href^='#']")) {
  link.addEventListener("click", event => {
    const real = document.getElementById(link.dataset.get)?.querySelector("a");
    if (real) { event.preventDefault(); real.click(); }
  });
}
for (const figure of document.querySelectorAll("figure[data-name]")) {
  const svg = figure.querySelector("svg.plot"), place = figure.querySelector(".files-of");
  if (!svg || !place) continue;
  const button = document.createElement("button");
  button.type = "button"; button.textContent = "Figure (SVG)";
  button.addEventListener("click", () => {
    const copy = svg.cloneNode(true); copy.setAttribute("color", "#1a2027");
    panmodal.save(`${figure.dataset.name}.svg`, new XMLSerializer().serializeToString(copy), "image/svg+xml");
  });
  place.append(button);
}
