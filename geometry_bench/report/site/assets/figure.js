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

  const draw = async (figure) => {
    await load();
    const told = window.geometryBenchFigures;
    const canvas = figure.querySelector(".canvas");
    const rows = JSON.parse(figure.querySelector(".rows").textContent);
    const specification = { ...told.kinds[figure.dataset.figure], datasets: { values: rows } };
    const options = {
      ast: true, // expressions are interpreted: the page allows no code made from text
      config: dark.matches ? told.dark : told.light,
      renderer: "svg",
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      logLevel: 1, // errors alone
      downloadFileName: figure.dataset.figure,
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    };
    const { view } = await window.vegaEmbed(canvas, specification, options);
    const summary = canvas.querySelector("details > summary");
    if (summary) summary.setAttribute("aria-label", "Save the figure");
    figure.view = view;
    figure.dataset.drawn = "true";
  };

  const begin = (figure) => {
    if (shown.has(figure)) return;
    shown.add(figure);
    draw(figure).catch((error) => {
      figure.querySelector(".canvas").textContent = `The figure cannot be drawn: ${error.message}`;
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
