"use strict";
// The ledger's table: headers sort, the form filters, an address with a claim's name opens its row. A claim is a tbody of two rows.
document.querySelectorAll(".ledger-box").forEach((box) => {
  const form = box.querySelector("form"), table = box.querySelector("table"), claims = [...table.tBodies];
  if (!form) return;
  const filter = () => {
    const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
    const words = form.elements.words.value.toLowerCase();
    claims.forEach((claim) => {
      claim.hidden = !chosen.every((select) => claim.dataset[select.name].split("|").includes(select.value))
        || !claim.textContent.toLowerCase().includes(words);
    });
    form.querySelector("output").value = `${claims.filter((claim) => !claim.hidden).length} of ${claims.length} claims`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  table.querySelectorAll("thead button").forEach((button, column) => button.addEventListener("click", () => {
    const header = button.parentNode, sign = header.ariaSort === "ascending" ? -1 : 1;
    const key = (claim, i) => Number(claim.rows[0].cells[i].dataset.sort);
    claims.sort((a, b) => sign * (key(a, column) - key(b, column)) || key(a, 0) - key(b, 0));
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.ariaSort = sign > 0 ? "ascending" : "descending";
    table.append(...claims);
  }));
  form.hidden = false;
  filter();
});
const openRow = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.querySelector("details")?.setAttribute("open", "");
addEventListener("hashchange", openRow);
openRow();
