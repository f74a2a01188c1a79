/* What the page opens: the runs of an entry, and the documents on which two entries differ. */

/** A button a seed, where there are several, and the run whose button is pressed. */
function entryView(data, number) {
  const runs = data.entries[number].map((each) => data.runs[each]);
  const place = el("div");
  const buttons = runs.map((run, which) =>
    el("button", { type: "button", click: () => choose(which) }, `seed ${run.seed}`));

  function choose(which) {
    buttons.forEach((button, each) => button.setAttribute("aria-pressed", each === which));
    place.replaceChildren(...runView(data, runs[which]));
  }
  choose(0);
  return [runs.length > 1 ? el("p", { class: "controls" }, buttons) : null, place];
}

function runView(data, run) {
  const made = howMade(run), curve = run.loss && loss(run.loss);
  if (!run.said) return [made, curve, el("p", { class: "note" }, "What it said of each document was not kept.")].filter(Boolean);
  const documents = documentsOf(data, run);
  const plots = [confusion(documents), run.reliability && reliability(run.reliability), curve].filter(Boolean);
  return [el("p", null, run.score), el("div", { class: "plots" }, plots), made, runDocuments(data, run, documents)];
}

function howMade(run) {
  const facts = run.facts.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)]);
  const code = (text) => el("pre", null, el("code", null, text));
  return el("details", null, el("summary", null, "How it was made"), code(run.command), el("dl", null, facts),
    run.prompt ? [el("p", { class: "quiet" }, "Its first prompt:"), code(run.prompt)] : null);
}

function runDocuments(data, run, documents) {
  const columns = [{ head: ">Truth", of: (each) => each.gold },
    { head: "Label", of: (each) => each.said }];
  if (run.margins) columns.push({ head: ">Margin", of: (each) => each.margin });
  if (run.responses) columns.push({ head: "What it said", of: (each) => each.response });
  return listing(data, run, documents, columns, [
    { name: "all", holds: () => true },
    { name: "right", holds: (each) => each.right },
    { name: "wrong label", holds: (each) => each.follows && !each.right },
    { name: "not following", holds: (each) => !each.follows },
  ]);
}

function confusion(documents) {
  const count = (gold, said) =>
    String(documents.filter((each) => each.gold === gold && (each.follows ? each.said : "") === said).length);
  const rows = ["0", "1"].map((gold) => [`truth ${gold}`, count(gold, "0"), count(gold, "1"), count(gold, "")]);
  return el("div", null, el("h3", null, "Answers"), table(["", ">said 0", ">said 1", ">no label"], rows));
}

/** Axes of a picture of 240 x 200 in which both directions go from 0 to 1; the texts stand at their ends. */
function picture(title, words, across, up, ...shapes) {
  const frame = svg("path", { class: "axis", d: "M40 10V170H270" });
  const texts = [[270, 186, "end", across[1]], [40, 186, "start", across[0]], [155, 198, "middle", across[2]],
    [36, 16, "end", up[1]], [36, 170, "end", up[0]], [40, 4, "start", up[2]]];
  const labels = texts.map(([x, y, anchor, text]) => svg("text", { x, y, "text-anchor": anchor }, text));
  return el("div", null, el("h3", null, title),
    svg("svg", { viewBox: "0 0 280 204", role: "img", "aria-label": words }, frame, shapes.flat(), labels));
}

const across = (share) => (40 + 230 * share).toFixed(1);
const up = (share) => (170 - 160 * share).toFixed(1);

/** How often answers of each confidence, 0.5 to 1, are right; the area of a dot is its number of documents. */
function reliability({ error, bins }) {
  const all = bins.reduce((sum, [, , n]) => sum + n, 0);
  const dots = bins.map(([sure, right, n]) => svg("circle",
    { class: "dot", cx: across(2 * sure - 1), cy: up(right), r: (2 + 12 * Math.sqrt(n / all)).toFixed(1) }));
  const rows = bins.map(([sure, right, n]) => [percent(sure), percent(right), String(n)]);
  const words = `Calibration error ${percent(error)} points: how often answers of each confidence are right.`;
  const drawn = picture(`Calibration error ${percent(error)} points`, words, ["50%", "100%", "confidence"],
    ["0", "100%", "right"], svg("path", { class: "axis", d: `M40 ${up(0.5)}L270 ${up(1)}` }), dots);
  drawn.append(inNumbers([">Confidence %", ">Right %", ">Documents"], rows));
  return drawn;
}

function loss(history) {
  const last = Math.max(...history.map((each) => each.step));
  const losses = history.flatMap((each) => [each.train_loss, each.held_out_loss]).filter((each) => each !== undefined);
  const most = Math.max(...losses);
  const line = (name, style) => {
    const points = history.filter((each) => name in each);
    return svg("path", { class: style, d: points.map((each, number) =>
      `${number ? "L" : "M"}${across(each.step / last)} ${up(each[name] / most)}`).join("") });
  };
  const words = `Loss over ${last} steps: thin in training, thick on rows held out.`;
  const drawn = picture("Loss: thin in training, thick held out", words, ["0", `${last}`, "steps"], ["0", most.toFixed(2), "loss"],
    line("train_loss", "thin"), line("held_out_loss", "line"));
  const shown = (value) => (value === undefined ? "" : value.toFixed(3));
  drawn.append(inNumbers([">Step", ">Training", ">Held out", ">Score"], history.map((each) =>
    [String(each.step), shown(each.train_loss), shown(each.held_out_loss), shown(each.held_out_score)])));
  return drawn;
}

/** The documents of which two entries are not right equally often, the largest differences first. */
function pairView(data, a, b, isApart) {
  const sides = [a, b].map((number) => data.entries[number].map((each) => data.runs[each]));
  const lists = sides.map((runs) => runs.map((run) => documentsOf(data, run)));
  const first = sides[0][0];
  const documents = lists[0][0].map((each, number) => ({ ...each, sides: lists.map((list) => told(list, number)) }));
  const gap = ({ sides: [one, other] }) => one.share - other.share;
  const apart = documents.filter((each) => gap(each)).sort((one, other) => Math.abs(gap(other)) - Math.abs(gap(one)));
  const columns = [{ head: ">Truth", of: (each) => each.gold },
    { head: "A", of: (each) => each.sides[0].words }, { head: "B", of: (each) => each.sides[1].words }];
  const names = [a, b].map((number, side) => el("li", null, `${side ? "B" : "A"}: `,
    el("button", { type: "button", "data-entry": number }, nameOf(number))));
  const [verdict, alone] = data.pairs[`${a}-${b}`];
  const unsure = alone && !isApart ? " Among all the pairs of its table that is not sure (Holm's correction)." : "";
  return [el("ul", null, names), el("p", null, verdict + unsure),
    listing(data, first, apart, columns, [
      { name: "all that differ", holds: () => true },
      { name: "A is right more often", holds: (each) => gap(each) > 0 },
      { name: "B is right more often", holds: (each) => gap(each) < 0 },
    ])];
}

/** What the runs of one side said of a document: the share that is right, and the words for it. */
function told(lists, number) {
  const right = lists.filter((list) => list[number].right).length;
  const [one] = lists.map((list) => list[number]);
  const words = lists.length > 1 ? `${right} of ${lists.length} right` : one.response ? `${one.said}: ${one.response}` : one.said;
  return { share: right / lists.length, words };
}
