"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = 200;

  // Dark and light: what the system says, until the reader chooses.
  const root = document.documentElement;
  const dark = window.matchMedia && matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "dark" : "light";
  $("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });

  // Paper has no triangle to click: what is folded is printed unfolded.
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });

  // Pictures: one grey image a case and outlines as paths.
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.appendChild(node);
    return node;
  };
  const text = (name, content, className) => {
    const node = document.createElement(name);
    node.textContent = content;
    if (className) node.className = className;
    return node;
  };
  const outline = (className, path, parent, extra = {}) => {
    if (path) make("path", { class: className, d: path, ...extra }, parent);
  };
  const canvas = (picture) => {
    const svg = make("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, role: "img" });
    make("image", { href: picture.image, width: picture.width, height: picture.height }, svg);
    return svg;
  };
  const score = (model, picture) =>
    data.rows.find((r) => r.model === model && r.case_id === picture.case_id && r.label === picture.label);
  const number = (value, digits = 3) => (value === null ? "-" : value.toFixed(digits));

  // The viewer: two models on one case, with a divider between them.
  const pictures = data.pictures;
  let shown = 0;
  const fill = (select, names, chosen) => {
    select.replaceChildren(...names.map((name, index) => {
      const option = text("option", name);
      option.value = index;
      return option;
    }));
    select.value = Math.min(chosen, names.length - 1);
  };
  const redraw = () => {
    const picture = pictures[shown];
    const [left, right] = [data.models[$("left").value], data.models[$("right").value]];
    const at = (picture.width * $("divider").value) / 100;
    const svg = canvas(picture);
    const definitions = make("defs", {}, svg);
    [["left", 0, at], ["right", at, picture.width - at]].forEach(([name, x, width]) => {
      const clip = make("clipPath", { id: `clip-${name}` }, definitions);
      make("rect", { x, y: 0, width, height: picture.height }, clip);
    });
    if ($("show-truth").checked) outline("truth", picture.truth, svg);
    outline("prediction", picture.outlines[left], svg, { "clip-path": "url(#clip-left)" });
    outline("prediction", picture.outlines[right], svg, { "clip-path": "url(#clip-right)" });
    make("line", { x1: at, x2: at, y1: 0, y2: picture.height, stroke: "#fff", "stroke-width": 1 }, svg);
    svg.setAttribute("aria-label", `${picture.case_id}, ${picture.label}`);
    $("stage").replaceChildren(svg);
    const say = (model) => {
      const row = score(model, picture);
      return `${model}: Dice ${row ? number(row.dice) : "-"}`;
    };
    $("stage-text").textContent = `${picture.label}, ${picture.diagnosis || "no diagnosis"}. ${say(left)} | ${say(right)}`;
  };
  const show = (index, scroll) => {
    shown = (index + pictures.length) % pictures.length;
    $("case").value = shown;
    redraw();
    if (scroll) $("viewer").scrollIntoView({ behavior: "auto" });
  };
  if (pictures.length) {
    fill($("case"), pictures.map((p) => `${p.case_id}, ${p.label}`), 0);
    fill($("left"), data.models, 0);
    fill($("right"), data.models, 1);
    $("case").addEventListener("change", () => show(Number($("case").value)));
    $("previous").addEventListener("click", () => show(shown - 1));
    $("next").addEventListener("click", () => show(shown + 1));
    for (const id of ["left", "right", "show-truth"]) $(id).addEventListener("change", redraw);
    $("divider").addEventListener("input", redraw);
    show(0);
  } else {
    $("viewer").remove();
  }
  const place = new Map(pictures.map((p, index) => [`${p.case_id}\n${p.label}`, index]));

  // Galleries.
  const tile = (pick) => {
    const index = place.get(`${pick.case_id}\n${pick.label}`);
    const picture = pictures[index];
    const button = document.createElement("button");
    button.className = "tile";
    button.type = "button";
    const frame = text("span", "", "picture");
    const svg = canvas(picture);
    outline("truth", picture.truth, svg);
    outline("prediction", picture.outlines[pick.model], svg);
    frame.appendChild(svg);
    button.append(frame, text("span", `${pick.place}: Dice ${number(pick.dice)}, ${pick.case_id}`, "caption"));
    button.addEventListener("click", () => {
      $("left").value = data.models.indexOf(pick.model);
      show(index, true);
    });
    return button;
  };
  for (const model of data.models) {
    for (const label of data.labels) {
      const picks = data.picks.filter((p) => p.model === model && p.label === label && place.has(`${p.case_id}\n${p.label}`));
      if (!picks.length) continue;
      $("gallery").appendChild(text("h3", `${model}, ${label}`));
      const row = text("div", "", "row");
      row.append(...picks.map(tile));
      $("gallery").appendChild(row);
    }
  }

  // The table of every case: sorted by a click on a heading, filtered by words.
  let sortBy = "dice", ascending = true, length = PAGE;
  const head = $("case-table").tHead.rows[0], body = $("case-table").tBodies[0];
  for (const column of data.columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (column.text) cell.className = "text";
    const button = text("button", column.title);
    button.type = "button";
    button.addEventListener("click", () => {
      ascending = sortBy === column.name ? !ascending : true;
      sortBy = column.name;
      fillTable();
    });
    cell.appendChild(button);
    cell.dataset.name = column.name;
    head.appendChild(cell);
  }
  const compare = (a, b) => {
    const [x, y] = [a[sortBy], b[sortBy]];
    if (x === y) return 0;
    if (x === null) return 1; // undefined values last, whichever way
    if (y === null) return -1;
    const order = typeof x === "number" ? x - y : x < y ? -1 : 1;
    return ascending ? order : -order;
  };
  const fillTable = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = data.rows
      .filter((row) => words.every((word) => row.search.includes(word)))
      .sort(compare);
    body.replaceChildren(...found.slice(0, length).map((row) => {
      const line = document.createElement("tr");
      for (const column of data.columns) {
        const value = row[column.name];
        const cell = text("td", column.text ? value : number(value, column.digits), column.text ? "text" : "");
        if (column.name === "case_id" && place.has(`${row.case_id}\n${row.label}`)) {
          const link = text("button", value);
          link.type = "button";
          link.addEventListener("click", () => {
            $("left").value = data.models.indexOf(row.model);
            show(place.get(`${row.case_id}\n${row.label}`), true);
          });
          cell.replaceChildren(link);
        }
        line.appendChild(cell);
      }
      return line;
    }));
    for (const cell of head.cells) {
      if (cell.dataset.name === sortBy) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    $("count").textContent = `${found.length} of ${data.rows.length} rows`;
    $("more").hidden = found.length <= length;
  };
  for (const row of data.rows) {
    row.search = data.columns.filter((c) => c.text).map((c) => row[c.name]).join(" ").toLowerCase();
  }
  $("filter").addEventListener("input", () => { length = PAGE; fillTable(); });
  $("more").addEventListener("click", () => { length += PAGE; fillTable(); });
  fillTable();
})();
