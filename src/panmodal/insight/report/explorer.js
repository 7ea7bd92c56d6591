"use strict";
/* Perturbations and read-outs one by one: a table that searches, sorts and pages, and a scatter that points at its rows. */
panmodal.explorer = (async () => {
  const packed = document.getElementById("explorer-data");
  if (!packed) return;
  const data = JSON.parse(await panmodal.inflate(packed.textContent));
  const format = value => value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(3))) : value;
  const escape = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const PAGE = 25;

  const kinds = {
    perturbations: task => [
      { head: "perturbation", text: true, get: (c, i) => c.id[i] },
      { head: task.effect.replace(/ \(.*/, ""), get: (c, i) => c.effect[i] },
      { head: `${task.metric} of the floor${task.floor_by ? ` (${task.floor_by})` : ""}`, get: (c, i) => c.floor[i] },
      { head: "best of all", text: true, get: (c, i) => c.names[c.best[i]] },
      { head: "its gain", get: (c, i) => c.bestGain[i] },
      ...task.methods.map((name, k) => ({ head: `gain: ${name}`, gain: k, get: (c, i) => c.gains[k][i], note: (c, i) => c.covered[k][i] === "0" ? "not covered" : "" })),
    ],
    readouts: task => [
      { head: "read-out", text: true, get: (c, i) => c.id[i] },
      { head: "sd", get: (c, i) => c.sd[i] },
      ...task.methods.map((name, k) => ({ head: `error removed: ${name}`, gain: k, share: true, get: (c, i) => c.gains[k][i] })),
    ],
  };
  const across = { perturbations: task => [task.effect, c => c.effect], readouts: () => ["sd of the measured response", c => c.sd] };
  const upward = { perturbations: task => `gain in ${task.metric}`, readouts: () => "share of squared error removed" };

  for (const box of document.querySelectorAll(".explorer[data-kind]")) {
    const kind = box.dataset.kind, tasks = data[kind];
    if (!tasks || !tasks.length) continue;
    const make = (tag, options = {}) => Object.assign(document.createElement(tag), options);
    const tools = make("div", { className: "tools" });
    const pick = (label, names) => {
      const select = make("select"), wrap = make("label", { textContent: `${label} ` });
      names.forEach((name, k) => select.append(make("option", { value: k, textContent: name })));
      wrap.append(select); tools.append(wrap);
      return select;
    };
    const task = pick("task", tasks.map(t => t.title)), method = pick("method", []);
    const search = make("input", { type: "search", placeholder: "Search names" });
    search.setAttribute("aria-label", `Search ${kind}`);
    const told = make("span", { className: "soft" }); told.setAttribute("role", "status");
    tools.append(search, told);
    const chart = make("div", { className: "chart" }); chart.dataset.name = kind; chart.style.minHeight = "380px";
    const scroll = make("div", { className: "scroll", tabIndex: 0 }); scroll.setAttribute("role", "region"); scroll.setAttribute("aria-label", `Table of ${kind}`);
    const table = make("table"), head = table.createTHead(), body = table.createTBody(); scroll.append(table);
    const pages = make("div", { className: "tools" });
    const back = make("button", { type: "button", textContent: "Previous" }), on = make("button", { type: "button", textContent: "Next" });
    const where = make("span", { className: "soft" }); pages.append(back, where, on);
    box.append(tools, chart, scroll, pages);

    let columns = [], order = [], page = 0, sorted = null, current = null;
    const own = () => tasks[Number(task.value)];
    const rows = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), c = own().columns;
      order = [];
      for (let i = 0; i < c.id.length; i++) { const name = String(c.id[i]).toLowerCase(); if (words.every(w => name.includes(w))) order.push(i); }
      if (sorted) {
        const get = columns[sorted.column].get;
        order.sort((a, b) => panmodal.compare(get(c, a), get(c, b), sorted.down));
      }
      page = 0; fill();
      told.textContent = words.length ? `${order.length} of ${c.id.length} found` : c.id.length < own().total ? `the ${c.id.length} ${kind === "readouts" ? "of largest sd" : "of largest effect"}, of ${own().total}` : `${c.id.length} ${kind === "readouts" ? "read-outs" : kind}`;
    };
    const fill = () => {
      const c = own().columns, last = Math.max(0, Math.ceil(order.length / PAGE) - 1);
      page = Math.min(Math.max(page, 0), last);
      body.replaceChildren(...order.slice(page * PAGE, page * PAGE + PAGE).map((i, n) => {
        const row = make("tr", { tabIndex: n ? -1 : 0 }); row.dataset.at = i;
        for (const column of columns) {
          const value = column.get(c, i), note = column.note ? column.note(c, i) : "";
          const cell = make("td", { textContent: column.share && value !== null ? `${(100 * value).toFixed(1)} %` : format(value), className: column.text ? "text" : "" });
          if (note) { const mark = make("span", { className: "mark", textContent: note }); cell.append(" ", mark); }
          row.append(cell);
        }
        row.classList.toggle("hit", i === current);
        return row;
      }));
      where.textContent = order.length ? `${page * PAGE + 1} to ${Math.min(order.length, (page + 1) * PAGE)} of ${order.length}` : "nothing found";
      back.disabled = page === 0; on.disabled = page >= last;
    };
    const highlight = i => {
      current = i;
      for (const row of body.rows) row.classList.toggle("hit", Number(row.dataset.at) === i);
      if (!window.Plotly || !chart.data) return;
      const c = own().columns, x = across[kind](own())[1](c), k = Number(method.value);
      const none = i === null || i === undefined || x[i] === null || c.gains[k][i] === null;
      Plotly.restyle(chart, { x: [none ? [] : [x[i]]], y: [none ? [] : [c.gains[k][i]]], text: [none ? [] : [escape(c.id[i])]] }, [chart.data.length - 1]);
    };
    const plot = () => {
      if (!window.Plotly || !box.clientWidth) return;
      const t = own(), c = t.columns, k = Number(method.value), [title, get] = across[kind](t), x = get(c);
      const groups = kind === "perturbations" ? [["covered", i => c.covered[k][i] === "1", "var(--bar)"], ["not covered", i => c.covered[k][i] !== "1", "var(--control)"]] : [["read-outs", () => true, "var(--bar)"]];
      const traces = groups.map(([name, test, colour]) => {
        const at = c.id.map((_, i) => i).filter(i => test(i) && x[i] !== null && c.gains[k][i] !== null);
        return { type: "scattergl", mode: "markers", name, x: at.map(i => x[i]), y: at.map(i => c.gains[k][i]), customdata: at, text: at.map(i => escape(c.id[i])), marker: { color: colour, size: 6, opacity: .65 }, hovertemplate: "<b>%{text}</b><br>%{x:.4g}<br>%{y:.4g}<extra></extra>" };
      }).filter(trace => trace.x.length);
      traces.forEach(trace => { trace.type = "scatter"; });
      traces.push({ type: "scatter", mode: "markers+text", x: [], y: [], text: [], textposition: "top center", hoverinfo: "skip", showlegend: false, marker: { size: 13, symbol: "circle-open", color: "var(--c1)", line: { width: 3 } } });
      const layout = { height: 400, xaxis: { title: { text: escape(title) }, zeroline: false }, yaxis: { title: { text: escape(upward[kind](t)) }, zeroline: true, zerolinecolor: "var(--ink)", tickformat: kind === "readouts" ? ".0%" : "" }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, showlegend: traces.length > 2, margin: { t: 30 } };
      panmodal.charts.draw(chart, { data: traces, layout });
      if (!chart.dataset.wired) {
        chart.dataset.wired = "1";
        chart.on("plotly_hover", event => { const i = event.points[0].customdata; if (i !== undefined) { current = i; for (const row of body.rows) row.classList.toggle("hit", Number(row.dataset.at) === i); } });
        chart.on("plotly_click", event => {
          const i = event.points[0].customdata;
          if (i === undefined) return;
          page = Math.floor(Math.max(0, order.indexOf(i)) / PAGE); current = i; fill(); highlight(i);
        });
      }
    };
    const setup = () => {
      const t = own();
      columns = kinds[kind](t); sorted = null; current = null;
      method.replaceChildren(...t.methods.map((name, k) => make("option", { value: k, textContent: name })));
      const line = make("tr");
      for (const column of columns) { const cell = make("th", { textContent: column.head, className: column.text ? "text" : "", scope: "col" }); line.append(cell); }
      head.replaceChildren(line);
      panmodal.sortable([...line.cells], (column, down) => { sorted = { column, down }; rows(); });
      rows(); plot();
    };
    task.addEventListener("change", setup);
    method.addEventListener("change", () => { plot(); highlight(current); });
    search.addEventListener("input", rows);
    back.addEventListener("click", () => { page--; fill(); });
    on.addEventListener("click", () => { page++; fill(); });
    body.addEventListener("mouseover", event => { const row = event.target.closest("tr"); if (row) highlight(Number(row.dataset.at)); });
    body.addEventListener("focusin", event => { const row = event.target.closest("tr"); if (row) highlight(Number(row.dataset.at)); });
    body.addEventListener("keydown", event => {
      const row = event.target.closest("tr"), step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (!row || !step || !row[step]) return;
      event.preventDefault(); row.tabIndex = -1; row[step].tabIndex = 0; row[step].focus();
    });
    setup();
    panmodal.redraw.push(plot);
    panmodal.charts.ready.then(plot, () => { chart.textContent = "The figure cannot be drawn here; the table below has its numbers."; });
  }
})();
