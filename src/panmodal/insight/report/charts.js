"use strict";
/* Interactive figures: drawn when they come into view, in the colours of the page. */
panmodal.charts = (() => {
  const style = () => getComputedStyle(document.documentElement);
  const coloured = (value, css) => {
    if (typeof value === "string") return /^var\(--[\w-]+\)$/.test(value) ? css.getPropertyValue(value.slice(4, -1)).trim() : value;
    if (Array.isArray(value)) return value.map(v => coloured(v, css));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, css)]));
    return value;
  };
  const axis = css => ({ gridcolor: css.getPropertyValue("--line").trim(), linecolor: css.getPropertyValue("--line").trim(), zerolinecolor: css.getPropertyValue("--line").trim() });
  const layout = (own, css, narrow) => {
    const get = name => css.getPropertyValue(name).trim(), made = coloured(own, css);
    const out = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, hovermode: "closest", dragmode: false, ...made,
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: narrow ? 11 : 12.5, color: get("--ink") },
      margin: { l: 8, r: narrow ? 8 : 24, t: 12, b: 44, ...made.margin },
      hoverlabel: { bgcolor: get("--card"), bordercolor: get("--line"), font: { color: get("--ink"), size: 12.5 }, align: "left" },
      xaxis: { ...axis(css), automargin: true, ...made.xaxis }, yaxis: { ...axis(css), automargin: true, ...made.yaxis },
    };
    if (narrow && out.yaxis.ticktext) out.yaxis.ticktext = out.yaxis.ticktext.map(t => t.length > 20 ? t.slice(0, 19) + "…" : t);
    if (narrow && out.xaxis.ticktext) out.xaxis.ticktext = out.xaxis.ticktext.map(t => t.length > 20 ? "…" + t.slice(-19) : t);
    if (narrow && out.annotations) out.annotations = out.annotations.map(a => ({ ...a, font: { ...a.font, size: 10 } }));
    return out;
  };
  const config = name => ({ responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toImage"],
    modeBarButtonsToAdd: [{ name: "Save as SVG", icon: window.Plotly.Icons.camera, click: gd => Plotly.downloadImage(gd, { format: "svg", filename: name }) }],
    showTips: false, scrollZoom: false });
  const draw = (element, spec) => {
    const css = style(), narrow = element.clientWidth < 520;
    const data = coloured(spec.data, css);
    if (narrow) for (const trace of data) if (trace.colorbar) { trace.showscale = false; }
    element.style.minHeight = "";
    return Plotly.react(element, data, layout(spec.layout, css, narrow), config(element.dataset.name || "figure"));
  };
  const places = [...document.querySelectorAll(".chart[data-spec]")];
  const specs = new Map(), drawn = new Set();
  const show = element => {
    if (!window.Plotly || !element.clientWidth) return;
    if (!specs.has(element)) specs.set(element, JSON.parse(document.getElementById(element.dataset.spec).textContent));
    drawn.add(element);
    draw(element, specs.get(element));
  };
  const start = () => {
    const watch = new IntersectionObserver(entries => {
      for (const entry of entries) if (entry.isIntersecting) { watch.unobserve(entry.target); show(entry.target); }
    }, { rootMargin: "600px" });
    places.forEach(place => watch.observe(place));
    panmodal.redraw.push(() => drawn.forEach(show));
    /* Paper is light, and has everything. */
    let before = null, opened = [];
    addEventListener("beforeprint", () => {
      before = document.documentElement.dataset.theme ?? null;
      document.documentElement.dataset.theme = "light";
      opened = [...document.querySelectorAll("details.block:not([open])")];
      opened.forEach(block => { block.open = true; });
      places.forEach(place => { show(place); if (window.Plotly && place.layout) Plotly.relayout(place, { width: Math.min(place.clientWidth, 680) }); });
    });
    addEventListener("afterprint", () => {
      if (before === null) delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = before;
      opened.forEach(block => { block.open = false; });
      drawn.forEach(show);
    });
  };
  const fail = why => places.forEach(place => { place.textContent = `This figure cannot be drawn here (${why}); its numbers are in the table.`; });
  const load = async () => {
    const packed = document.getElementById("plotly");
    if (packed && !window.Plotly) {
      if (typeof DecompressionStream !== "function") throw new Error("the browser is too old: it has no DecompressionStream");
      const script = document.createElement("script");
      script.textContent = await panmodal.inflate(packed.textContent);
      document.head.append(script);
      packed.remove();
    }
    if (!window.Plotly) throw new Error("plotly.js is missing");
    start();
  };
  const ready = load().catch(error => { fail(error.message); throw error; });
  return { ready, draw, show, drawAll: () => places.forEach(show) };
})();
