// The pieces of an assembled model: by sharers; and in detail, by layers and kinds of modules.

import { decimals, el, many, number, svg } from "./dom.js";

const ROWS = 40; // sharers in a picture; of more, those of whom most is used
const LEVELS = 8; // shades; see the colours w1 to w8 and n1 to n8

const percent = (part) => part.toLocaleString(undefined, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const code = (id) => el("code", { title: id }, id.slice(0, 6));
const weight = (value) => decimals(value, 2);

/** The section about pieces. */
export function drawPieces(result) {
  const pieces = mostUsedFirst(result),
    { sharers, kinds, share } = pieces;
  const readout = el("p.readout", { "aria-hidden": "true" }, "Point at a cell to read its weight.");
  return el(
    "section.card",
    { "aria-labelledby": "h-pieces" },
    el("h2", { id: "h-pieces" }, "Where its pieces come from"),
    el(
      "p",
      {},
      "The shared pieces that fit your history best were put together. ",
      `They come from ${many(sharers.length, "person", "people")}, known here by random codes only`,
      sharers.length ? [`; most of it, ${percent(share[0])}, from `, code(sharers[0])] : null,
      ".",
    ),
    shares(pieces),
    el(
      "details.more.technical",
      {},
      el("summary", {}, "Technical details: every piece by its place in the model"),
      el(
        "div.maps",
        {},
        kinds.map((kind, at) => map(pieces, kind, at, readout)),
      ),
      legend(pieces),
      readout,
      el(
        "div.tables",
        {},
        kinds.map((kind, at) => table(pieces, kind, at)),
      ),
    ),
  );
}

function mostUsedFirst({ sharers, kinds, layers, amount, share }) {
  const order = sharers.map((_, index) => index).sort((a, b) => share[b] - share[a]);
  const flat = amount.flat(2);
  return {
    kinds,
    layers,
    sharers: order.map((n) => sharers[n]),
    share: order.map((n) => share[n]),
    amount: amount.map((rows) => order.map((n) => rows[n])),
    most: flat.reduce((most, value) => Math.max(most, Math.abs(value)), 0),
    negative: flat.some((value) => value < 0),
  };
}

/** Each sharer's part of everything, as a table with bars. */
function shares({ sharers, share }) {
  const row = (id, part) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, code(id)),
      el("td.number", {}, percent(part)),
      el(
        "td.wide",
        { "aria-hidden": "true" },
        svg(
          "svg.part",
          { viewBox: "0 0 100 10", preserveAspectRatio: "none" },
          svg("rect", { width: (100 * part) / (share[0] || 1), height: 10 }),
        ),
      ),
    );
  const others = sharers.length - ROWS;
  const rest = share.slice(ROWS).reduce((sum, part) => sum + part, 0);
  return el(
    "table.shares",
    {},
    el("caption", {}, "Each person's part of the whole"),
    el(
      "thead.unseen",
      {},
      el("tr", {}, el("th", { scope: "col" }, "Person"), el("th", { scope: "col" }, "Part"), el("td")),
    ),
    el(
      "tbody",
      {},
      sharers.slice(0, ROWS).map((id, index) => row(id, share[index])),
      others > 0
        ? el("tr", {}, el("td.help", { colspan: 3 }, `${many(others, "other")}, ${percent(rest)} together`))
        : null,
    ),
  );
}

/** A heat map for one kind of module: sharers by layers. */
function map({ sharers, layers, amount, most }, kind, at, readout) {
  const shown = Math.min(sharers.length, ROWS),
    cells = [];
  amount[at].slice(0, shown).forEach((row, y) =>
    row.forEach((value, x) => {
      if (value === 0) return;
      const level = Math.max(1, Math.ceil((LEVELS * Math.abs(value)) / most));
      cells.push(svg(`rect.${value < 0 ? "n" : "w"}${level}`, { x: x + 0.04, y: y + 0.06, width: 0.92, height: 0.88 }));
    }),
  );
  const read = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const x = Math.min(
      layers.length - 1,
      Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * layers.length)),
    );
    const y = Math.min(shown - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * shown)));
    const value = amount[at][y][x];
    readout.replaceChildren(
      `${kind}, layer ${layers[x]}, person `,
      code(sharers[y]),
      `: ${value ? `weight ${weight(value)}` : "not used"}`,
    );
  };
  const picture = svg(
    "svg.heat",
    {
      viewBox: `0 0 ${layers.length} ${shown}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${kind}: weights of ${many(shown, "person", "people")} in ${many(layers.length, "layer")}; tables below`,
      onpointermove: read,
      onpointerdown: read,
    },
    cells,
  );
  picture.style.setProperty("--rows", shown);
  const ticks =
    layers.length > 4 ? [0, Math.floor((layers.length - 1) / 2), layers.length - 1] : layers.map((_, index) => index);
  return el(
    "figure.map",
    {},
    el("figcaption", {}, kind),
    el(
      "div.labels",
      { "aria-hidden": "true" },
      sharers.slice(0, shown).map((id) => el("span", {}, id.slice(0, 6))),
    ),
    picture,
    el(
      "div.ticks",
      { "aria-hidden": "true" },
      ticks.map((tick, index) => el("span", {}, `${index ? "" : "layer "}${layers[tick]}`)),
    ),
    shown < sharers.length ? el("p.help", {}, `the ${shown} used most of ${number(sharers.length)}`) : null,
  );
}

function legend({ most, negative }) {
  const swatch = (name) =>
    svg("svg.swatch", { viewBox: "0 0 1 1", "aria-hidden": "true" }, svg(`rect.${name}`, { width: 1, height: 1 }));
  const levels = Array.from({ length: LEVELS }, (_, index) => index + 1);
  return el(
    "p.legend",
    {},
    el("span", {}, swatch("w0"), " not used"),
    el(
      "span",
      {},
      negative ? [`-${weight(most)} `, ...levels.toReversed().map((level) => swatch(`n${level}`))] : "weight 0 ",
      levels.map((level) => swatch(`w${level}`)),
      ` ${weight(most)}`,
    ),
  );
}

/** A table for each kind of module: sharers and weights of each layer, largest first. */
function table({ sharers, layers, amount }, kind, at) {
  const used = (x) =>
    amount[at]
      .map((row, y) => [row[x], sharers[y]])
      .filter(([value]) => value !== 0)
      .sort(([a], [b]) => Math.abs(b) - Math.abs(a));
  const listed = (x) =>
    used(x).flatMap(([value, id], index) => [index ? ", " : null, el("span.one", {}, code(id), ` ${weight(value)}`)]);
  return el(
    "table.used",
    {},
    el("caption", {}, kind),
    el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col" }, "Layer"), el("th", { scope: "col" }, "People and weights")),
    ),
    el(
      "tbody",
      {},
      layers.map((layer, x) =>
        el("tr", {}, el("th", { scope: "row" }, String(layer)), el("td", {}, used(x).length ? listed(x) : "none")),
      ),
    ),
  );
}
