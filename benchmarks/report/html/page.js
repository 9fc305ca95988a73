// Curves: the nearest one is named under the pointer, a click hides it; a button hides or shows all of its group.
document.querySelectorAll(".curves").forEach(section => {
  section.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", on);
    section.querySelectorAll(".curve").forEach(curve => {
      if (curve.dataset.group === button.dataset.group) curve.classList.toggle("away", !on);
    });
  }));
  section.querySelectorAll("svg.chart").forEach(chart => {
    const readout = chart.querySelector(".readout"), axes = JSON.parse(chart.dataset.axes);
    const value = (pixel, [low, high, start, end]) => low + (pixel - start) / (end - start) * (high - low);
    const nearest = event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      let best = null;
      chart.querySelectorAll(".curve:not(.away)").forEach(curve => {
        for (const point of curve.points) {
          const distance = Math.hypot(point.x - at.x, point.y - at.y);
          if (distance < 40 && (!best || distance < best.distance)) best = {curve, point, distance};
        }
      });
      return best;
    };
    chart.addEventListener("pointermove", event => {
      const best = nearest(event);
      chart.querySelectorAll(".near").forEach(curve => curve.classList.remove("near"));
      readout.textContent = "";
      if (best) {
        best.curve.classList.add("near");
        readout.textContent = `${best.curve.dataset.label}: ${+value(best.point.y, axes.y).toPrecision(4)} at `
          + `${Math.round(value(best.point.x, axes.x))}`;
      }
    });
    chart.addEventListener("click", event => { const best = nearest(event); if (best) best.curve.classList.add("away"); });
    chart.addEventListener("pointerleave", () => { readout.textContent = ""; });
  });
});
