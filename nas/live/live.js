// Fills the page from data.json, again and again. Its pieces of HTML are escaped where they are made.
"use strict";
(() => {
  const config = {responsive: true, displaylogo: false, displayModeBar: false, showTips: false};
  const shown = {};
  let version = "";

  function show(data) {
    document.title = data.title;
    for (const [id, html] of Object.entries(data.html)) {
      if (shown[id] !== html) {  // so that what is selected stays selected
        document.getElementById("text-" + id).innerHTML = html;
        shown[id] = html;
      }
    }
    if (data.figures) {
      for (const element of document.querySelectorAll(".figure")) {
        const figure = data.figures[element.id.replace("figure-", "")];
        element.hidden = !figure;
        if (figure) {
          if (innerWidth < 600) narrow(figure.layout);
          Plotly.react(element, figure.data, figure.layout, config);
        }
      }
      version = data.version;
    }
  }

  function narrow(layout) {
    layout.margin.l = 48;
    layout.height = Math.min(layout.height, 380);
  }

  function problem(text) {
    const element = document.getElementById("problem");
    element.textContent = text;
    element.hidden = !text;
  }

  async function tick() {
    let wait = 2000;
    try {
      const answer = await fetch("data.json?known=" + encodeURIComponent(version), {cache: "no-store"});
      if (!answer.ok) throw new Error("the server answered " + answer.status);
      const data = await answer.json();
      if (data.error) {
        problem(data.error);
      } else {
        show(data);
        problem("");
        document.getElementById("updated").textContent = "Read at " + new Date().toLocaleTimeString() + ".";
        if (data.state !== "running") wait = 5000;
      }
    } catch (error) {
      problem("No answer: nanosd dashboard has ended, or cannot be reached (" + error.message + "). What is shown is old.");
      wait = 5000;
    }
    setTimeout(tick, wait);
  }

  // Figures follow their own width, not only the window's.
  const observer = new ResizeObserver(entries => {
    for (const {target} of entries) if (target.data && target.clientWidth) Plotly.relayout(target, {width: target.clientWidth});
  });
  document.querySelectorAll(".figure").forEach(element => observer.observe(element));
  tick();
})();
