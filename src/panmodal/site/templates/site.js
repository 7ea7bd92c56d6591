"use strict";
/* Theme, sorting, and on the front page filters: all from files of this site. Text is put in as text, never as markup. */
const panmodalSite = (() => {
  const root = document.documentElement;
  const theme = document.querySelector(".theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = key => { try { return localStorage.getItem(key); } catch { return null; } };
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => { if (theme) { theme.textContent = current() === "dark" ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${theme.textContent.toLowerCase()} colours`); } };
  if (["dark", "light"].includes(kept("panmodal-theme"))) root.dataset.theme = kept("panmodal-theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      try { localStorage.setItem("panmodal-theme", root.dataset.theme); } catch { /* files and private windows may refuse */ }
      tell();
    });
  }
  dark.addEventListener("change", tell); tell();

  const missing = v => v === "" || v === null || v === undefined || Number.isNaN(v);
  const compare = (a, b, down) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  };
  const heads = (cells, sort) => cells.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent; head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      cells.forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
    });
  });
  for (const table of document.querySelectorAll("table.sortable")) {
    const cells = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const value = (row, column) => {
      const cell = row.cells[column], raw = cell ? cell.dataset.value ?? cell.textContent.trim() : "";
      if (cells[column].classList.contains("text")) return raw;
      return parseFloat(raw.replace("–", ""));
    };
    heads(cells, (column, down) => {
      const rows = [...body.rows].map(row => [value(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], down));
      body.append(...rows.map(pair => pair[1]));
    });
  }

  /* --- the front page -------------------------------------------------------------------------------------------- */
  const board = document.getElementById("standings"), form = document.getElementById("filters"), status = document.getElementById("status");
  const views = {}, state = { metric: "primary", fallback: "filled", screen: "", context: "", response: "", probe: "", modality: "", kind: "", words: "", key: "", down: false };
  let data = null;
  const node = (tag, text, name) => { const made = document.createElement(tag); if (text !== undefined) made.textContent = text; if (name) made.className = name; return made; };
  const svg = (tag, attributes) => { const made = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v); return made; };
  const fixed = (v, digits) => { if (missing(v)) return "–"; const text = v.toFixed(digits); return Number(text) === 0 ? text.replace("-", "") : text; };
  const percent = v => missing(v) ? "–" : `${fixed(100 * v, Math.abs(v) >= 0.095 ? 0 : 1)} %`;
  const mean = values => values.length ? values.reduce((a, b) => a + b, 0) / values.length : NaN;

  /* The same sums as the static table: ranks among all methods of a task, places among methods run on the same tasks. */
  const standings = view => {
    const wanted = data.tasks.map(t => (!state.screen || t.screen === state.screen) && (!state.context || t.context === state.context) && (!state.response || t.response === state.response) && (!state.kind || t.kind === state.kind));
    const all = wanted.every(Boolean), own = data.methods.map((m, k) => !state.probe || m.probe === state.probe ? view.scores[k].filter(s => wanted[s[0]]) : []);
    const byTask = new Map();
    own.forEach((scores, k) => { for (const s of scores) { if (!byTask.has(s[0])) byTask.set(s[0], []); byTask.get(s[0]).push([s[1], k]); } });
    const shares = data.methods.map(() => []), wins = data.methods.map(() => 0);
    for (const [task, list] of byTask) {
      const higher = view.metrics[task][1];
      list.sort((a, b) => higher ? b[0] - a[0] : a[0] - b[0]);
      let rank = 1;
      list.forEach(([value, k], at) => {
        if (at && value !== list[at - 1][0]) rank = at + 1;
        shares[k].push(list.length > 1 ? (rank - 1) / (list.length - 1) : 0); wins[k] += rank === 1;
      });
    }
    const rows = [];
    data.methods.forEach((method, k) => {
      const scores = own[k];
      if (!scores.length) return;
      const tasks = scores.map(s => s[0]).sort((a, b) => a - b), gaps = scores.map(s => s[2]).filter(g => g !== null);
      let bounds = [null, null];
      if (view.metric === "primary" && view.fallback === "filled") {
        const whole = state.screen && !state.context && !state.response ? method.gap[state.screen] : scores.length === view.scores[k].length ? method.gap[""] : null;
        bounds = whole || bounds;
      }
      if (scores.length === 1) bounds = [scores[0][3], scores[0][4]];
      const known = scores.every(s => s[5] !== null), unranked = view.fallback === "covered";
      rows.push({
        method, tasks, group: `${data.kinds.indexOf(method.kind)}|${tasks}`, rank: unranked ? NaN : mean(shares[k]), wins: unranked ? NaN : wins[k], gap: mean(gaps), low: bounds[0], high: bounds[1],
        above: view.fallback === "filled" ? scores.filter(s => s[7]).length : NaN, coverage: known ? mean(scores.map(s => s[5])) : NaN, seen: scores.filter(s => s[6]).length, score: scores.length === 1 ? scores[0][1] : NaN,
        name: method.name, probe: method.probe, modality: method.modality, licence: method.licence, date: method.date,
      });
    });
    const groups = new Map();
    for (const row of rows) { if (!groups.has(row.group)) groups.set(row.group, []); groups.get(row.group).push(row); }
    const order = (a, b) => compare(a.rank, b.rank) || compare(a.gap, b.gap, true) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) || (a.probe < b.probe ? -1 : 1);
    const kindOf = r => data.kinds.indexOf(r.method.kind), byTasks = (a, b) => { for (let k = 0; k < a.length; k++) if (a[k] !== b[k]) return a[k] - b[k]; return 0; };
    return [...groups.values()].map(list => {
      list.sort(order);
      list.forEach((row, at) => { row.place = missing(row.rank) ? NaN : at && row.rank === list[at - 1].rank ? list[at - 1].place : at + 1; });
      return list;
    }).sort((a, b) => kindOf(a[0]) - kindOf(b[0]) || b[0].tasks.length - a[0].tasks.length || byTasks(a[0].tasks, b[0].tasks));
  };

  const markOf = kind => kind === "published" ? node("span", "published, not rerun", "mark published") : kind === "simulated" ? node("span", "simulated", "mark") : null;
  const line = (row, oneTask) => {
    const made = node("tr"), who = node("th", undefined, "text pin"), link = node("a"), name = node("bdi", row.name);
    who.scope = "row"; link.href = row.method.page; link.append(name); who.append(link);
    if (row.seen) { const mark = node("span", `seen ${row.seen}/${row.tasks.length}`, "mark bad"); mark.title = `Trained on responses of ${row.seen} of these data sets`; who.append(" ", mark); }
    const modality = node("td", undefined, "text"), licence = node("td", undefined, "text"), gap = node("td", undefined, "gapcell");
    modality.append(node("bdi", row.modality)); licence.append(node("bdi", row.licence));
    if (!missing(row.gap)) {
      const bar = svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }), at = x => (100 * Math.min(1, Math.max(0, x))).toFixed(1);
      bar.append(svg("rect", { width: 100, height: 10 }), svg("rect", { class: "full", width: at(row.gap), height: 10 }));
      if (!missing(row.low)) bar.append(svg("line", { x1: at(row.low), x2: at(row.high), y1: 5, y2: 5 }));
      gap.append(bar);
    }
    gap.append(node("span", percent(row.gap), "pc"));
    if (!missing(row.low)) gap.append(" ", node("span", `(${percent(row.low).replace(" %", "")} to ${percent(row.high)})`, "ci"));
    const rank = node("td", fixed(row.rank, 3));
    if (oneTask && !missing(row.score)) rank.append(" ", node("span", fixed(row.score, 4), "soft"));
    made.append(node("td", missing(row.place) ? "" : String(row.place)), who, node("td", row.probe, "text"), modality, rank, gap, node("td", missing(row.wins) ? "–" : String(row.wins)),
      node("td", missing(row.above) ? "–" : `${row.above}/${row.tasks.length}`), node("td", missing(row.coverage) ? "unknown" : percent(row.coverage)), licence, node("td", row.date || "–", "text"));
    return made;
  };
  const heading = list => {
    const screens = [...new Set(list[0].tasks.map(t => data.tasks[t].screen))], n = list[0].tasks.length, made = node("tr", undefined, "group"), head = node("th");
    head.scope = "rowgroup"; head.colSpan = 11;
    head.append(`Run on ${n} task${n > 1 ? "s" : ""} of ${screens.slice(0, 4).join(", ")}${screens.length > 4 ? ` and ${screens.length - 4} more screens` : ""}`);
    const mark = markOf(list[0].method.kind);
    if (mark) head.append(" ", mark);
    made.append(head);
    return made;
  };
  const draw = () => {
    const view = views[`${state.metric}|${state.fallback}`];
    if (!view) return;
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean), bodies = [];
    const groups = standings(view), tasks = [...new Set(groups.flatMap(list => list[0].tasks))];
    let shown = 0, total = 0;
    for (const list of groups) {
      total += list.length;
      const kept = list.filter(row => (!state.modality || row.modality === state.modality) && words.every(w => `${row.name} ${row.probe} ${row.modality} ${row.licence}`.toLowerCase().includes(w)));
      if (!kept.length) continue;
      shown += kept.length;
      if (state.key) kept.sort((a, b) => compare(a[state.key], b[state.key], state.down));
      const body = node("tbody");
      body.append(heading(kept), ...kept.map(row => line(row, row.tasks.length === 1)));
      bodies.push(body);
    }
    for (const body of [...board.tBodies]) body.remove();
    board.append(...bodies);
    const used = [...new Set(tasks.map(t => view.metrics[t][0]))].sort();
    const own = view.fallback === "covered" ? " Scores on own ids are of other perturbations for each embedding: they are shown for single tasks and not ranked." : "";
    status.textContent = (shown === total ? `${total} methods` : `${shown} of ${total} methods`) + (used.length ? `, by ${used.join(", ")}.` : ".") + own;
    const part = [...form.elements].filter(e => e.value && !["metric", "fallback"].includes(e.name)).length;
    form.classList.toggle("active", part > 0);
  };
  const choose = () => {
    const found = data.views.find(v => v[0] === state.metric && v[1] === state.fallback) || data.views.find(v => v[0] === state.metric);
    if (!found) return;
    state.fallback = form.elements.fallback.value = found[1];
    if (views[`${found[0]}|${found[1]}`]) { draw(); return; }
    status.textContent = "Loading …";
    const script = document.createElement("script");
    script.src = found[2];
    script.addEventListener("error", () => { status.textContent = "This metric's file could not be loaded; the tables to download have it."; });
    document.head.append(script);
  };
  const build = () => {
    const unique = values => [...new Set(values)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const add = (name, label, options) => {
      const wrap = node("label", label), select = node("select");
      select.name = name;
      for (const [value, text] of options) { const option = node("option", text); option.value = value; select.append(option); }
      wrap.append(select); form.append(wrap);
      select.addEventListener("change", () => { state[name] = select.value; if (name === "screen") { state.context = ""; contexts(); } if (["metric", "fallback"].includes(name)) choose(); else draw(); });
      return select;
    };
    const plain = (name, label, values, every) => values.length > 1 ? add(name, label, [["", every], ...values.map(v => [v, v])]) : null;
    const search = node("input"), wrap = node("label", "Search");
    search.type = "search"; search.name = "words"; search.placeholder = "name, probe, licence"; wrap.append(search); form.append(wrap);
    search.addEventListener("input", () => { state.words = search.value; draw(); });
    const kinds = data.kinds.filter(k => data.methods.some(m => m.kind === k));
    if (kinds.length > 1) add("kind", "Data", [["", "all"], ...kinds.map(k => [k, k === "published" ? "published, not rerun" : k])]);
    plain("modality", "Modality", unique(data.methods.map(m => m.modality)), "all modalities");
    plain("screen", "Screen", unique(data.tasks.map(t => t.screen)), "all screens");
    const context = plain("context", "Context", unique(data.tasks.map(t => t.context)), "all contexts");
    const contexts = () => {
      if (!context) return;
      const names = unique(data.tasks.filter(t => !state.screen || t.screen === state.screen).map(t => t.context));
      context.replaceChildren(...[["", "all contexts"], ...names.map(n => [n, n])].map(([value, text]) => { const o = node("option", text); o.value = value; return o; }));
    };
    plain("response", "Response", unique(data.tasks.map(t => t.response)), "all kinds");
    plain("probe", "Probe", unique(data.methods.map(m => m.probe)), "all probes");
    const metrics = [...new Set(data.views.map(v => v[0]))];
    add("metric", "Metric", metrics.map(m => [m, m === "primary" ? "primary" : m]));
    add("fallback", "Test ids", [["filled", "all, filled"], ["common", "in common"], ["covered", "own (not ranked)"]]);
    const reset = node("button", "Reset", "end");
    reset.type = "reset"; form.append(reset);
    form.addEventListener("reset", () => setTimeout(() => {
      Object.assign(state, { metric: "primary", fallback: "filled", screen: "", context: "", response: "", probe: "", modality: "", kind: "", words: "", key: "", down: false });
      [...board.tHead.rows[0].cells].forEach(h => h.removeAttribute("aria-sort")); contexts(); choose();
    }));
    form.addEventListener("submit", event => event.preventDefault());
    const cells = [...board.tHead.rows[0].cells];
    heads(cells, (column, down) => { state.key = cells[column].dataset.key; state.down = down; draw(); });
    const box = document.getElementById("filterbox");
    box.hidden = false; box.open = !matchMedia("(max-width: 48rem)").matches;
  };
  return {
    base(given) { data = given; if (board) build(); },
    view(given) { views[`${given.metric}|${given.fallback}`] = given; if (data && board && state.metric === given.metric && state.fallback === given.fallback) draw(); },
    standings: () => standings(views[`${state.metric}|${state.fallback}`]),
  };
})();
