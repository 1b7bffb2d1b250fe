"use strict";
(() => {
  const { grid } = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("rows");
  if (!grid || !table) return;
  const PAGE = 200, MOST_PRINTED = 1000;
  const SVG = "http://www.w3.org/2000/svg";

  const element = (name, attributes, ...inside) => {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };
  const many = (count, noun) => `${count.toLocaleString("en")} ${noun}`;

  // Values, as the columns hold them, and as text: the same as in the rows that the page came with.
  const { columns, count, noun } = grid;
  for (const column of columns)
    column.at_ = column.each ? (i) => column.each[i] : column.of ? (i) => column.of[column.at[i]] : () => column.all;
  const digits = (value) => {
    if (value === 0) return "0";
    const power = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(3)))));
    if (power >= -4 && power < 3) return value.toPrecision(3);
    const [number, exponent] = value.toExponential(2).split("e");
    return `${number}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  };
  const percent = (part) => part === 0 ? "0" : part === 1 ? "100%" : part < 0.0001 ? "<0.01%" :
    part > 0.9999 ? ">99.99%" : `${(100 * part).toFixed(2)}%`;
  const FORMS = {
    text: String, digits, percent,
    db: (value) => value.toFixed(2),
    signed: (value) => (value < 0 ? "" : "+") + value.toFixed(2),
    signed3: (value) => (value < 0 ? "" : "+") + value.toFixed(3),
    count: (value) => value.toLocaleString("en"),
    fixed3: (value) => value.toFixed(3),
    fixed6: (value) => value.toFixed(6),
  };
  const show = (form, value) => value === null ? "-" : typeof value === "string" ? value : FORMS[form](value);
  const shade = (levels, value) => value === "exact" ? `q${levels.length}` : typeof value !== "number" ? "" :
    `q${levels.filter((level) => value >= level).length}`;

  // Rows
  const shown = columns.filter((column) => column.shown);
  const [first, ...others] = shown;
  const verdict = columns.find((column) => column.name === "verdict");
  const hidden = columns.filter((column) => !column.shown);
  const opens = hidden.length > 0;
  const body = table.tBodies[0];
  let order = grid.order, visible = order, limit = PAGE;
  const opened = new Set();

  const rowOf = (index) => {
    const row = element("tr", { id: `t${index}` });
    if (verdict && verdict.at_(index)) row.className = verdict.at_(index);
    const name = String(first.at_(index));
    const head = element("th", { scope: "row", class: "name" });
    if (opens) {
      const button = element("button", { "aria-expanded": String(opened.has(index)) }, name);
      button.addEventListener("click", () => toggle(index));
      head.append(button);
    } else head.append(name);
    row.append(head);
    for (const column of others) {
      const value = column.at_(index);
      const kind = column.form === "text" ? "text" : "number";
      const own = column === verdict ? " verdict" : column.levels.length ? ` ${shade(column.levels, value)}` : "";
      row.append(element("td", { class: kind + own }, show(column.form, value)));
    }
    return row;
  };
  const rowsOf = (index) => opened.has(index) ? [rowOf(index), detail(index)] : [rowOf(index)];
  const draw = () => {
    body.replaceChildren(...visible.slice(0, limit).flatMap(rowsOf));
    const rest = visible.length - limit;
    more.hidden = rest <= 0;
    more.textContent = `Show ${Math.min(rest, PAGE)} more of ${many(visible.length, noun)}`;
    told.textContent = visible.length < count ? `${many(visible.length, "of")} ${many(count, noun)}` : many(count, noun);
  };
  const extend = () => {
    const from = limit;
    limit += PAGE;
    draw();
    body.querySelector(`#t${visible[from]} button`)?.focus();
  };
  const toggle = (index) => {
    const row = document.getElementById(`t${index}`);
    const button = row.querySelector("button");
    if (opened.delete(index)) row.nextElementSibling.remove();
    else {
      opened.add(index);
      row.after(detail(index));
      history.replaceState(null, "", `#t${index}`);
    }
    button.setAttribute("aria-expanded", String(opened.has(index)));
  };

  // Sorting
  const heads = [...table.tHead.rows[0].cells];
  const sort = (column, head) => {
    const before = head.getAttribute("aria-sort");
    const direction = !before ? column.worst : before === "ascending" ? "descending" : "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const keys = Array.from({ length: count }, (_, i) => column.at_(i));
    if (column.form === "text") {
      // Whole numbers in names by their value: layer 2 before layer 10.
      const collator = new Intl.Collator("en", { numeric: true });
      order = Array.from(keys.keys()).sort((a, b) => sign * collator.compare(keys[a], keys[b]) || a - b);
    } else {
      const numbers = Float64Array.from(keys, (key) => typeof key === "string" ? Infinity : key ?? NaN);
      const missing = (i) => Number.isNaN(numbers[i]);
      order = Array.from(keys.keys()).sort((a, b) => missing(a) || missing(b) ? missing(a) - missing(b) || a - b :
        sign * (numbers[a] === numbers[b] ? 0 : numbers[a] - numbers[b]) || a - b);
    }
    narrow();
  };
  heads.forEach((head, i) => {
    const button = element("button", {}, head.textContent);
    button.addEventListener("click", () => sort(shown[i], head));
    head.replaceChildren(button);
  });

  // Filters
  const filter = element("input", { type: "search", id: "filter", "aria-label": `Filter ${noun}`,
    placeholder: `Filter ${noun} by words of any column` });
  const states = verdict ? ["error", "warn", "waived"].filter((state) => (verdict.of || verdict.each || [verdict.all]).includes(state)) : [];
  const only = element("select", { id: "only", "aria-label": "Verdict" }, element("option", { value: "" }, "all verdicts"));
  if (states.length) only.append(element("option", { value: states.join(" ") }, "violations"));
  for (const state of states) only.append(element("option", { value: state }, state));
  const input = columns.find((column) => column.name === "input");
  const from = element("select", { id: "from", "aria-label": "Input" }, element("option", { value: "" }, "all inputs"));
  for (const name of input ? new Set(Array.from({ length: count }, (_, i) => input.at_(i))) : [])
    from.append(element("option", { value: name }, name));
  const told = element("span", { id: "told", class: "quiet", "aria-live": "polite" });
  const tools = element("div", { class: "tools" }, filter, ...(states.length ? [only] : []), ...(input ? [from] : []), told);
  const more = element("button", { type: "button", class: "more" });
  more.addEventListener("click", extend);
  table.parentElement.before(tools);
  table.parentElement.after(more);
  const words = columns.filter((column) => column.form === "text" && column.shown);
  let texts = null;
  const narrow = () => {
    const asked = filter.value.toLowerCase().split(/\s+/).filter((word) => word);
    if (asked.length) texts ||= Array.from({ length: count }, (_, i) =>
      words.map((column) => column.at_(i)).join(" ").toLowerCase());
    const kinds = only.value.split(" ");
    visible = order.filter((i) => asked.every((word) => texts[i].includes(word)) &&
      (!only.value || kinds.includes(verdict.at_(i))) && (!from.value || input.at_(i) === from.value));
    limit = PAGE;
    draw();
  };
  for (const field of [filter, only, from]) field.addEventListener("input", narrow);

  // An opened row
  const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(4)).toString());
  const figure = (title, inside) => element("figure", {},
    element("svg:svg", { viewBox: "0 0 360 140", role: "img", "aria-label": title }, ...inside),
    element("figcaption", {}, title));
  const LEFT = 34, WIDTH = 322, TOP = 6, BASE = 110;
  const text = (x, y, anchor, words) => element("svg:text", { x, y, "text-anchor": anchor }, words);
  const line = (kind, x1, y1, x2, y2) => element("svg:line", { class: kind, x1, y1, x2, y2 });
  // Bars of equal width; height gives a share of the height, ticks are [value, label] of the vertical axis.
  const bars = (values, height, ticks, label) => [
    ...ticks.flatMap(([value, words]) => {
      const y = BASE - (BASE - TOP) * height(value);
      return [line("rule", LEFT, y, LEFT + WIDTH, y), text(LEFT - 4, y + 4, "end", words)];
    }),
    ...values.map((value, i) => {
      const size = value ? Math.max((BASE - TOP) * height(value), 0.7) : 0;
      const width = WIDTH / values.length;
      return element("svg:rect", { class: "bar", x: (LEFT + i * width).toFixed(2), y: (BASE - size).toFixed(2),
        width: Math.max(width - 0.4, 0.4).toFixed(2), height: size.toFixed(2) }, element("svg:title", {}, label(i, value)));
    }),
    line("rule", LEFT, BASE, LEFT + WIDTH, BASE),
  ];
  const histogram = (title, [low, high, counts], unit, marks) => {
    const top = Math.max(...counts, 1);
    const height = (value) => Math.log1p(value) / Math.log1p(top);
    const powers = [1, 100, 1e4, 1e6, 1e8, 1e10, 1e12].filter((power) => power <= top);
    const edge = (i) => number((low + ((high - low) * i) / counts.length) / unit);
    const x = (value) => LEFT + (WIDTH * (value - low)) / (high - low || 1);
    return figure(title, [
      ...bars(counts, height, powers.map((power) => [power, power < 1e4 ? power : `1e${Math.log10(power)}`]),
        (i, value) => `${edge(i)} to ${edge(i + 1)}: ${value.toLocaleString("en")}`),
      ...marks(x), text(LEFT, BASE + 26, "start", edge(0)), text(LEFT + WIDTH, BASE + 26, "end", edge(counts.length)),
    ]);
  };
  const clippedShare = (index) => columns.find((column) => column.name === "clipped_fraction")?.at_(index);
  const drawn = (index) => {
    const tensor = grid.details?.[index];
    if (!tensor) return [];
    const found = [], { step, codes, range, slices = 1 } = tensor; // no grid where two checkpoints were compared
    const whose = slices === 1 ? "" : ` of the widest of ${many(slices, "ranges")}`;
    if (tensor.values) {
      const [low, high] = tensor.values, clipped = clippedShare(index);
      const inside = (x) => x >= LEFT - 1 && x <= LEFT + WIDTH + 1;
      const hasLevels = step && codes[1] - codes[0] <= 64;
      const says = !range ? "" : `; dashed: the range${whose}${hasLevels ? `; ticks: the ${codes[1] - codes[0] + 1} levels` : ""}` +
        (clipped ? `; clipped: ${percent(clipped)}` : "");
      found.push(histogram(`Weights, log scale${says}`, tensor.values, 1, (x) => !range ? [] : [
        ...(hasLevels ? Array.from({ length: codes[1] - codes[0] + 1 }, (_, k) => x((codes[0] + k) * step)) : [])
          .filter(inside).map((at) => line("level", at, BASE, at, BASE + 9)),
        ...[[low, range[0]], [range[1], high]].filter(([a, b]) => clipped && b > a).map(([a, b]) =>
          element("svg:rect", { class: "clipped", x: x(a), y: TOP, width: x(b) - x(a), height: BASE - TOP })),
        ...range.map(x).filter(inside).map((at) => line("mark", at, TOP, at, BASE)),
      ]));
      found.push(histogram(step ? `Errors e = y - x in steps${whose}, log scale; one step is ${number(step)}`
        : "Errors e = y - x, log scale", tensor.errors, step || 1, (x) =>
        (step ? [-step / 2, step / 2] : [0]).map(x).filter(inside).map((at) => line("mark", at, TOP, at, BASE))));
    }
    if (tensor.channels) {
      const { step: every, rmse, count: all } = tensor.channels, top = Math.max(...rmse, 0) || 1;
      found.push(figure(`RMSE by channel or group${every > 1 ? `: the worst of each ${every}` : ""}`, [
        ...bars(rmse, (value) => value / top, [[top, number(top)]], (i, value) => `${i * every}: ${value ?? "no number"}`),
        text(LEFT, BASE + 26, "start", 0), text(LEFT + WIDTH, BASE + 26, "end", all - 1),
      ]));
    }
    return found;
  };
  const detail = (index) => {
    const facts = element("dl", { class: "facts" }, ...hidden.map((column) => element("div", { class: column.form },
      element("dt", {}, column.title), element("dd", {}, show(column.form, column.at_(index))))));
    const pictures = drawn(index);
    const said = pictures.length ? element("div", { class: "pictures" }, ...pictures)
      : grid.details ? element("p", { class: "quiet" }, "For pictures of it measure with --histograms --per-channel.") : "";
    return element("tr", { class: "more" }, element("td", { colspan: shown.length }, element("div", {}, said, facts)));
  };

  // Opens a row from elsewhere: a chart, a cell of the matrix, the page's address.
  const open = (index) => {
    if (visible.indexOf(index) < 0 || visible.indexOf(index) >= limit) {
      [filter, only, from].forEach((field) => { field.value = ""; });
      filter.value = String(first.at_(index));
      narrow();
    }
    if (visible.indexOf(index) < 0) { filter.value = ""; narrow(); }
    const row = document.getElementById(`t${index}`);
    if (!row) return;
    if (opens && !opened.has(index)) toggle(index);
    (row.querySelector("button") || row).focus();
    row.scrollIntoView({ block: "center" });
  };
  const follow = () => {
    const found = /^#t(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < count) open(Number(found[1]));
  };
  const sqnr = columns.find((column) => column.name === "sqnr_db");
  for (const chart of document.querySelectorAll("figure.layers")) {
    const plot = chart.querySelector("svg.plot"), tip = chart.querySelector(".tip");
    const [start, length, low, high] = ["first", "count", "low", "high"].map((key) => Number(chart.dataset[key]));
    const cursor = element("svg:circle", { class: "cursor", r: 6, cx: -99 });
    plot.append(cursor);
    let at = -1;
    const down = (i) => typeof sqnr.at_(i) === "number" ? (high - sqnr.at_(i)) / (high - low) : 0;
    const point = (i) => {
      at = i;
      cursor.setAttribute("cx", `${(100 * (i - start + 0.5)) / length}%`);
      cursor.setAttribute("cy", `${100 * down(i)}%`);
      const value = show("db", sqnr.at_(i)) + (typeof sqnr.at_(i) === "number" ? " dB" : "");
      const state = verdict && verdict.at_(i) ? `, ${verdict.at_(i)}` : "";
      tip.textContent = `${first.at_(i)}: ${value}${state}`;
      plot.setAttribute("aria-valuenow", i - start + 1);
      plot.setAttribute("aria-valuetext", tip.textContent);
    };
    const near = (event) => {
      const box = plot.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
      const around = Math.ceil((8 * length) / box.width), middle = Math.floor(x * length);
      let best = -1, least = Infinity;
      for (let i = Math.max(middle - around, 0); i <= Math.min(middle + around, length - 1); i++) {
        const far = Math.hypot(((i + 0.5) / length - x) * box.width, (down(start + i) - y) * box.height);
        if (far < least) [best, least] = [start + i, far];
      }
      return best;
    };
    const label = plot.getAttribute("aria-label");
    for (const [key, value] of Object.entries({ role: "slider", tabindex: 0, "aria-valuemin": 1, "aria-valuemax": length,
      "aria-valuenow": 1, "aria-label": `${label}; arrow keys go through them, Enter opens one` })) plot.setAttribute(key, value);
    plot.addEventListener("mousemove", (event) => { const i = near(event); if (i >= 0) point(i); });
    plot.addEventListener("click", (event) => { const i = near(event); if (i >= 0) { point(i); open(i); } });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      if (step) point(Math.min(Math.max((at < start ? start - 1 : at) + step, start), start + length - 1));
      else if (event.key === "Home") point(start);
      else if (event.key === "End") point(start + length - 1);
      else if (event.key === "Enter" && at >= start) open(at);
      else return;
      event.preventDefault();
    });
  }
  // A grid: Tab comes to one cell, arrow keys go on from it, Enter or a click shows its tensors.
  for (const matrix of document.querySelectorAll("table.matrix")) {
    const choose = (cell) => {
      if (!cell.dataset.words) return;
      filter.value = cell.dataset.words;
      narrow();
      tools.scrollIntoView({ block: "start" });
    };
    matrix.setAttribute("role", "grid");
    [...matrix.querySelectorAll("td[data-words]")].forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
    matrix.addEventListener("click", (event) => choose(event.target));
    matrix.addEventListener("keydown", (event) => {
      const [across, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] || [0, 0];
      if (event.key === "Enter" || event.key === " ") choose(event.target);
      else if (across || down) {
        const rows = matrix.tBodies[0].rows;
        let x = event.target.cellIndex, y = event.target.parentElement.sectionRowIndex, cell;
        do cell = rows[y += down]?.cells[x += across]; while (cell && !cell.dataset.words);
        if (cell) { event.target.tabIndex = -1; cell.tabIndex = 0; cell.focus(); }
      } else return;
      event.preventDefault();
    });
  }
  addEventListener("beforeprint", () => { limit = Math.max(limit, MOST_PRINTED); draw(); });
  addEventListener("hashchange", follow);
  draw();
  addEventListener("load", () => setTimeout(follow)); // after the browser's own way to the anchor, which takes the focus
})();
