"use strict";
// Lists what the tracker has. All text goes in through textContent and setAttribute; nothing is parsed as HTML.

const at = (id) => document.getElementById(id);
const host = location.hostname.replace(/^\[|\]$/g, "");
const port = location.port || "80";
let cursor = null;
let shown = 0;
let asked = 0;

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

// A shell takes it as one word.
function word(text) {
  return /^[\w@%+=:,./-]+$/.test(text) && !text.startsWith("-") ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// A name that ends like a version is asked for with its version; one that looks like a flag comes after `--`.
function command(item) {
  const name = /@\d{1,9}$/.test(item.name) ? `${item.name}@${item.version}` : item.name;
  return `obt get ${name.startsWith("-") ? "-- " : ""}${word(host)} ${port} ${word(name)}`;
}

function path(item) {
  return item.name.split("/").map(encodeURIComponent).join("/");
}

async function copy(button, text, label) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    // Without TLS browsers give no clipboard: the text is shown, to be copied by hand.
    prompt("Copy:", text);
    return;
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

function held(item) {
  if (item.holders > 0) return ["whole", item.holders === 1 ? "1 holder" : `${item.holders} holders`];
  if (item.downloaders > 0) return ["parts", `${item.downloaders} with parts`];
  return ["gone", "nobody has it"];
}

function row(item) {
  const node = at("item").content.cloneNode(true);
  const find = (selector) => node.querySelector(selector);
  const name = find(".name");
  name.textContent = item.name;
  name.href = `/files/${path(item)}`;
  const files = item.file_count === 1 ? "" : `, ${item.file_count} files`;
  find(".facts").textContent = `${size(item.size)}${files}, version ${item.version}, ${item.published_at.slice(0, 10)}`;
  const [kind, text] = held(item);
  find(".held").classList.add(kind);
  find(".count").textContent = text;
  const button = find(".copy");
  button.textContent = "copy get";
  button.title = command(item);
  button.addEventListener("click", () => copy(button, command(item), "copy get"));
  find(".torrent").href = `/items/${path(item)}.torrent`;
  const magnet = find(".magnet");
  magnet.addEventListener("click", async () => {
    const answer = await fetch(`/items/${path(item)}.magnet`);
    if (answer.ok) copy(magnet, (await answer.text()).trim(), "magnet");
  });
  return node;
}

async function ask(address) {
  const answer = await fetch(address);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? `HTTP ${answer.status}`);
  return body;
}

function problem(error) {
  at("problem").hidden = !error;
  at("problem").textContent = error ? `The tracker does not answer: ${error.message}` : "";
}

// `pages` of the list from the beginning, or one more page.
async function load({ more = false, pages = 1 } = {}) {
  const turn = (asked += 1);
  const text = at("search").value.trim();
  const rows = [];
  let next = more ? cursor : null;
  try {
    for (let page = 0; page < pages; page += 1) {
      const query = new URLSearchParams({ q: text, limit: "100" });
      if (next) query.set("cursor", next);
      const body = await ask(`/api/v1/items?${query}`);
      if (turn !== asked) return;
      rows.push(...body.items.map(row));
      next = body.cursor ?? null;
      if (!next) break;
    }
  } catch (error) {
    if (turn === asked) problem(error);
    return;
  }
  problem(null);
  const list = at("items");
  if (!more) { list.replaceChildren(); shown = 0; }
  shown += rows.length;
  list.append(...rows);
  cursor = next;
  at("more").hidden = !cursor;
  at("none").hidden = shown > 0;
  at("none").textContent = text ? `No name matches “${text}”.` : "Nothing is shared here yet.";
}

async function numbers() {
  try {
    const { names, leases, swarms } = await ask("/api/v1/status");
    const count = (number, one) => `${number.toLocaleString()} ${one}${number === 1 ? "" : "s"}`;
    at("numbers").textContent = [count(names, "item"), count(leases, "peer"), count(swarms, "swarm")].join(", ");
  } catch { /* The list says what is wrong. */ }
}

let due = null;
function soon(wait) {
  if (due) return;
  due = setTimeout(() => {
    due = null;
    if (!document.hidden) { load({ pages: Math.max(1, Math.ceil(shown / 100)) }); numbers(); }
  }, wait);
}

at("place").textContent = `at ${location.host}`;
at("share").textContent = `obt share --tracker ${host.includes(":") ? `[${host}]` : host}:${port} FILE`;
at("more").addEventListener("click", () => load({ more: true }));
let typing = null;
at("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => load(), 150); });
const changes = new EventSource("/api/v1/events");
for (const name of ["published", "withdrawn", "swarm"]) changes.addEventListener(name, () => soon(1000));
document.addEventListener("visibilitychange", () => soon(100));
load();
numbers();
