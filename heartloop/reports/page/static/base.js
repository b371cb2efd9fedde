/* What all pages share: elements, figures, marks, colours, tables, packed data. Texts go into text nodes alone;
   nothing here or in the other scripts makes markup from text. */
"use strict";
const HL = {
  before: Promise.resolve(), // what a page does first: the chart library, 5 MB to compile, waits for it
};

/* An element. `props`: class, text, on (listeners by event), data, and attributes; children: elements or texts. */
HL.el = (tag, props = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === "data") Object.assign(made.dataset, value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) made.append(child);
  }
  return made;
};

/* A text as the page has it: the same as shown() of heartloop/reports/page/text.py, so that an id in an address is found. */
HL.shown = (text) => (text.toWellFormed?.() ?? text)
  .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCodePoint(0x2400 + c.codePointAt(0))).replaceAll("\u007f", "\u2421")
  .replace(/[\u0080-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);

HL.fmt = {
  none: "–",
  percent: (x, digits = 1) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(digits)}%`),
  count: (x) => (x === null || x === undefined ? "–" : Math.round(x).toLocaleString("en-US")),
  compact: (x) => (x === null || x === undefined ? "–"
    : new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(x)),
  usd: (x) => (x === null || x === undefined ? "–"
    : x >= 10 || x === 0 ? `$${x.toFixed(2)}` : `$${Number(x.toPrecision(4))}`),
  seconds: (s) => {
    if (s === null || s === undefined) return "–";
    if (s < 10) return `${s.toFixed(1)} s`;
    if (s < 120) return `${Math.round(s)} s`;
    const m = Math.round(s / 60);
    return m < 120 ? `${m} min` : `${Math.floor(m / 60)} h ${m % 60} min`;
  },
};

/* ✓ right, ✗ wrong, ? unknown; `words` as well as the sign. */
HL.mark = (correct, words = true) => {
  const [name, sign] = correct === true ? ["right", "✓"] : correct === false ? ["wrong", "✗"] : ["unknown", "?"];
  return HL.el("span", { class: name, title: name, text: words ? `${sign} ${name}` : sign,
    ...(words ? {} : { role: "img", "aria-label": name }) });
};

HL.EMOTIONS = ["happiness", "surprise", "sadness", "fear", "anger", "disgust"];

/* A cue's emotion; its affect-free twin has a dashed border. */
HL.chip = (emotion, affective = true) => {
  const known = HL.EMOTIONS.includes(emotion);
  return HL.el("span", {
    class: `chip ${known && affective ? emotion : ""} ${affective ? "" : "twin"}`,
    text: emotion ? (affective ? emotion : `twin of ${emotion}`) : "no emotion",
  });
};

/* --- light, dark, or as the system has it ------------------------------------------------------------------- */
HL.theme = (() => {
  const names = ["auto", "light", "dark"], signs = { auto: "◐", light: "☀", dark: "☾" };
  let now = "auto";
  try { now = localStorage.getItem("heartloop-theme") || "auto"; } catch { /* storage is forbidden: not kept */ }
  if (!names.includes(now)) now = "auto";
  const set = (name) => {
    now = name;
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = signs[name];
      button.setAttribute("aria-label", `Colours: ${name === "auto" ? "as the system has them" : name}`);
    }
    try { localStorage.setItem("heartloop-theme", name); } catch { /* as above */ }
    document.dispatchEvent(new CustomEvent("hl:theme"));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (now === "auto") document.dispatchEvent(new CustomEvent("hl:theme"));
  });
  return { set, next: () => set(names[(names.indexOf(now) + 1) % 3]), start: () => set(now), get now() { return now; } };
})();
HL.theme.start();
document.getElementById("theme")?.addEventListener("click", HL.theme.next);

/* A colour of the style sheet as it is in the present scheme. */
HL.colour = (name) => {
  const probe = HL.el("span", { hidden: true });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

/* --- tables that sort by a click on their heads; cells may say by what in data-v ------------------------------ */
HL.sortable = (table) => {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim() || head.colSpan > 1) return;
    const button = HL.el("button", { type: "button", class: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        const given = cell.dataset.v ?? cell.textContent;
        return given === "" || Number.isNaN(Number(given)) ? given : Number(given);
      };
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what has no figure comes last
        const order = typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
};
document.querySelectorAll("table.sortable").forEach(HL.sortable);

/* --- packed data: gzip in base64, in script elements that are data ------------------------------------------- */
HL.unpackText = async (text) => {
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const letters = atob(text);
    bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
HL.unpack = async (id) => JSON.parse(await HL.unpackText(document.getElementById(id).textContent.trim()));

HL.debounce = (act, wait) => {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => act(...given), wait); };
};
