// Says what a chart shows where the pointer is. Without it the page lacks nothing else.
"use strict";
const time = (s) => s < 60 ? `${s.toFixed(0)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
for (const svg of document.querySelectorAll("svg[data-values]")) {
  const { values, step, unit } = svg.dataset;
  const numbers = values.split(" ");
  const labels = step ? null : unit.split("|");
  const add = (name) => svg.parentNode.appendChild(Object.assign(document.createElement("div"), { className: name, hidden: true }));
  const [cursor, readout] = [add("cursor"), add("readout")];
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const at = Math.min(Math.floor(share * numbers.length), numbers.length - 1);
    cursor.style.left = `${share * 100}%`;
    readout.style.left = `${Math.min(Math.max(share, .15), .85) * 100}%`;
    const money = unit === "$" ? `$${(numbers[at] / 1e6).toFixed(2)}` : null;
    const count = Number(numbers[at]).toLocaleString("en");
    readout.textContent = labels ? `${labels[at]}: ${count} prompts` : `${time(at * step)}: ${money ?? `${count} ${unit}`}`;
    cursor.hidden = readout.hidden = false;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { cursor.hidden = readout.hidden = true; });
}
