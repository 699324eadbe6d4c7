"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const slider = document.getElementById("step");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const { lines: LINES, stacked: STACKED, ordered: ORDERED, images: IMAGES } = data.colours;
  const theme = () => data.colours[dark.matches ? "dark" : "light"];
  const redraws = [];
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // --- numbers ---------------------------------------------------------------------------------------

  function unpack(packed) {
    const text = atob(packed.float32 ?? packed.uint16);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const view = new DataView(bytes.buffer);
    if (packed.float32 !== undefined) {
      return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
    }
    return Float32Array.from({ length: bytes.length / 2 }, (_, i) => {
      const whole = view.getUint16(2 * i, true);
      return whole === 65535 ? NaN : packed.low + whole * packed.scale;
    });
  }

  function say(value) {
    if (Number.isNaN(value)) return "none";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(3).replace("e+", "e").replace("-", "−");
    return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 }).replace("-", "−");
  }

  // In a few characters, to one significant digit at least: 1234, 56.7, 0.89, 0.012, 3e−5.
  function short(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 9.5e-4 || size >= 1e5)) return value.toExponential(0).replace("e+", "e").replaceAll("-", "−");
    return value.toFixed(size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.0995 ? 2 : 3).replace("-", "−");
  }

  function range(arrays) {
    let low = Infinity, high = -Infinity;
    for (const array of arrays) {
      for (const value of array) {
        if (!Number.isFinite(value)) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    return low <= high ? [low, high] : [0, 1];
  }

  function ticks(low, high, most) {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) found.push(Math.abs(t) < step / 1e6 ? 0 : t);
    return found;
  }

  function decades(low, high, most) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / most));
    const found = [];
    for (let e = first; e <= last; e += every) found.push(10 ** e);
    return found.length > 1 ? found : ticks(low, high, most).filter((t) => t > 0);
  }

  const sayTick = (t) => {
    const e = Math.log10(Math.abs(t));
    const small = "⁰¹²³⁴⁵⁶⁷⁸⁹";
    if (t > 0 && Math.abs(e - Math.round(e)) < 1e-9 && (e < -2.5 || e > 4.5)) {
      return "10" + String(Math.round(e)).replace("-", "⁻").replace(/\d/g, (d) => small[d]);
    }
    return say(t);
  };

  // --- drawing ---------------------------------------------------------------------------------------

  function element(kind, parent, properties = {}, text = "") {
    const made = document.createElement(kind);
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  }

  // Sizes a canvas in CSS pixels, sharp on any screen, and gives its cleared context.
  function prepare(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    return context;
  }

  function write(context, text, x, y, align = "center", baseline = "middle", colour = ink("faint")) {
    context.fillStyle = colour;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.fillText(text, x, y);
  }

  const parse = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const rgb = (table, place) => `rgb(${table.subarray(3 * Math.round(place), 3 * Math.round(place) + 3).join(" ")})`;

  function colours(anchors) {
    const parsed = anchors.map(parse);
    const table = new Uint8ClampedArray(256 * 3);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (parsed.length - 1);
      const before = Math.min(Math.floor(place), parsed.length - 2);
      for (let c = 0; c < 3; c++) table[3 * i + c] = parsed[before][c] + (place - before) * (parsed[before + 1][c] - parsed[before][c]);
    }
    return table;
  }

  function showTip(event, text) {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const beyond = event.clientX + 14 + width > innerWidth - 6;
    tip.style.left = `${Math.max(6, beyond ? event.clientX - width - 14 : event.clientX + 14)}px`;
    tip.style.top = `${Math.max(6, Math.min(event.clientY + 14, innerHeight - height - 6))}px`;
  }

  const brief = (text) => (text.length > 26 ? `${text.slice(0, 14)}…${text.slice(-11)}` : text);

  function hover(canvas, textAt) {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const text = textAt(event.clientX - box.left, event.clientY - box.top);
      if (text) showTip(event, text);
      else tip.hidden = true;
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  // How many panels go beside each other so that none is narrower than the least and rows are even.
  function balanced(count, width, least) {
    const most = Math.max(1, Math.floor((width + 20) / (least + 20)));
    return Math.ceil(count / Math.ceil(count / most));
  }

  // The last frame at or before the step chosen; the first where all come after it.
  function frameAt(steps) {
    if (steps.length === 1 || !slider) return steps.length - 1;
    const step = data.steps[slider.value];
    let frame = 0;
    while (frame + 1 < steps.length && steps[frame + 1] <= step) frame++;
    return frame;
  }

  function stateLine(body, steps) {
    if (steps.length < 2) return () => {};
    const line = element("p", body, { class: "state" });
    return (frame) => { line.textContent = `state at step ${steps[frame].toLocaleString("en")}`; };
  }

  // --- blocks ----------------------------------------------------------------------------------------

  function lines(body, block, title) {
    const x = unpack(block.x), count = x.length, { levels } = block;
    const shades = block.spans.filter((span) => span[3] === null), plateaus = block.spans.filter((span) => span[3] !== null);
    const ordered = colours(ORDERED), last = Math.max(1, ...block.series.map((one) => one.colour - 2));
    const colourOf = (number, i) => {
      if (block.stacked) return STACKED[i % STACKED.length];
      if (block.ordered && number > 1) return rgb(ordered, (255 * (number - 2)) / last);
      return LINES[number < LINES.length ? number : 2 + ((number - 2) % (LINES.length - 2))];
    };
    const series = block.series.map((packed, i) => {
      const values = unpack(packed);
      const [low, middle, high] = [0, 1, 2].map((part) => values.subarray(part * count, (part + 1) * count));
      return { name: packed.name, low, middle, high, lanes: packed.lanes, colour: colourOf(packed.colour, i), shown: true };
    });
    const behind = block.behind.map(unpack);
    if (series.length > 1) {
      const legend = element("div", body, { class: "legend" });
      for (const one of series) {
        const button = element("button", legend, { type: "button", "aria-pressed": "true" });
        element("i", button).style.background = one.colour;
        button.append(one.name);
        button.addEventListener("click", () => {
          one.shown = !one.shown;
          button.setAttribute("aria-pressed", one.shown);
          draw();
        });
      }
    }
    const canvas = element("canvas", body, { role: "img", "aria-label": `${title}: ${series.map((s) => s.name).join(", ")}` });
    if (shades.length) {
      const names = element("div", body, { class: "kinds" });
      shades.forEach(([, , name], i) => {
        const one = element("span", names);
        element("i", one, { class: "shade" }).style.opacity = i % 2 ? 0.55 : 1;
        one.append(name);
      });
    }
    let place = null;

    function draw() {
      const width = Math.max(280, body.clientWidth), height = Math.min(340, Math.max(220, width * 0.42));
      const context = prepare(canvas, width, height);
      const left = 58, right = width - 26, top = 14, bottom = height - 38;
      const shown = series.filter((s) => s.shown);
      const drawn = (v) => Number.isFinite(v) && !(block.log_y && v <= 0);
      const tops = block.stacked ? stack(shown) : shown.map((s) => s.middle);
      let [low, high] = block.ylim ?? range([...shown.flatMap((s) => [s.low, s.high]), ...behind].map((a) => a.filter(drawn)));
      if (low === high) [low, high] = block.log_y ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
      if (!block.ylim) {
        const pad = block.log_y ? Math.pow(high / low, 0.04) : 0.04 * (high - low);
        [low, high] = block.log_y ? [low / pad, high * pad] : [low - pad, high + pad];
      }
      const f = block.log_y ? Math.log : (v) => v, begin = x[0], end = x[count - 1], log = block.log_x;
      // A logarithmic axis that begins at 0 is linear up to the next step.
      const across = (v) => {
        if (!log) return (v - begin) / (end - begin || 1);
        return v < log.from && log.start ? (log.start * v) / log.from : log.start + ((1 - log.start) * Math.log(v / log.from)) / Math.log(end / log.from);
      };
      const px = (v) => left + across(v) * (right - left);
      const py = (v) => bottom - ((f(v) - f(low)) / (f(high) - f(low))) * (bottom - top);

      shades.forEach(([start, stop, name], i) => {
        context.fillStyle = ink("shade");
        context.globalAlpha = i % 2 ? 0.55 : 1;
        const a = Math.max(left, px(start)), b = Math.min(right, px(stop));
        context.fillRect(a, top, b - a, bottom - top);
        context.globalAlpha = 1;
        const brief = name.split(",")[0];
        if (b - a > context.measureText(brief).width + 6) write(context, brief, (a + b) / 2, top + 9);
      });
      context.strokeStyle = ink("rule");
      context.lineWidth = 1;
      for (const t of block.log_y ? decades(low, high, 7) : ticks(low, high, 6)) {
        context.beginPath(); context.moveTo(left, py(t)); context.lineTo(right, py(t)); context.stroke();
        write(context, sayTick(t), left - 6, py(t), "right");
      }
      for (const t of log ? [...(log.start ? [0] : []), ...decades(log.from, end, width / 90)] : ticks(begin, end, width / 110)) {
        write(context, sayTick(t), px(t), bottom + 12);
      }
      write(context, block.axis, (left + right) / 2, height - 7);
      context.save();
      context.translate(9, (top + bottom) / 2);
      context.rotate(-Math.PI / 2);
      write(context, block.ylabel, 0, 0);
      context.restore();

      context.save();
      context.beginPath(); context.rect(left, top - 2, right - left, bottom - top + 4); context.clip();
      const path = (values) => {
        context.beginPath();
        for (let t = 0; t < count; t++) if (drawn(values[t])) context.lineTo(px(x[t]), py(values[t]));
        context.stroke();
      };
      context.lineWidth = 0.5;
      context.globalAlpha = 0.45;
      context.strokeStyle = LINES[0];
      behind.forEach(path);
      context.globalAlpha = 1;
      context.lineJoin = "round";
      shown.forEach((one, i) => {
        const known = [];
        for (let t = 0; t < count; t++) if (drawn(tops[i][t])) known.push(t);
        context.fillStyle = context.strokeStyle = one.colour;
        if (block.stacked) {
          const under = i ? tops[i - 1] : null;
          context.beginPath();
          for (const t of known) context.lineTo(px(x[t]), py(tops[i][t]));
          for (const t of [...known].reverse()) context.lineTo(px(x[t]), py(under ? under[t] : 0));
          context.fill();
          return;
        }
        if (one.lanes > 1 && known.length) {
          context.globalAlpha = 0.18;
          context.beginPath();
          for (const t of known) context.lineTo(px(x[t]), py(one.high[t]));
          for (const t of [...known].reverse()) context.lineTo(px(x[t]), py(Math.max(one.low[t], block.log_y ? low : -Infinity)));
          context.fill();
          context.globalAlpha = 1;
        }
        context.lineWidth = 1.6;
        path(one.middle);
        if (known.length === 1) {
          context.beginPath(); context.arc(px(x[known[0]]), py(one.middle[known[0]]), 3, 0, 7); context.fill();
        }
      });
      let above = -Infinity;
      for (const [value, name] of [...levels].sort((a, b) => b[0] - a[0])) {
        if (!(value > low && value < high)) continue;
        const y = py(value), close = y - above < 12;
        context.strokeStyle = ink("faint");
        context.lineWidth = 0.8;
        context.setLineDash([4, 3]);
        context.beginPath(); context.moveTo(left, y); context.lineTo(right, y); context.stroke();
        context.setLineDash([]);
        write(context, `${name} ${say(Number(value.toPrecision(3)))}`, left + 4, y + (close ? 7 : -6), "left");
        above = close ? -Infinity : y;
      }
      for (const [start, stop, name, level] of plateaus) {
        const [a, b] = [px(Math.max(start, begin)), px(stop)];
        context.strokeStyle = ink("test");
        context.globalAlpha = 0.6;
        context.lineWidth = 5;
        context.beginPath(); context.moveTo(a, py(level)); context.lineTo(b, py(level)); context.stroke();
        context.globalAlpha = 1;
        const half = context.measureText(name).width / 2;
        write(context, name, Math.min(Math.max((a + b) / 2, left + half), right - half), py(level) + 11, "center", "middle", ink("test"));
      }
      context.restore();
      if (slider) {
        const at = px(data.steps[slider.value]);
        if (at >= left && at <= right) {
          context.strokeStyle = ink("faint");
          context.lineWidth = 1;
          context.setLineDash([3, 3]);
          context.beginPath(); context.moveTo(at, top); context.lineTo(at, bottom); context.stroke();
          context.setLineDash([]);
        }
      }
      place = { left, right, top, bottom, px };
    }

    function stack(shown) {
      let under = new Float32Array(count);
      return shown.map((one) => (under = one.middle.map((value, t) => value + under[t])));
    }

    hover(canvas, (mouseX, mouseY) => {
      if (!place || mouseX < place.left - 4 || mouseX > place.right + 4 || mouseY < place.top || mouseY > place.bottom) return "";
      let near = 0, best = Infinity;
      for (let t = 0; t < count; t++) {
        const away = Math.abs(place.px(x[t]) - mouseX);
        if (away < best) [near, best] = [t, away];
      }
      const rows = series.filter((s) => s.shown).map((s) => {
        // What is measured now and then is shown as of the last time.
        let t = near;
        while (t > 0 && Number.isNaN(s.middle[t])) t--;
        const spread = s.lanes > 1 ? `  (${say(s.low[t])} to ${say(s.high[t])})` : "";
        return `${s.name}  ${say(s.middle[t])}${spread}`;
      });
      const inside = shades.filter(([start, stop]) => start <= x[near] && x[near] <= stop).map(([, , name]) => name).slice(-1);
      return [`${block.xlabel} ${x[near].toLocaleString("en")}`, ...rows, ...inside].join("\n");
    });
    redraws.push(draw);
  }

  function heatMaps(body, block, title) {
    const { steps, row_labels: rows, column_labels: columns, marks, levels, categories } = block;
    const panels = block.frames.map((packed) => ({ name: packed.name, values: unpack(packed), shape: packed.shape }));
    const [, R, C] = panels[0].shape, plain = !rows.length && !columns.length;
    const scaleOf = (arrays) => {
      let [low, high] = range(arrays);
      if (block.log) {
        const positive = range(arrays.map((a) => a.filter((v) => v > 0)));
        high = positive[1] > 0 ? positive[1] : 1;
        low = Math.max(positive[0] > 0 ? positive[0] : high / 10, high * 1e-6);
        if (low === high) low = high / 10;
      } else if (block.limits) [low, high] = block.limits;
      else if (block.diverging) [low, high] = [-1, 1].map((s) => s * (Math.max(Math.abs(low), Math.abs(high)) || 1));
      else low = Math.min(0, low);
      if (low === high) high = low + 1;
      // Where on the scale of colours a value is, 0 to 1.
      const shade = (value) => {
        const within = Math.max(low, Math.min(high, value));
        if (block.log) return Math.log(within / low) / Math.log(high / low);
        if (block.diverging) return (1 + Math.sign(within) * Math.pow(Math.abs(within) / high, block.power)) / 2;
        return Math.pow((within - low) / (high - low), block.power);
      };
      const valueAt = (place) => {
        if (block.log) return low * Math.pow(high / low, place);
        if (block.diverging) return Math.sign(place - 0.5) * high * Math.pow(Math.abs(2 * place - 1), 1 / block.power);
        return low + (high - low) * Math.pow(place, 1 / block.power);
      };
      return { low, high, shade, valueAt };
    };
    const shared = block.separate ? null : scaleOf(panels.map((p) => p.values));
    const state = stateLine(body, steps);
    const holder = element("div", body, { class: "panels" });
    for (const panel of panels) {
      panel.scale = shared ?? scaleOf([panel.values]);
      const figure = element("figure", holder);
      panel.canvas = element("canvas", figure, { role: "img", "aria-label": `${title}, ${panel.name}: ${R} by ${C}` });
      panel.caption = element("figcaption", figure, {}, panels.length === 1 && !block.separate ? "" : panel.name);
      if (block.separate) panel.caption.append(`, ${say(panel.scale.low)} to ${say(panel.scale.high)}`);
      panel.image = document.createElement("canvas");
      [panel.image.width, panel.image.height] = [C, R];
      hover(panel.canvas, (mouseX, mouseY) => {
        if (!panel.place) return "";
        const { left, top, cellWidth, cellHeight } = panel.place;
        const c = Math.floor((mouseX - left) / cellWidth), r = Math.floor((mouseY - top) / cellHeight);
        if (c < 0 || c >= C || r < 0 || r >= R) return "";
        const value = panel.values[(frameAt(steps) * R + r) * C + c];
        const named = (axis, label) => (axis ? `${axis} ${label}` : label);
        const what = categories.length ? categories[value] ?? "none" : say(value);
        const lines = plain ? [what] : [named(block.ylabel, rows[r]), named(block.xlabel.split(";")[0], columns[c]), what];
        return [panel.name, ...lines].join("\n");
      });
    }
    let bar = null;
    if (categories.length) {
      const legend = element("div", body, { class: "kinds" });
      categories.forEach((name, i) => {
        const one = element("span", legend);
        element("i", one, { "data-kind": i });
        const count = element("span", one);
        one.append(` ${name}`);
        count.className = "count";
      });
    } else if (shared && !plain) {
      const scale = element("div", body, { class: "scale" });
      bar = element("canvas", scale, { "aria-hidden": "true" });
      const unit = block.unit + levels.map(([value, name]) => `; line: ${name}, ${say(value)}`).join("");
      if (unit) element("span", scale, {}, unit);
    }

    // Names every label, or every second, third … where there is no room.
    function label(context, labels, room, at) {
      if (marks.length) {
        // Those that would run into each other share a label.
        let group = [];
        for (const mark of [...marks, null]) {
          if (group.length && (!mark || (mark[0] - group.at(-1)[0]) * room.cell < room.mark)) {
            if (mark) { group.push(mark); continue; }
          }
          if (group.length) at(group.map(([, name]) => name).join(", "), group.reduce((sum, [place]) => sum + place, 0) / group.length);
          group = [mark];
        }
        return;
      }
      const every = Math.max(1, Math.ceil(labels.length / Math.max(1, Math.floor((labels.length * room.cell) / room.each))));
      for (let i = 0; i < labels.length; i += every) at(brief(labels[i]), i);
    }

    function drawScale(table) {
      const width = 250, context = prepare(bar, width, 30);
      for (let i = 0; i < 200; i++) {
        context.fillStyle = rgb(table, (i / 199) * 255);
        context.fillRect(20 + i, 0, 1, 10);
      }
      const { low, high, shade, valueAt } = shared;
      const middle = block.diverging ? 0 : valueAt(0.5);
      for (const value of [low, Number(middle.toPrecision(2)), high]) write(context, short(value), 20 + 199 * shade(value), 20);
      context.strokeStyle = ink("ink");
      for (const [value] of levels) {
        const at = 20 + 199 * shade(value);
        context.beginPath(); context.moveTo(at, 0); context.lineTo(at, 12); context.stroke();
      }
    }

    function draw() {
      const frame = frameAt(steps), table = colours(plain ? IMAGES : block.diverging ? theme().diverging : theme().sequential), width = body.clientWidth;
      const { kinds } = theme();
      state(frame);
      if (bar) drawScale(table);
      const measure = prepare(document.createElement("canvas"), 1, 1);
      const widest = (labels) => Math.max(0, ...labels.map((text) => measure.measureText(brief(text)).width));
      const names = (labels) => (marks.length ? marks.map(([, name]) => name) : labels);
      const left = plain ? 1 : widest(names(rows)) + 8 + (block.ylabel ? 15 : 0);
      const columnWidth = widest(names(columns));
      const wanted = block.numbers ? C * 38 : plain ? 72 : C > 24 ? 200 : Math.max(C * 12, 110);
      const across = balanced(panels.length, width, left + wanted);
      const room = Math.min((width - 20 * (across - 1)) / across - 1, panels.length === 1 ? 600 : Infinity);
      const ratio = window.devicePixelRatio || 1;
      let cellWidth = Math.min((room - left) / C, plain ? 72 / C : C > 40 ? 8 : 44);
      if (C <= 40) cellWidth = Math.max(1, Math.floor(cellWidth * ratio) / ratio);
      const cellHeight = plain || C > 40 || (R === C && !block.numbers) ? cellWidth : Math.min(cellWidth, 20);
      const turned = !marks.length && columnWidth + 4 > cellWidth && columnWidth > 14 && C <= 40;
      const bottom = plain ? 2 : (turned ? columnWidth + 6 : 16) + (block.xlabel ? 15 : 0);
      const absent = parse(ink("absent"));
      for (const panel of panels) {
        const w = left + C * cellWidth, h = 4 + R * cellHeight + bottom;
        const under = left + (C * cellWidth + measure.measureText(block.xlabel).width) / 2;
        const context = prepare(panel.canvas, Math.ceil(Math.max(w, under)) + 1, Math.ceil(h));
        const pixels = new ImageData(C, R), offset = frame * R * C;
        for (let i = 0; i < R * C; i++) {
          const value = panel.values[offset + i], k = 3 * Math.round(255 * panel.scale.shade(value));
          const colour = categories.length ? parse(kinds[value % kinds.length]) : [table[k], table[k + 1], table[k + 2]];
          pixels.data.set(Number.isNaN(value) ? absent : colour, 4 * i);
          pixels.data[4 * i + 3] = 255;
        }
        panel.image.getContext("2d").putImageData(pixels, 0, 0);
        context.imageSmoothingEnabled = false;
        context.drawImage(panel.image, left, 4, C * cellWidth, R * cellHeight);
        context.strokeStyle = ink("rule");
        context.strokeRect(left - 0.5, 3.5, C * cellWidth + 1, R * cellHeight + 1);
        panel.place = { left, top: 4, cellWidth, cellHeight };
        panel.caption.style.paddingLeft = `${left}px`;
        if (plain) {
          panel.canvas.parentElement.style.width = "96px";
          continue;
        }
        if (block.numbers && cellWidth >= 26) {
          context.font = "10px system-ui, sans-serif";
          for (let i = 0; i < R * C; i++) {
            const value = panel.values[offset + i];
            if (!Number.isFinite(value)) continue;
            const [r, g, b] = pixels.data.subarray(4 * i, 4 * i + 3);
            const colour = 0.3 * r + 0.59 * g + 0.11 * b < 128 ? "#ffffff" : "#222222";
            const text = Math.abs(value) < block.least ? "0" : short(value);
            write(context, text, left + ((i % C) + 0.5) * cellWidth, 4 + (Math.floor(i / C) + 0.5) * cellHeight, "center", "middle", colour);
          }
          context.font = "11px system-ui, sans-serif";
        }
        label(context, rows, { cell: cellHeight, each: R > 40 ? 34 : 11, mark: 11 }, (text, r) => write(context, text, left - 5, 4 + (r + 0.5) * cellHeight, "right"));
        label(context, columns, { cell: cellWidth, each: C > 40 ? columnWidth + 30 : turned ? 11 : columnWidth + 3, mark: 18 }, (text, c) => {
          context.save();
          context.translate(left + (c + 0.5) * cellWidth, 4 + R * cellHeight + 4);
          if (turned) context.rotate(-Math.PI / 2);
          write(context, text, 0, 0, turned ? "right" : "center", turned ? "middle" : "top");
          context.restore();
        });
        if (block.xlabel) write(context, block.xlabel, left + (C * cellWidth) / 2, h - 6);
        if (block.ylabel) {
          context.save();
          context.translate(7, 4 + (R * cellHeight) / 2);
          context.rotate(-Math.PI / 2);
          write(context, block.ylabel, 0, 0);
          context.restore();
        }
      }
      for (const swatch of body.querySelectorAll("[data-kind]")) {
        const kind = Number(swatch.dataset.kind);
        swatch.style.background = kinds[kind];
        let count = 0;
        for (const panel of panels) for (const value of panel.values.subarray(frame * R * C, (frame + 1) * R * C)) count += value === kind;
        swatch.nextElementSibling.textContent = count.toLocaleString("en");
      }
    }
    redraws.push(draw);
  }

  function bars(body, block, title) {
    const { steps, labels } = block, n = labels.length;
    const panels = block.frames.map((packed) => ({ name: packed.name, values: unpack(packed) }));
    let [low, high] = range(panels.map((p) => p.values));
    [low, high] = [Math.min(0, low), Math.max(0, high)];
    if (low === high) high = 1;
    const marked = new Set(block.highlight);
    const state = stateLine(body, steps);
    const holder = element("div", body, { class: "panels" });
    for (const panel of panels) {
      const figure = element("figure", holder);
      panel.canvas = element("canvas", figure, { role: "img", "aria-label": `${title}, ${panel.name}: ${n} bars` });
      element("figcaption", figure, {}, panel.name);
      hover(panel.canvas, (mouseX) => {
        const i = panel.place ? Math.floor((mouseX - panel.place.left) / panel.place.each) : -1;
        if (i < 0 || i >= n) return "";
        return `${panel.name}\n${block.xlabel.split(":")[0]} ${labels[i]}\n${say(panel.values[frameAt(steps) * n + i])}`;
      });
    }

    function draw() {
      const frame = frameAt(steps), width = body.clientWidth, left = block.ylabel ? 54 : 40;
      state(frame);
      const across = balanced(panels.length, width, Math.max(150, left + Math.min(n, 60) * 9));
      const each = Math.min(60, ((width - 20 * (across - 1)) / across - 1 - left) / n);
      const height = across === 1 ? 230 : 150, bottom = height - 32;
      for (const panel of panels) {
        const context = prepare(panel.canvas, left + n * each, height);
        const py = (v) => bottom - ((v - low) / (high - low)) * (bottom - 8);
        context.strokeStyle = ink("rule");
        for (const t of ticks(low, high, 4)) {
          context.beginPath(); context.moveTo(left, py(t)); context.lineTo(left + n * each, py(t)); context.stroke();
          write(context, sayTick(t), left - 5, py(t), "right");
        }
        if (block.ylabel) {
          context.save();
          context.translate(5, bottom / 2);
          context.rotate(-Math.PI / 2);
          write(context, block.ylabel, 0, 0);
          context.restore();
        }
        const every = Math.ceil(26 / each);
        for (let i = 0; i < n; i++) {
          const value = panel.values[frame * n + i];
          context.fillStyle = ink(marked.has(labels[i]) ? "test" : "train");
          if (Number.isFinite(value)) context.fillRect(left + (i + 0.1) * each, Math.min(py(value), py(0)), 0.8 * each, Math.abs(py(value) - py(0)));
          if (i % every === 0) write(context, labels[i], left + (i + 0.5) * each, bottom + 10);
        }
        write(context, block.xlabel, left + (n * each) / 2, height - 6);
        panel.place = { left, each };
      }
    }
    redraws.push(draw);
  }

  function histogram(body, block, title) {
    const { edges, threshold } = block, n = edges.length - 1;
    const series = block.counts.map((packed, i) => ({ name: packed.name, values: unpack(packed), number: i }));
    // What belongs to no kind is grey.
    const colourOf = (one) => (one.name.startsWith("none") ? ink("absent") : LINES[(one.number + 8) % LINES.length]);
    const legend = element("div", body, { class: "kinds" });
    for (const one of series) {
      const entry = element("span", legend);
      one.swatch = element("i", entry);
      entry.append(one.name);
    }
    const canvas = element("canvas", body, { role: "img", "aria-label": `${title}: ${series.map((s) => s.name).join(", ")}` });
    let place = null;

    function draw() {
      const width = Math.max(280, Math.min(760, body.clientWidth)), height = 250, left = 54, right = width - 12, bottom = height - 36, top = 8;
      const context = prepare(canvas, width, height);
      const totals = Array.from({ length: n }, (_, i) => series.reduce((sum, one) => sum + one.values[i], 0));
      const high = Math.max(1, ...totals) * 1.04;
      const px = (v) => left + ((v - edges[0]) / (edges[n] - edges[0])) * (right - left);
      const py = (v) => bottom - (v / high) * (bottom - top);
      context.strokeStyle = ink("rule");
      for (const t of ticks(0, high, 5)) {
        context.beginPath(); context.moveTo(left, py(t)); context.lineTo(right, py(t)); context.stroke();
        write(context, sayTick(t), left - 5, py(t), "right");
      }
      for (const t of ticks(edges[0], edges[n], 8)) write(context, sayTick(t), px(t), bottom + 11);
      for (let i = 0; i < n; i++) {
        let under = 0;
        for (const one of series) {
          context.fillStyle = colourOf(one);
          context.fillRect(px(edges[i]) + 0.5, py(under + one.values[i]), px(edges[i + 1]) - px(edges[i]) - 1, py(under) - py(under + one.values[i]));
          under += one.values[i];
        }
      }
      for (const one of series) one.swatch.style.background = colourOf(one);
      if (threshold !== null) {
        context.strokeStyle = ink("faint");
        context.setLineDash([4, 3]);
        context.beginPath(); context.moveTo(px(threshold), top); context.lineTo(px(threshold), bottom); context.stroke();
        context.setLineDash([]);
      }
      write(context, block.xlabel, (left + right) / 2, height - 7);
      context.save();
      context.translate(9, (top + bottom) / 2);
      context.rotate(-Math.PI / 2);
      write(context, block.ylabel, 0, 0);
      context.restore();
      place = { left, right };
    }

    hover(canvas, (mouseX) => {
      const i = place ? Math.floor(((mouseX - place.left) / (place.right - place.left)) * n) : -1;
      if (i < 0 || i >= n) return "";
      const rows = series.filter((one) => one.values[i]).map((one) => `${one.name.split(":")[0]}  ${say(one.values[i])}`);
      return [`${say(edges[i])} to ${say(edges[i + 1])}`, ...rows].join("\n");
    });
    redraws.push(draw);
  }

  // --- the page --------------------------------------------------------------------------------------

  const makers = { Lines: lines, HeatMaps: heatMaps, Bars: bars, Histogram: histogram };
  for (const body of document.querySelectorAll("[data-picture]")) {
    const picture = data.pictures[body.dataset.picture];
    makers[picture.kind](body, picture, body.dataset.title);
  }
  const redraw = () => {
    if (slider) {
      const step = data.steps[slider.value].toLocaleString("en");
      document.getElementById("shown").value = step;
      slider.setAttribute("aria-valuetext", `step ${step}`);
    }
    for (const draw of redraws) draw();
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; redraw(); });
  };
  if (slider) {
    slider.value = data.steps.length - 1; // A browser may remember another.
    const play = document.getElementById("play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶";
      play.setAttribute("aria-pressed", "false");
    };
    slider.addEventListener("input", () => { tip.hidden = true; soon(); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) === data.steps.length - 1) slider.value = 0;
      play.textContent = "❚❚";
      play.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        if (Number(slider.value) === data.steps.length - 1) stop();
        soon();
      }, Math.max(60, 8000 / data.steps.length));
    });
  }
  dark.addEventListener("change", soon);
  addEventListener("resize", soon);
  redraw();
})();
