"use strict";
const all = (selector) => [...document.querySelectorAll(selector)];
const sections = all("details.class");

const search = document.getElementById("search");
search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  let count = 0;
  for (const section of sections) {
    section.hidden = !section.dataset.name.toLowerCase().includes(wanted);
    count += section.hidden ? 0 : 1;
  }
  document.getElementById("found").textContent = wanted ? count + " of " + sections.length : "";
});
const setOpen = (open) => sections.forEach((section) => { if (!section.hidden) section.open = open; });
document.getElementById("open").addEventListener("click", () => setOpen(true));
document.getElementById("close").addEventListener("click", () => setOpen(false));

const openTarget = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    search.value = "";
    search.dispatchEvent(new Event("input"));
    target.open = true;
    target.scrollIntoView();
  }
};
window.addEventListener("hashchange", openTarget);
openTarget();

const plane = document.getElementById("plane");
const picked = new Set();
for (const button of all(".picks button")) {
  button.addEventListener("click", () => {
    const id = button.dataset.k;
    if (!picked.delete(id)) picked.add(id);
    button.setAttribute("aria-pressed", picked.has(id));
    plane.classList.toggle("picked", picked.size > 0);
    all("#plane g.k").forEach((group) => group.classList.toggle("on", picked.has(group.dataset.k)));
  });
}

const matrix = document.getElementById("matrix");
const similarity = JSON.parse(document.getElementById("similarity").textContent);
matrix.addEventListener("pointermove", (event) => {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.getScreenCTM().inverse());
  const column = Math.floor((place.x - similarity.margin) / similarity.cell);
  const row = Math.floor((place.y - similarity.margin) / similarity.cell);
  const names = similarity.names;
  if (row < 0 || column < 0 || row >= names.length || column >= names.length) return;
  document.getElementById("pair").textContent =
    names[row] + " and " + names[column] + ": " + (similarity.percent[row][column] / 100).toFixed(2);
});
