"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Colours live in the style sheet alone; a chart takes them when it is drawn.
  const look = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      tickcolor: colour("--line"), automargin: true, ticks: "outside", ticklen: 4,
    };
    return {
      axis,
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        colorway: [1, 2, 3, 4, 5, 6, 7].map((n) => colour(`--c${n}`)),
        font: { family: style.fontFamily || "sans-serif", size: 13, color: colour("--ink") },
        margin: { l: 56, r: 16, t: 26, b: 48 },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        hovermode: "closest",
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      },
      soft: colour("--soft"),
    };
  };

  const draw = () => {
    const now = look();
    for (const figure of document.querySelectorAll("figure.chart")) {
      const plot = figure.querySelector(".plot");
      const spec = JSON.parse(figure.querySelector("script").textContent);
      const layout = { ...now.layout, ...spec.layout };
      for (const name of ["xaxis", "yaxis"]) layout[name] = { ...now.axis, ...spec.layout[name] };
      for (const shape of layout.shapes || []) shape.line = { ...shape.line, color: now.soft };
      for (const trace of spec.data) if (trace.error_y) trace.error_y.color = now.soft;
      Plotly.react(plot, spec.data, layout, { responsive: true, displayModeBar: false });
    }
  };

  // What somebody is filling in: a field that was changed or has the focus, a button that is held down.
  const inUse = (part) => part.matches(":has(form :active, form :focus)") ||
    [...part.querySelectorAll("form input:not([type=hidden])")].some((field) => field.value !== field.defaultValue);

  // Fetches this page again and swaps its parts; only pages of the live server do so. Parts in use stay if `gently`.
  const renew = async (gently) => {
    const answer = await fetch(location.pathname, { credentials: "same-origin" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    const main = document.querySelector("main");
    const parts = [...fresh.children];
    const kept = [...main.children].filter((old) => gently && parts.some((part) => part.id && part.id === old.id) && inUse(old));
    for (const node of [...main.childNodes]) if (!kept.includes(node)) node.remove();
    let place = main.firstChild; // kept parts never leave the page: a part that is moved loses focus and clicks
    for (const part of parts) {
      const same = kept.find((old) => old.id === part.id);
      if (same) place = same.nextSibling;
      else main.insertBefore(part, place);
    }
    draw();
  };

  let busy = false; // one answer at a time: a second one would be about what is no longer shown

  const send = async (event) => {
    const form = event.target.closest("form[data-action]");
    if (!form) return;
    event.preventDefault();
    if (busy) return;
    busy = true;
    const said = form.querySelector("output");
    const body = JSON.stringify(Object.fromEntries(new FormData(form, event.submitter)));
    try {
      const answer = await fetch(`/action/${encodeURIComponent(form.dataset.action)}`, {
        method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" }, body });
      const result = await answer.json();
      if (!answer.ok) { said.textContent = result.error; return; }
      await renew(false);
    } catch (problem) {
      said.textContent = "The server that this page came from does not answer.";
    } finally {
      busy = false;
    }
  };

  // A key presses the button that names it, unless somebody types into a field or holds another key.
  const press = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target.closest("input, textarea, select")) return;
    const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
    if (!button) return;
    event.preventDefault();
    button.click();
  };

  draw();
  document.addEventListener("keydown", press);
  dark.addEventListener("change", draw);
  document.addEventListener("submit", send);
  const refresh = Number(document.body.dataset.refresh || 0);
  if (refresh > 0 && location.protocol.startsWith("http")) setInterval(() => renew(true).catch(() => {}), 1000 * refresh);
})();
