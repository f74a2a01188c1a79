/* What every part of the page is made of. Texts come in as text nodes and attributes, never as HTML. */
const FIRST = 50; // documents shown at first, and added by "more"

const byId = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1);

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A table of texts; the columns whose head begins with ">" hold numbers. */
function table(heads, rows) {
  const right = heads.map((head) => (head.startsWith(">") ? { class: "n" } : null));
  const cells = (tag, row) => row.map((cell, column) => el(tag, right[column], cell));
  const head = el("tr", null, cells("th", heads.map((each) => each.replace(/^>/, ""))));
  const body = rows.map((row) => el("tr", null, cells("td", row)));
  return el("div", { class: "scroll" }, el("table", null, el("thead", null, head), el("tbody", null, body)));
}

/** Numbers folded away: what a picture says, for those who do not see it. */
const inNumbers = (heads, rows) =>
  el("details", null, el("summary", null, "The same in numbers"), table(heads, rows));

let unpacked;
function details() {
  unpacked ??= unpack(byId("payload").textContent);
  return unpacked;
}

async function unpack(text) {
  if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack gzip; one of 2023 or later can");
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

/**
 * Documents of a run's data set in a table that a choice and a search narrow.
 * columns, behind those that say which document it is: {head, of: document -> text}; choices: {name, holds: document -> boolean}.
 */
function listing(data, run, documents, others, choices) {
  const texts = data.sets[run.set].texts;
  const name = texts ? { head: "Sentence", of: (each) => each.text } : { head: "Hash", of: (each) => each.hash };
  const columns = [{ head: ">Doc", of: (each) => each.number }, name, ...others];
  let most = FIRST;
  const again = () => { most = FIRST; draw(); };
  const which = el("select", { "aria-label": "Which documents", change: again },
    choices.map((choice, number) => el("option", { value: number }, choice.name)));
  const search = el("input", { type: "search", placeholder: "Search", "aria-label": "Search documents", input: again });
  const count = el("span", { class: "quiet", role: "status" });
  const more = el("button", { type: "button", class: "more", click: () => { most += FIRST; draw(); } });
  const place = el("div");

  function draw() {
    const wanted = search.value.toLowerCase();
    const holds = choices[which.value].holds;
    const found = documents.filter(
      (each) => holds(each) && columns.some((column) => column.of(each).toLowerCase().includes(wanted)));
    const rows = found.slice(0, most).map((each) => columns.map((column) => column.of(each)));
    place.replaceChildren(table(columns.map((column) => column.head), rows));
    count.textContent = `${found.length} of ${documents.length}`;
    more.hidden = found.length <= most;
    more.textContent = `Show ${Math.min(FIRST, found.length - most)} more`;
  }
  draw();
  return el("section", { class: "documents" }, el("h3", null, "Documents"), texts ? null : WITHOUT_TEXTS.cloneNode(true),
    el("p", { class: "controls" }, which, search, count), place, more);
}

const WITHOUT_TEXTS = el("p", { class: "quiet" },
  "Sentences are not shown: ", el("code", null, "make report DATA_DIR=folder"), " shows them.");

/** A run's documents with what it said of each. */
function documentsOf(data, run) {
  const set = data.sets[run.set];
  return set.hashes.map((hash, number) => {
    const said = run.said[number], gold = set.gold[number], follows = said === "0" || said === "1";
    const margin = run.margins?.[number];
    return {
      number: String(number), hash, gold, follows, right: said === gold,
      text: set.texts?.[number] ?? "",
      said: follows ? said : data.kinds[said.charCodeAt(0) - 97],
      margin: margin === null || margin === undefined ? "" : (margin / 100).toFixed(2),
      response: run.responses ? data.responses[run.responses[number]] : "",
    };
  });
}

