"use strict";
// Draws the figures of a page when they come into view. The drawing library is loaded then, once.
(() => {
  const base = new URL(".", document.currentScript.src).href;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shown = new Set();
  let library = null;

  const script = (name) => new Promise((done, failed) => {
    const element = document.createElement("script");
    element.src = base + name;
    element.onload = done;
    element.onerror = () => failed(new Error(`${name} cannot be loaded`));
    document.head.append(element);
  });
  const load = () => (library ||= Promise.all([script("vega.js"), script("figures.js")]));

  const unpacked = ({ count, columns }) => Array.from({ length: count }, (_, row) => {
    const found = {};
    for (const [name, { values, places }] of Object.entries(columns)) if (places[row] >= 0) found[name] = values[places[row]];
    return found;
  });

  const draw = async (figure) => {
    await load();
    const told = window.geometryBenchFigures;
    const canvas = figure.querySelector(".plot");
    const rows = unpacked(JSON.parse(figure.querySelector(".rows").textContent));
    const specification = { ...told.kinds[figure.dataset.figure], datasets: { values: rows } };
    const options = {
      ast: true, // expressions are interpreted: the page allows no code made from text
      config: dark.matches ? told.dark : told.light,
      renderer: "svg",
      defaultStyle: false,
      forceActionsMenu: true,
      tooltip: { disableDefaultStyle: true },
      logLevel: 1, // errors alone
      downloadFileName: figure.dataset.figure,
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    };
    const { view } = await window.vegaEmbed(canvas, specification, options);
    const title = figure.querySelector("h2, h3").textContent;
    canvas.querySelector("details > summary").setAttribute("aria-label", `Save the figure ${title}`);
    const picture = canvas.querySelector("svg.marks");
    picture.setAttribute("role", "img"); // one picture with a name, not a thousand symbols: its numbers stand in tables
    picture.setAttribute("aria-label", title);
    picture.firstElementChild.setAttribute("aria-hidden", "true");
    figure.view = view;
    figure.dataset.drawn = "true";
  };

  const begin = (figure) => {
    if (shown.has(figure)) return;
    shown.add(figure);
    draw(figure).catch((error) => {
      figure.querySelector(".plot").textContent = `The figure cannot be drawn: ${error.message}`;
    });
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) begin(entry.target);
  }, { rootMargin: "200px" });
  for (const figure of document.querySelectorAll(".drawing")) seen.observe(figure);
  dark.addEventListener("change", () => {
    for (const figure of shown) draw(figure);
  });
})();
