/* Sorting and filtering the board, and opening what its names and the pairs' cells stand for. */
const nameOf = (number) => document.querySelector(`[data-entry="${number}"]`).textContent;

function filterBoard() {
  const wanted = byId("find").value.toLowerCase().split(/[\s,]+/), labels = byId("labels").value;
  const rows = [...byId("board").tBodies[0].rows];
  for (const row of rows) {
    const fits = !labels || row.dataset.labels === labels;
    const text = row.textContent.toLowerCase();
    row.hidden = !fits || !wanted.every((word) => text.includes(word));
  }
  byId("found").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
}

async function open(title, view) {
  const dialog = byId("detail"), body = byId("detail-body");
  byId("detail-title").textContent = title;
  body.replaceChildren();
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  try {
    const data = await details();
    body.replaceChildren(...view(data).filter(Boolean));
  } catch (error) {
    body.replaceChildren(el("p", { class: "note" }, `This cannot be shown: ${error.message}.`));
  }
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-entry], [data-pair]");
  if (!button) return;
  if (button.dataset.entry) {
    open(nameOf(button.dataset.entry), (data) => entryView(data, button.dataset.entry));
  } else {
    const [a, b] = button.dataset.pair.split("-");
    const isApart = button.parentElement.classList.contains("apart");
    open("Where the two differ", (data) => pairView(data, a, b, isApart));
  }
});

/** Numbers as the board writes them: "1,234", "1-3", "all"; nothing comes before all of them. */
const numberOf = (text) => text.startsWith("all") ? Infinity : text ? parseFloat(text.replace(/,/g, "")) || 0 : -Infinity;
const order = (a, b) => Math.sign(numberOf(b) - numberOf(a)) || 0; // NaN: both are infinite
Tablesort.extend("number", () => false, order);
new Tablesort(byId("board"));
byId("find").addEventListener("input", filterBoard);
byId("labels").addEventListener("change", filterBoard);
byId("close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", ({ target }) => { if (target === byId("detail")) target.close(); });
for (const controls of document.querySelectorAll("main .controls")) controls.hidden = false;
byId("live").disabled = false;
filterBoard();
