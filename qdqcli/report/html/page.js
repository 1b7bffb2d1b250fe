"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("tensors");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const SVG = "http://www.w3.org/2000/svg";

  const element = (name, attributes, text) => {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Bars of equal width; marks are values on the same axis as low and high.
  const bars = (title, counts, low, high, marks, height, label) => {
    const figure = element("figure");
    const svg = element("svg:svg", { viewBox: "0 0 360 130", role: "img", "aria-label": title });
    const top = height(Math.max(...counts.map((count) => count || 0))) || 1;
    const width = 350 / counts.length;
    counts.forEach((count, i) => {
      const size = count ? Math.max((100 * height(count)) / top, 0.7) : 0;
      const bar = element("svg:rect", { class: "bar", x: (5 + i * width).toFixed(2), y: (105 - size).toFixed(2),
        width: Math.max(width - 0.6, 0.5).toFixed(2), height: size.toFixed(2) });
      bar.append(element("svg:title", {}, label(i, count)));
      svg.append(bar);
    });
    svg.append(element("svg:line", { class: "rule", x1: 5, x2: 355, y1: 105, y2: 105 }));
    for (const value of marks) {
      if (value === null || !(high > low)) continue;
      const x = 5 + (350 * (value - low)) / (high - low);
      if (x >= 4 && x <= 356) svg.append(element("svg:line", { class: "mark", x1: x, x2: x, y1: 2, y2: 105 }));
    }
    svg.append(element("svg:text", { x: 5, y: 122 }, number(low)));
    svg.append(element("svg:text", { x: 355, y: 122, "text-anchor": "end" }, number(high)));
    figure.append(svg, element("figcaption", {}, title));
    return figure;
  };
  const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(4)).toString());

  const detail = (index) => {
    const tensor = data.tensors[index];
    const row = element("tr", { class: "more" });
    const cell = element("td", { colspan: heads.length });
    const pictures = element("div", { class: "pictures" });
    const edge = (low, high, counts, i) => number(low + ((high - low) * i) / counts.length);
    if (tensor.values) {
      const ranges = tensor.ranges > 1
        ? `dashed: the lowest and the highest end of its ${tensor.ranges.toLocaleString("en")} ranges`
        : "dashed: the range that sets the grid";
      for (const [key, title, marks] of [
        ["values", `Weights, log scale${tensor.range.length ? `; ${ranges}` : ""}`, tensor.range],
        ["errors", "Errors e = y - x, log scale; dashed: zero", [0]],
      ]) {
        const [low, high, counts] = tensor[key];
        pictures.append(bars(title, counts, low, high, marks, Math.log1p, (i, count) =>
          `${edge(low, high, counts, i)} to ${edge(low, high, counts, i + 1)}: ${count}`));
      }
    }
    if (tensor.channels) {
      const step = tensor.channels.step;
      const title = step > 1 ? `RMSE by channel or group: the worst of each ${step}` : "RMSE by channel or group";
      pictures.append(bars(title, tensor.channels.rmse, 0, tensor.channels.count - 1, [], (rmse) => rmse, (i, value) =>
        `${i * step}: ${value === null ? "no number" : value}`));
    }
    if (pictures.childElementCount) cell.append(pictures);
    else cell.append(element("p", { class: "quiet" }, "No histograms were taken: qdq stats --histograms --per-channel"));
    const facts = element("dl", { class: "facts" });
    data.metrics.forEach((name, i) => {
      const pair = element("div");
      pair.append(element("dt", {}, name), element("dd", {}, tensor.stats[i]));
      facts.append(pair);
    });
    cell.append(facts);
    row.append(cell);
    return row;
  };

  const toggle = (row, open) => {
    const button = row.querySelector("button");
    const isOpen = button.getAttribute("aria-expanded") === "true";
    if (open === isOpen) return;
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) row.nextElementSibling.remove();
    else row.after(detail(Number(row.dataset.index)));
  };
  for (const row of rows) row.querySelector("button").addEventListener("click", () => toggle(row));

  const key = (row, column) => row.cells[column].dataset.value;
  const sort = (column) => {
    const head = heads[column];
    const text = head.dataset.kind === "text";
    const before = head.getAttribute("aria-sort");
    const first = text ? "ascending" : head.dataset.worst;
    const order = before ? (before === "ascending" ? "descending" : "ascending") : first;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.forEach((row) => toggle(row, false));
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (text) return sign * (x < y ? -1 : x > y ? 1 : 0) || a.dataset.index - b.dataset.index;
      if (x === "" || y === "") return (x === "") - (y === "") || a.dataset.index - b.dataset.index;
      return sign * (x - y) || a.dataset.index - b.dataset.index;
    });
    body.append(...rows);
  };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => sort(i)));

  const filter = document.getElementById("filter");
  const failing = document.getElementById("failing");
  const shown = document.getElementById("shown");
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const hidden = !words.every((word) => text.includes(word)) ||
        (failing && failing.checked && !row.matches(".violated, .warned"));
      if (hidden) toggle(row, false);
      row.hidden = hidden;
      count += !hidden;
    }
    shown.textContent = `${count} of ${rows.length} tensors`;
  };
  filter.addEventListener("input", narrow);
  if (failing) failing.addEventListener("change", narrow);
  document.querySelector(".tools").hidden = false;
  narrow();

  const follow = () => {
    const row = document.getElementById(location.hash.slice(1));
    if (!row || !rows.includes(row)) return;
    if (row.hidden) { filter.value = ""; if (failing) failing.checked = false; narrow(); }
    toggle(row, true);
    row.querySelector("button").focus();
  };
  addEventListener("hashchange", follow);
  follow();
})();
